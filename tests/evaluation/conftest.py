import numpy as np
import pytest

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
