import numpy as np
import pytest
import rasterio
from affine import Affine
from ml_collections import ConfigDict

from bdgf_jax.scenes.scene import Modality


@pytest.fixture
def scene_config(tmp_path):
    """The `scene` section for two .npy files in a temporary folder, to be changed by each test."""
    fields = {
        "name": "test",
        "source": "files",
        "folder": str(tmp_path),
        "synthetic": {"height": 32, "width": 32, "bands": 8, "classes": 4, "seed": 0},
        "modalities": {"hsi": {"file": "hsi.npy"}, "sar": {"file": "sar.npy", "kind": "sar"}},
        "reference": "",
        "resampling": "bilinear",
        "labels": {
            "file": "labels.npy",
            "key": "",
            "attribute": "",
            "layer": "",
            "ignore": (0,),
            "names": {},
            "colours": {},
            "minimum_test_pixels": 0,
        },
        "split": {
            "kind": "per_class",
            "block": 8,
            "train_blocks": 0.35,
            "per_class": 20,
            "guard": 2,
            "validation_blocks": 0.0,
            "seed": 0,
            "train_file": "",
            "test_file": "",
            "train_key": "",
            "test_key": "",
        },
        "statistics": {"mode": "whiten", "components": 30, "percentiles": (0, 100)},
    }
    return ConfigDict(fields)


@pytest.fixture
def files(tmp_path):
    """Writes small arrays into the folder of `scene_config`."""
    random = np.random.default_rng(0)

    def write(**arrays):
        labels = np.repeat(np.arange(1, 5), 8)[:, None] * np.ones((1, 24), np.int64)
        default = {
            "hsi": random.standard_normal((32, 24, 5)).astype(np.float32),
            "sar": random.standard_normal((32, 24, 2)).astype(np.float32) - 12,
            "labels": labels.astype(np.uint8),
        }
        for name, array in {**default, **arrays}.items():
            np.save(tmp_path / f"{name}.npy", array)
        return tmp_path

    return write


@pytest.fixture
def geotiff(tmp_path):
    """Writes a GeoTIFF and returns its path."""

    def write(name, image, *, pixel=10.0, origin=(400_000.0, 5_800_000.0), crs="EPSG:32633", nodata=None):
        path = tmp_path / name
        image = image if image.ndim == 3 else image[:, :, None]
        height, width, count = image.shape
        transform = Affine(pixel, 0, origin[0], 0, -pixel, origin[1])
        profile = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": image.dtype}
        with rasterio.open(path, "w", **profile, crs=crs, transform=transform, nodata=nodata) as dataset:
            dataset.write(np.moveaxis(image, -1, 0))
        return path

    return write


@pytest.fixture
def modality():
    """Makes a modality from an image, with invalid pixels on request."""

    def make(image, valid=None, **fields):
        image = np.asarray(image, np.float32)
        valid = np.ones(image.shape[:2], bool) if valid is None else valid
        bands = tuple(f"band {number}" for number in range(1, image.shape[2] + 1))
        return Modality(image, valid, bands, **fields)

    return make
