"""The measures on features that are known, and the program on a tiny scene."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bdgf_jax import configuration
from bdgf_jax.run import open_run
from experiments.probes import (
    PIXELS,
    QUICK,
    QUICK_SIZE,
    described,
    plot,
    probe_levels,
    separation,
    some_of_each_class,
    table,
)

ROOT = Path(__file__).parents[2]


def test_separation_is_a_share_of_neighbours_mean_over_the_classes():
    labels = np.array([0, 0, 1, 1, 1, 1])
    vectors = np.array([[0.0], [0.1], [9.0], [9.1], [20.0], [0.25]])
    assert separation(vectors, labels) == pytest.approx((1.0 + 0.75) / 2, abs=1e-4)


def test_two_components_explain_all_of_a_plane():
    random = np.random.default_rng(0)
    plane = random.normal(size=(100, 2)) @ random.normal(size=(2, 16))
    assert sum(described(plane, np.arange(100) % 2)["explained"]) == pytest.approx(1.0, abs=1e-3)


def test_pixels_are_at_most_so_many_of_each_class_and_spread():
    labels = np.zeros((40, 40), int)
    labels[:, :2] = 1
    centres = np.argwhere(labels >= 0)
    chosen = some_of_each_class(centres, labels)
    assert len(np.unique(chosen, axis=0)) == len(chosen)
    counts = np.bincount(labels[tuple(chosen.T)])
    np.testing.assert_array_equal(counts, [PIXELS, 80])
    assert chosen[labels[tuple(chosen.T)] == 0][:, 0].max() == 39


def test_levels_and_nets_stand_in_table_and_figure(tmp_path):
    scored = lambda *aa: {"oa": list(aa), "aa": list(aa), "kappa": list(aa)}
    probes = {"level 0": {"50": scored(0.5, 0.6), "400": scored(0.4, 0.4)}}
    result = {"settings": {"timesteps": [50, 400]}, "trained": probes, "untrained": probes}
    text = table("x", result)
    assert "| x, AA at timestep | 50 | 400 |" in text
    assert "| level 0, untrained | 55.0 ± 7.1 | 40.0 ± 0.0 |" in text
    plot({"x": result, "y": result}, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 5_000


@pytest.mark.slow
def test_the_program_probes_every_split_once_and_leaves_both_figures(tmp_path, monkeypatch):
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # one device
    arguments = ["--config", "demo", "--out", tmp_path / "out.json", "--workdir", tmp_path, "--quick"]
    program = [sys.executable, ROOT / "experiments" / "probes.py", *arguments]
    done = subprocess.run(list(map(str, program)), env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "out.json").read_text())["demo"]
    for net in ("trained", "untrained"):
        assert list(result[net]) == ["level 0", "level 1"]
        for probes in result[net].values():
            assert list(probes) == ["5", "40"]
            assert all(0.0 < each["aa"][0] <= 1.0 for each in probes.values())
    assert result["trained"] != result["untrained"]
    assert all(sum(each["explained"]) <= 1.0 for each in result["branches"].values())
    assert all((tmp_path / name).stat().st_size > 5_000 for name in ("out.png", "out_branches.png"))

    monkeypatch.setattr("experiments.probes.probe_split", lambda *_: pytest.fail("ran again"))
    config = configuration.load("demo:tiny", [f"--config.{field}={value}" for field, value in QUICK_SIZE.items()])
    again = probe_levels(open_run(config, tmp_path / "demo" / "scene"), range(1), QUICK, tmp_path / "demo")
    assert json.loads(json.dumps(again)) == {name: part for name, part in result.items() if name != "branches"}
