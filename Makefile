# `make demo` and `make test` need Python >= 3.11 and make, and touch nothing outside this folder.
# PYTHON=python3.12 make test   does the same on the newest jax.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv/$(VERSION)
BIN := $(VENV)/bin
COMPILERS := $(abspath $(VENV))/compilers
# An interpreter that the newest jax runs on, where there is one.
NEWEST := $(shell for python in python3.13 python3.12 $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.1[23].*/bin/python3; do \
	$$python -c '' 2>/dev/null && echo $$python && break; done)
SOURCES := setup.py constraints.txt kernels/setup.py $(shell find bdgf_jax configs kernels/bdgf_kernels -name '*.py' -o -name '*.j2' -o -name '*.css' -o -name '*.js' -o -name '*.json')

.PHONY: demo test suite fast lint soak install compilers clean

demo: install
	$(BIN)/bdgf run --config demo --workdir runs/demo

test: lint suite
	@if [ -z "$(NEWEST)" ]; then \
		echo "No Python 3.12 or newer was found: the fast part on the newest jax is left out."; \
	elif [ "$(VERSION)" = "3.11" ]; then \
		$(MAKE) --no-print-directory fast PYTHON=$(NEWEST); \
	fi

suite: install compilers
	PYTHONPATH=$(COMPILERS) $(BIN)/python -m pytest -n 2 --dist loadfile

fast: install compilers
	PYTHONPATH=$(COMPILERS) $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

# Training killed at random moments, and compared with training left alone.
KILLS ?= 50
soak: install
	$(BIN)/python experiments/soak.py --kills $(KILLS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

install: $(VENV)/installed

$(VENV)/installed: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt ./kernels '.[test]'
	touch $@

# Apart from the environment, where every program would find accelerators' libraries and no accelerator.
compilers: $(COMPILERS)/installed

$(COMPILERS)/installed: kernels/compilers.txt | $(VENV)/installed
	$(BIN)/pip install --quiet --no-deps --upgrade --target $(COMPILERS) --requirement kernels/compilers.txt
	touch $@

clean:
	rm -rf .venv build kernels/build .pytest_cache
