import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def toy():
    """The module toy.py, which is also run as a program."""
    specification = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def finished(toy, tmp_path_factory):
    """The folder and the final state of a run of 30 steps that nothing interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, toy.train(folder)
