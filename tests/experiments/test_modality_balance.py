"""The measures of balance on numbers that are known, and the program on a tiny scene."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bdgf_jax import configuration
from bdgf_jax.diffusion.denoiser import build_denoiser
from bdgf_jax.diffusion.schedule import noise_schedule
from bdgf_jax.run import open_run
from experiments.ddpm_measures import features_seeing, programs, skills
from experiments.modality_balance import QUICK, QUICK_SIZE, compare, shapley, smooth, summary, table

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config():
    return configuration.load("demo:tiny", [f"--config.{field}={value}" for field, value in QUICK_SIZE.items()])


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    return open_run(config, tmp_path_factory.mktemp("run"))


def test_shapley_values_are_the_worth_of_each_where_worths_add_up():
    worth = {"a": 0.2, "b": 0.3, "c": 0.05, "a+b": 0.5, "a+c": 0.25, "b+c": 0.35, "a+b+c": 0.55}
    assert shapley(worth, ("a", "b", "c"), 0.0) == pytest.approx({"a": 0.2, "b": 0.3, "c": 0.05})


def test_shapley_values_share_what_only_two_together_reach():
    worth = {"a": 0.25, "b": 0.25, "c": 0.25, "a+b": 0.85, "a+c": 0.25, "b+c": 0.25, "a+b+c": 0.85}
    assert shapley(worth, ("a", "b", "c"), 0.25) == pytest.approx({"a": 0.3, "b": 0.3, "c": 0.0})


def test_shapley_values_make_up_what_all_reach_above_chance():
    random = np.random.default_rng(0)
    worth = {name: random.uniform() for name in ("a", "b", "c", "a+b", "a+c", "b+c", "a+b+c")}
    assert sum(shapley(worth, ("a", "b", "c"), 0.25).values()) == pytest.approx(worth["a+b+c"] - 0.25)


def test_the_index_compares_what_each_modality_kept_of_its_own_probe():
    cell = {
        "aa": {"s2": 0.6, "s1": 0.3, "s2+s1": 0.7},
        "oa": {"s2": 0.5, "s1": 0.4, "s2+s1": 0.8},
        "skill_visible": {"s2": 0.5, "s1": 0.4},
        "skill_hidden": {"s2": 0.1, "s1": 0.2},
        "masking": {"step": [1, 2], "s2": [0.0, 0.2], "s1": [0.0, 0.1]},
        "seconds": 1.0,
    }
    result = summary([cell, cell], {"s2": [0.6, 0.75], "s1": [0.5, 0.3]}, 0.25)
    assert result["balance_index"] == pytest.approx([0.6 / 1.0, 0.8 / 1.0])
    assert result["probe_oa"] == [0.8, 0.8]
    assert result["shapley"]["s2"][0] == pytest.approx((0.35 + 0.4) / 2)
    other = dict(result, balance_index=[0.7, 0.7], fused_oa=[0.9, 0.92])
    text = table("x", {"none": result | {"fused_oa": []}, "adaptive": other})
    kept, worth = "0.900 ± 0.141 | 0.800 ± 0.283", "0.200 ± 0.000 | 37.5 ± 0.0 | 7.5 ± 0.0"
    assert f"| none | 0.700 ± 0.141 | {kept} | {worth} | 80.0 ± 0.0 | 70.0 ± 0.0 |  |  |" in text
    assert "| adaptive | 0.700 ± 0.000 |" in text
    assert "| 91.0 ± 1.4 | 1 of 2 |" in text


def test_smoothing_keeps_length_and_constants():
    for count in (1, 2, 5, 31):
        np.testing.assert_allclose(smooth([0.3] * count), [0.3] * count)


def test_features_do_not_depend_on_what_is_hidden(run):
    _, parameters = build_denoiser(run.config.diffusion, run.channels, seed=0)
    shared = programs(run)
    images = shared.arrays["images"]
    other = dataclasses.replace(shared, arrays=shared.arrays | {"images": images | {"hsi": -images["hsi"]}})
    features = lambda each, seen: np.asarray(features_seeing(run, parameters, each, seen)[0], np.float32)
    np.testing.assert_array_equal(features(shared, ("sar", "height")), features(other, ("sar", "height")))
    assert np.abs(features(shared, ("hsi", "sar")) - features(other, ("hsi", "sar"))).max() > 0.1


def test_a_net_that_says_nothing_has_the_skill_of_its_noisy_input(run):
    """An untrained net's heads are zero, so that x̂_0 = x_t / signal where visible, and 0, the mean, where hidden."""
    _, parameters = build_denoiser(run.config.diffusion, run.channels, seed=0)
    shared = programs(run)
    assert 0.0 <= skills(run, parameters, shared, hidden=("sar",))["sar"] < 0.01
    schedule = noise_schedule(run.config.diffusion.schedule, run.config.diffusion.timesteps)
    alpha = np.asarray(schedule.alpha_bar)[np.linspace(0, run.config.diffusion.timesteps - 1, 64).round().astype(int)]
    expected = np.mean([max(0.0, 1.0 - np.mean(1 / each - 1)) for each in np.split(alpha, 4)])
    assert skills(run, parameters, shared, hidden=())["hsi"] == pytest.approx(expected, abs=0.1)


@pytest.mark.slow
def test_the_program_measures_every_cell_once(config, tmp_path, monkeypatch):
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # one device
    arguments = ["--config", "demo", "--out", tmp_path / "out.json", "--workdir", tmp_path, "--quick"]
    program = [sys.executable, ROOT / "experiments" / "modality_balance.py", *arguments]
    done = subprocess.run(list(map(str, program)), env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "out.json").read_text())["demo"]
    assert list(results) == list(QUICK)
    for rule, result in results.items():
        assert 0.0 < result["balance_index"][0] <= 1.0
        assert len(result["aa"]) == 7
        hidden = np.array([result["masking"][name] for name in ("hsi", "sar", "height")])
        assert hidden.any() == (rule != "none")
    assert (tmp_path / "out.png").stat().st_size > 5_000
    monkeypatch.setattr("experiments.modality_balance.measure", lambda *_: pytest.fail("ran again"))
    again = compare(config, QUICK, range(1), tmp_path / "demo", fused=False)
    assert json.loads(json.dumps(again)) == results
