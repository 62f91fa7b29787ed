"""The whole road at its tiny size, by the command line, as a user walks it."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from sklearn.metrics import roc_auc_score

from bdgf_jax import configuration
from bdgf_jax.scenes.loading import load_scene
from bdgf_jax.scenes.statistics import apply_band_transform, fit_band_transform

ROOT = pathlib.Path(__file__).parent.parent
# Tests of tests: a little faster to compile, and one device as on a laptop.
ENVIRONMENT = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu", "COLUMNS": "300"}

pytestmark = pytest.mark.slow


def bdgf(*arguments, check=True):
    command = [sys.executable, "-m", "bdgf_jax.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("road") / "run"
    return workdir, bdgf("run", "--config", "demo:tiny", "--workdir", workdir)


def test_a_run_ends_with_its_accuracy_and_its_report(run):
    workdir, done = run
    assert re.search(r"OA \d+\.\d% \(\d+\.\d% to \d+\.\d%\) +AA \d+\.\d% +κ -?\d\.\d{3}", done.stdout)
    assert f"Report: {workdir / 'report.html'}" in done.stdout


def test_progress_is_told_in_lines_where_there_is_no_terminal(run):
    _, done = run
    for title in ("Pre-training", "Features", "Training", "Predicting"):
        assert re.search(rf"{title} .*100 %", done.stderr)
    assert re.search(r"Pre-training .* step/s .*loss \d", done.stderr)


def test_a_run_leaves_what_users_scripts_rely_on(run):
    workdir, _ = run
    left = {path.relative_to(workdir).as_posix() for path in workdir.rglob("*") if path.is_file()}
    assert {
        "config.json",
        "scene.json",
        "pretrain/log.jsonl",
        "train/log.jsonl",
        "features/features.json",
        "map.tif",
        "map.tif.aux.xml",
        "map.qml",
        "map.png",
        "confidence.tif",
        "uncertainty.tif",
        "metrics.json",
        "report.html",
    } <= left
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert list(metrics) == [
        "oa",
        "aa",
        "kappa",
        "per_class",
        "confusion",
        "n_train",
        "n_test",
        "overlapping_test_pixels",
        "oa_without_overlap",
        "oa_interval",
        "classes_without_test_pixels",
        "area_adjusted",
        "ece",
        "confidence",
        "disagreement",
        "literature_protocol",
        "against_own_map",
        "members",
        "vote",
        "smoothing",
        "without",
        "seed",
        "seconds",
        "peak_bytes",
    ]
    assert set(metrics["seconds"]) == {"pretrain", "features", "train", "predict"}
    assert all(seconds > 0 for seconds in metrics["seconds"].values())
    assert set(metrics["peak_bytes"]) == set(metrics["seconds"])
    assert all(peaks["host"] > 1e8 for peaks in metrics["peak_bytes"].values())
    scene = json.loads((workdir / "scene.json").read_text())
    assert {"sources", "shape", "modalities", "classes", "split", "findings"} <= set(scene)
    assert {"config", "versions"} <= set(json.loads((workdir / "config.json").read_text()))


def test_the_map_beats_chance_by_far(run):
    # Four classes: chance is 0.25.
    metrics = json.loads((run[0] / "metrics.json").read_text())
    assert metrics["aa"] > 0.45


def test_the_map_is_the_one_that_was_scored(run):
    workdir, _ = run
    metrics = json.loads((workdir / "metrics.json").read_text())
    with rasterio.open(workdir / "map.tif") as file:
        values = file.read(1)
    assert values.shape == (48, 48)
    assert set(np.unique(values)) <= set(range(1, 5))
    confusion = np.array(metrics["confusion"])
    assert confusion.sum() == metrics["n_test"]
    assert np.isclose(np.trace(confusion) / confusion.sum(), metrics["oa"])


def test_the_map_opened_again_scores_exactly_the_same(run, tmp_path):
    workdir, _ = run
    own = json.loads((workdir / "metrics.json").read_text())
    for name in ("map.tif", "map.tif.aux.xml"):
        shutil.copy(workdir / name, tmp_path)
    done = bdgf("evaluate", "--config", "demo:tiny", "--workdir", workdir, "--map", tmp_path / "map.tif")
    assert "0 test pixels are right only here, 0 only there, p = 1 (McNemar)" in done.stdout
    again = json.loads((workdir / "metrics.json").read_text())
    for figure in ("oa", "aa", "kappa", "per_class", "confusion", "n_test", "oa_without_overlap"):
        assert again[figure] == own[figure]
    bdgf("evaluate", "--config", "demo:tiny", "--workdir", workdir)
    assert json.loads((workdir / "metrics.json").read_text()) == own


def test_the_same_command_again_trains_nothing_and_scores_the_same(run):
    workdir, _ = run
    before = json.loads((workdir / "metrics.json").read_text())
    logs = [(workdir / stretch / "log.jsonl").read_bytes() for stretch in ("pretrain", "train")]
    again = bdgf("run", "--config", "demo:tiny", "--workdir", workdir)
    assert "Training" not in again.stderr
    assert logs == [(workdir / stretch / "log.jsonl").read_bytes() for stretch in ("pretrain", "train")]
    after = json.loads((workdir / "metrics.json").read_text())
    assert before["confusion"] == after["confusion"]


def test_probabilities_come_on_request_and_sum_to_one(run):
    workdir, _ = run
    bdgf("predict", "--config", "demo:tiny", "--workdir", workdir, "--config.predict.probabilities=True")
    with rasterio.open(workdir / "probabilities.tif") as file:
        assert file.count == 4
        np.testing.assert_allclose(file.read().sum(0), 1.0, atol=1e-5)


def test_one_branch_alone_maps_the_scene_without_training_anew(run, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    bdgf("predict", "--config", "demo:tiny", "--workdir", workdir, "--config.predict.branches=('cnn',)")
    maps = [rasterio.open(folder / "map.tif").read(1) for folder in (run[0], workdir)]
    assert not (workdir / "uncertainty.tif").exists()
    assert (maps[0] != maps[1]).any()
    assert (maps[0] == maps[1]).mean() > 0.5


def test_a_map_is_averaged_with_the_cheap_vote_on_request_and_says_so(run, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    arguments = ("--config", "demo:tiny", "--workdir", workdir)
    averaged = ("--config.predict.average_with_vote=True", "--config.predict.probabilities=True")
    bdgf("predict", *arguments, *averaged)
    metrics = json.loads((run[0] / "metrics.json").read_text())
    figures = json.loads((workdir / "vote.json").read_text())
    assert {figure: metrics[figure] for figure in ("oa", "aa", "kappa")} == pytest.approx(figures["network"])
    assert metrics["vote"] is None
    bdgf("evaluate", *arguments)
    assert json.loads((workdir / "metrics.json").read_text())["vote"] == figures
    told = f"The map is the mean of the network, which alone has an overall accuracy of {figures['network']['oa']:.1%}"
    assert told in (workdir / "report.html").read_text()
    with rasterio.open(workdir / "probabilities.tif") as shares, rasterio.open(workdir / "map.tif") as classes:
        averages, shown = shares.read(), classes.read(1)
    np.testing.assert_array_equal(averages.argmax(0)[shown > 0], shown[shown > 0] - 1)
    np.testing.assert_allclose(averages.sum(0)[shown > 0], 1.0, atol=1e-5)
    bdgf("predict", *arguments)
    assert not (workdir / "vote.json").exists()


def test_feature_maps_of_another_model_guide_the_classifier(tmp_path):
    scene = load_scene(configuration.load("demo:tiny").scene)
    spectra = scene.modalities["hsi"]
    components = apply_band_transform(fit_band_transform(spectra, mode="whiten", components=8), spectra)
    np.save(tmp_path / "components.npy", components)
    source = f"--config.features.source={tmp_path / 'components.npy'}"
    done = bdgf("run", "--config", "demo:tiny", "--workdir", tmp_path / "run", source)
    assert "Pre-training" not in done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["aa"] > 0.45


def test_uncertainty_is_the_disagreement_of_the_branches_and_how_well_it_finds_errors_is_told(run):
    """At this size the branches are hardly trained and the map is the direct head's: they may disagree anywhere."""
    workdir, _ = run
    with rasterio.open(workdir / "uncertainty.tif") as file:
        assert file.descriptions == ("disagreement of the branches",)
        values = file.read(1)
    assert 0.0 <= values.min() < values.max() <= 1.0
    metrics = json.loads((workdir / "metrics.json").read_text())
    scene = load_scene(configuration.load("demo:tiny").scene)
    with rasterio.open(workdir / "map.tif") as file:
        wrong = file.read(1).astype(int) - 1 != scene.labels
    test = scene.masks["test"]
    expected = roc_auc_score(wrong[test], values[test])
    assert metrics["disagreement"]["finds_errors"] == pytest.approx(expected, abs=1e-4)
    assert 0.0 < metrics["ece"] < 0.5


