"""Ways of pre-training compared on two small made scenes, as files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from bdgf_jax.errors import InputError
from experiments.transfer import METHODS, compare, table

ROOT = Path(__file__).parents[2]
CONFIG = """
from bdgf_jax import configuration

def get_config(size=""):
    config = configuration.load("base:tiny")
    config.scene.modalities.ms = {"file": "ms.tif"}
    config.scene.modalities.dem = {"file": "dem.tif", "kind": "height"}
    config.scene.labels.file = "labels.tif"
    config.scene.split.kind = "per_class"
    config.diffusion.multipliers = (1,)
    config.pretrain.update(batch_size=8, crop=8, tile=16)
    config.classifier.update(branches=("cnn",), stages=2)
    config.features.update(levels=(0,), timesteps=(50,), draws=1, tile=32, margin=0)
    return config
"""


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "height": 32, "width": 32, "count": len(image), "dtype": image.dtype}
    with rasterio.open(path, "w", **profile, crs="EPSG:32633", transform=Affine(10, 0, 4e5, 0, -10, 5e6)) as file:
        file.write(image)


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("transfer"), np.random.default_rng(0)
    (folder / "config.py").write_text(CONFIG)
    for name in ("one", "two"):
        labels = np.repeat(np.arange(1, 3, dtype=np.uint8), 16)[None, :, None] * np.ones((1, 1, 32), np.uint8)
        write(folder / "groups" / name / "labels.tif", labels)
        write(folder / "groups" / name / "ms.tif", (labels + random.normal(size=(3, 32, 32))).astype(np.float32))
        write(folder / "groups" / name / "dem.tif", random.normal(size=(1, 32, 32)).astype(np.float32))
    return folder


@pytest.mark.slow
def test_both_programs_run_quickly_and_leave_their_numbers(groups):
    one_device = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "TFDS_DATA_DIR": str(groups / "tfds")}
    environment = os.environ | one_device
    for name in ("transfer", "corpus_loader"):
        arguments = ["--config", groups / "config.py", "--groups", groups / "groups", "--out", groups / f"{name}.json"]
        arguments += ["--workdir", groups / "runs"] if name == "transfer" else []
        program = [sys.executable, ROOT / "experiments" / f"{name}.py", *arguments, "--quick"]
        done = subprocess.run(list(map(str, program)), env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((groups / "transfer.json").read_text())
    assert record["pretraining_steps"] == 4
    assert [scene["scene"] for scene in record["scenes"]] == ["one", "two"]
    for scene in record["scenes"]:
        assert set(scene["methods"]) == set(METHODS)
        for figures in scene["methods"].values():
            assert len(figures["aa"]) == 1
        assert scene["methods"]["probe_in_scene"] != scene["methods"]["probe_cross_scene"]
    seen = {
        path.parent.name: sorted(one.name for one in path.iterdir()) for path in groups.glob("runs/pretrained/*/groups")
    }
    assert seen == {"one": ["one"], "two": ["two"], "one+two": ["one", "two"]}
    loader = json.loads((groups / "corpus_loader.json").read_text())
    assert loader["corpus"] == {"groups": 4, "tiles": 16, "megabytes": pytest.approx(16 * 16 * 16 * (4 * 4 + 2) / 1e6)}
    assert loader["loader"]["crops_per_second"] > 0
    assert 0 <= loader["waiting"] < 1


def test_the_table_compares_with_the_scene_s_own_pre_training_split_by_split():
    figures = lambda aa: {"oa": [0.5, 0.5, 0.5], "aa": aa, "kappa": [0.1, 0.2, 0.3]}
    methods = dict.fromkeys(METHODS, figures([0.4, 0.4, 0.4])) | {
        "in_scene": figures([0.5, 0.6, 0.7]),
        "corpus": figures([0.6, 0.5, 0.8]),
        "probe_corpus": figures([0.3, 0.4, 0.5]),
    }
    text = table({"scenes": [{"scene": "x", "seeds": [0, 1, 2], "methods": methods}]})
    assert "| x, 3 seeds | OA | AA | κ | ahead of in_scene in AA |" in text
    assert "| in_scene | 50.0 ± 0.0 | 60.0 ± 10.0 | 20.0 ± 10.0 |  |" in text
    assert "| corpus | 50.0 ± 0.0 | 63.3 ± 15.3 | 20.0 ± 10.0 | 2 |" in text
    assert "| probe_in_scene | 50.0 ± 0.0 | 40.0 ± 0.0 | 20.0 ± 10.0 |  |" in text
    assert "| probe_corpus | 50.0 ± 0.0 | 40.0 ± 10.0 | 20.0 ± 10.0 | 1 |" in text


def test_one_scene_is_too_few(tmp_path):
    (tmp_path / "one").mkdir()
    with pytest.raises(InputError, match="two scenes are needed at least, it holds 1 folders"):
        compare(None, tmp_path, range(1), tmp_path, tmp_path / "out.json")
