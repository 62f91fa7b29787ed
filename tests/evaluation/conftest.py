import numpy as np
import pytest

from bdgf_jax.evaluation.assessment import assess
from bdgf_jax.evaluation.report import Drawings
from bdgf_jax.scenes.scene import Georeference, LandCover, Modality, Scene

CLASSES = (LandCover("water", "#2b6cb0"), LandCover("<b>&", "#4a8f3c"), LandCover("roof", "#b5482a"))


@pytest.fixture(scope="session")
def scene():
    """Three modalities, 40 rows and 56 columns, with a nodata corner and a test part to the right."""
    rng = np.random.default_rng(0)
    shape = (40, 56)
    labels = (np.add.outer(np.arange(40) // 9, np.arange(56) // 11) % 3).astype(np.int32)
    labels[:, 27:29] = -1
    valid = np.ones(shape, bool)
    valid[:6, -6:] = False
    labels[~valid] = -1

    def modality(bands, kind, wavelengths=None):
        image = rng.normal(labels[..., None], 0.5, (*shape, bands)).astype(np.float32)
        return Modality(
            np.where(valid[..., None], image, 0), valid, tuple(f"b{i}" for i in range(bands)), kind, wavelengths
        )

    left = np.zeros(shape, bool)
    left[:, :24] = True
    labelled = labels >= 0
    return Scene(
        name="Two fields & a lake",
        modalities={
            "msi": modality(5, "optical", (450.0, 550.0, 650.0, 850.0, 1600.0)),
            "sar": modality(2, "sar"),
            "dsm": modality(1, "height"),
        },
        labels=labels,
        masks={"train": left & labelled, "validation": np.zeros(shape, bool), "test": ~left & labelled},
        classes=CLASSES,
        georeference=Georeference("EPSG:32633", (10.0, 0.0, 5e5, 0.0, -10.0, 5.8e6)),
        split="left half for training, right half for testing",
    )


@pytest.fixture(scope="session")
def report(scene):
    """What a run hands to the report."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), scene.shape).astype(np.float32)
    prediction = np.where(scene.valid, probabilities.argmax(-1), -1).astype(np.int32)
    shares = {"confidence": probabilities.max(-1), "disagreement": rng.random(scene.shape, np.float32)}
    seconds = {"pretrain": 75.0, "features": 3.25, "train": 7300.0, "predict": None}
    crops = {name: rng.normal(size=(8, 8, 8, m.image.shape[-1])) for name, m in scene.modalities.items()}
    seen = list(crops)[1]
    return {
        "scene": scene,
        "prediction": prediction,
        **shares,
        "metrics": assess(scene, prediction, patch=11, block=8, **shares)
        | {
            "literature_protocol": None,
            "against_own_map": None,
            "members": None,
            "without": [],
            "seed": 3,
            "seconds": seconds,
            "peak_bytes": {"train": {"host": 1_530_000_000, "device": 512_000_000}},
        },
        "pretrain_log": [
            {"step": i, "loss": 1.0, "loss/msi": 1 / (i + 1), "masking/msi": 0.2, "skill/msi": 0.5} for i in range(9)
        ],
        "train_log": [{"step": i, "loss/cnn": 1 / (i + 1), "validation/oa": 0.5} for i in range(9)],
        "drawings": Drawings(crops, crops, seen, {name: crops[name] for name in crops if name != seen}),
        "config": {"train": {"steps": 400, "folder": "http://example.org/<script>"}, "seed": 3},
        "notes": ["<script>alert(1)</script>"],
    }