def test_another_config_is_refused_in_the_same_workdir_and_nothing_is_lost(run):
    workdir, _ = run
    before = (workdir / "config.json").read_bytes()
    done = bdgf("train", "--config", "demo:tiny", "--workdir", workdir, "--config.train.steps=99", check=False)
    assert done.returncode == 2
    assert "train.steps: 60 -> 99" in done.stderr
    assert "Traceback" not in done.stderr
    assert (workdir / "config.json").read_bytes() == before


def test_inspect_shows_the_scene_before_anyone_trains(tmp_path):
    done = bdgf("inspect", "--config", "demo:tiny", "--workdir", tmp_path)
    for word in ("hsi", "sar", "height", "train"):
        assert word in done.stdout
    assert (tmp_path / "scene.png").stat().st_size > 10_000
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--config", "demmo"), "no such config"),
        (("run", "--config", "demo:tiny", "--config.train.stepz=1"), "Did you mean --config.train.steps?"),
        (("predict", "--config", "demo:tiny"), "`bdgf pretrain` with the same --config and --workdir does"),
        (("run", "--config", "sentinel_lulc", "--config.scene.folder=nowhere"), "nowhere"),
        (
            (
                "train",
                "--config",
                "demo:tiny",
                "--config.features.source=none",
                "--config.train.evaluate_every=0",
                "--config.evaluate.literature_protocol=True",
            ),
            "train.evaluate_every steps, which is 0",
        ),
        (("run", "--config", "demo:tiny", "--config.masking.rule=wild"), "masking.rule must be one of none, fixed"),
    ],
)
def test_a_mistake_costs_one_clear_message_and_status_2(tmp_path, arguments, message):
    done = bdgf(*arguments, "--workdir", tmp_path / "run", check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_workdir_that_cannot_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    done = bdgf("run", "--config", "demo:tiny", "--workdir", tmp_path / "file" / "run", check=False)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


def test_sigterm_during_feature_computation_is_served_at_once(tmp_path):
    slow = ["--config.features.source=untrained", "--config.features.draws=2000"]
    arguments = ["features", "--config", "demo:tiny", "--workdir", str(tmp_path), *slow]
    process = subprocess.Popen(
        [sys.executable, "-m", "bdgf_jax.cli", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    assert any("Features" in line for line in process.stderr)
    process.terminate()
    said, heard = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said == "bdgf features was asked to stop (SIGTERM). The same command continues from what is saved.\n"
    assert "100 %" not in heard


def test_help_teaches_with_examples():
    for arguments in (("--help",), ("run", "--help")):
        text = bdgf(*arguments).stdout
        assert "bdgf run --config demo" in text
        assert "berlin_urban_gradient" in text
