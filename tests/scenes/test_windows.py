import numpy as np
import pytest

from bdgf_jax.errors import InputError
from bdgf_jax.scenes import windows
from bdgf_jax.scenes.loading import load_scene
from bdgf_jax.scenes.windows import open_windows, read_reflected

LEFT, TOP = 400_000.0, 5_800_000.0
PARTS = [(slice(0, 11), slice(0, 13)), (slice(5, 32), slice(20, 24)), (slice(30, 32), slice(3, 4))]


def same_as_whole(config, **tolerance):
    opened, scene = open_windows(config), load_scene(config)
    assert opened.grid.shape == scene.shape
    assert opened.grid.georeference == scene.georeference
    assert opened.names == tuple(scene.modalities)
    for rows, columns in PARTS:
        for name, part in opened.read(rows, columns).items():
            whole = scene.modalities[name]
            np.testing.assert_array_equal(part.valid, whole.valid[rows, columns])
            np.testing.assert_allclose(part.image, whole.image[rows, columns], err_msg=name, **tolerance)
            assert (part.bands, part.kind) == (whole.bands, whole.kind)
    return opened, scene


def test_parts_of_arrays_are_those_of_the_whole(scene_config, files):
    rng = np.random.default_rng(1)
    spectra = rng.integers(0, 9, (32, 24, 5)).astype(np.int16)
    files(hsi=spectra)
    scene_config.modalities.hsi = {"file": "hsi.npy", "nodata": 3, "scale": 0.1, "bands": (4, 1)}
    same_as_whole(scene_config, rtol=0)


def test_arrays_stay_on_disk(scene_config, files, monkeypatch):
    files()
    monkeypatch.setattr("bdgf_jax.scenes.raster.os.sysconf", lambda name: 1)  # a machine with one byte of memory
    with pytest.raises(InputError, match="this machine has"):
        load_scene(scene_config)
    assert open_windows(scene_config).read(*PARTS[0])["hsi"].image.shape == (11, 13, 5)


def test_parts_of_images_on_other_grids_are_those_of_the_whole(scene_config, files, geotiff):
    rng = np.random.default_rng(1)
    files()
    fine = rng.integers(1, 900, (32, 24, 3)).astype(np.int16)
    fine[3:9, 2:5] = -9
    geotiff("fine.tif", fine, nodata=-9)
    geotiff("coarse.tif", rng.random((14, 14, 2), np.float32), pixel=25.0, origin=(LEFT - 40, TOP + 30))
    geotiff("finer.tif", rng.random((120, 100, 1), np.float32), pixel=3.0, origin=(LEFT - 31, TOP + 25))
    geotiff("west.tif", rng.random((40, 6, 1), np.float32), pixel=10.0, origin=(LEFT - 7, TOP + 11))
    scene_config.modalities = {
        "fine": {"file": "fine.tif"},
        "coarse": {"file": "coarse.tif", "kind": "height"},
        "finer": {"file": "finer.tif"},
        "west": {"file": "west.tif"},
    }
    scene_config.reference = "fine"
    scene_config.labels.file = ""
    _, scene = same_as_whole(scene_config, rtol=1e-5)
    # The part in the east sees nothing of it, and neither reads it whole nor fails.
    assert not scene.modalities["west"].valid[:, 8:].any()


@pytest.mark.parametrize("lowest", [0.01, -1.0])
def test_power_is_told_from_decibels_by_all_parts_together(scene_config, files, monkeypatch, lowest):
    power = np.full((32, 24, 2), 0.5, np.float32)
    power[-1, -1] = lowest  # in the last of the parts
    files(sar=power)
    monkeypatch.setattr(windows, "LOOK", 10)
    opened, _ = same_as_whole(scene_config, rtol=0)
    corner = opened.read(slice(0, 1), slice(0, 1))["sar"].image
    np.testing.assert_allclose(corner, 10 * np.log10(0.5) if lowest > 0 else 0.5, rtol=1e-6)


def test_beyond_the_border_lies_the_mirror_image(scene_config, files):
    files()
    whole = np.load(files() / "hsi.npy")
    mirrored = np.pad(whole, ((40, 40), (30, 30), (0, 0)), mode="reflect")
    opened = open_windows(scene_config)
    read = read_reflected(opened, np.arange(-40, 72), np.arange(-30, 54))
    np.testing.assert_array_equal(read["hsi"].image, mirrored)
    read = read_reflected(opened, np.arange(25, 36), np.arange(-3, 5))
    np.testing.assert_array_equal(read["hsi"].image, mirrored[65:76, 27:35])


def test_a_synthetic_scene_is_cut(scene_config):
    scene_config.source = "synthetic"
    same_as_whole(scene_config, rtol=0)


def test_what_cannot_be_joined_is_refused_before_anything_is_read(scene_config, files):
    files(sar=np.zeros((30, 24, 2), np.float32))
    with pytest.raises(InputError, match=r"modality 'sar' is 30 × 24 without geo-reference"):
        open_windows(scene_config)
    scene_config.modalities.sar = {"file": "other.npy"}
    with pytest.raises(InputError, match=r"other\.npy does not exist"):
        open_windows(scene_config)
