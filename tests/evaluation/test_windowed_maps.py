import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio

import bdgf_jax
from bdgf_jax.evaluation.geotiff import Bands
from bdgf_jax.evaluation.maps import map_bands, survey_map, write_map
from bdgf_jax.evaluation.windowed_maps import WindowedMaps
from bdgf_jax.scenes.scene import LandCover

SHAPE, SIDE = (70, 90), 16
CORNERS = [(row, column) for row in range(0, SHAPE[0], SIDE) for column in range(0, SHAPE[1], SIDE)]
FILES = {"map.tif": Bands(("land cover",), "uint8", 0), "shares.tif": Bands(("a", "b"), "float32", -1)}
EMPTY = (16, 32)  # a window without data
# What a window holds follows from its place, so that whoever wrote it can be checked.
PROGRAM = """
import pathlib, sys, time
sys.path.insert(0, {tests!r})
from test_windowed_maps import CORNERS, begun, write
maps = begun(pathlib.Path({folder!r}))
print("begun", flush=True)
for corner in CORNERS:
    if corner not in maps.done:
        write(maps, corner)
        time.sleep(0.02)
"""


def begun(folder, fingerprint="one"):
    return WindowedMaps(folder, FILES, SHAPE, None, fingerprint)


def layers(corner):
    height, width = (min(SIDE, size - start) for start, size in zip(corner, SHAPE))
    value = 1 + CORNERS.index(corner)
    shares = np.full((height, width, 2), (value / 100, 1 - value / 100), np.float32)
    return {"map.tif": np.full((height, width, 1), value, np.uint8), "shares.tif": shares}


def write(maps, corner):
    maps.write(*corner, None if corner == EMPTY else layers(corner))


def check(folder):
    for name, bands in FILES.items():
        with rasterio.open(folder / name) as file:
            assert (file.nodata, file.descriptions) == (bands.nodata, bands.descriptions)
            values = np.moveaxis(file.read(), 0, -1)
        for row, column in CORNERS:
            part = values[row : row + SIDE, column : column + SIDE]
            expected = layers((row, column))[name]
            np.testing.assert_array_equal(
                part, np.full_like(expected, bands.nodata) if (row, column) == EMPTY else expected
            )


def test_windows_in_any_order_make_one_map_and_what_has_none_is_nodata(tmp_path):
    maps = begun(tmp_path)
    for corner in np.random.default_rng(0).permutation(CORNERS).tolist():
        write(maps, tuple(corner))
    assert not (tmp_path / "map.tif").exists()
    maps.finish()
    check(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"map.tif", "shares.tif", "map.windows"}


def test_a_program_that_is_killed_leaves_what_it_has_written(tmp_path):
    program = PROGRAM.format(tests=str(pathlib.Path(__file__).parent), folder=str(tmp_path))
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(bdgf_jax.__file__).parents[1])}
    rng, before = np.random.default_rng(0), 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        time.sleep(rng.uniform(0.02, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done = begun(tmp_path).done
        assert before < len(done) < len(CORNERS)
        before = len(done)
    maps = begun(tmp_path)
    for corner in CORNERS:
        if corner not in maps.done:
            write(maps, corner)
    maps.finish()
    check(tmp_path)


def test_a_line_torn_in_two_is_written_again(tmp_path):
    maps = begun(tmp_path)
    write(maps, CORNERS[0])
    with (tmp_path / "map.windows").open("a") as file:
        file.write("[16, 1")
    maps = begun(tmp_path)
    assert maps.done == {CORNERS[0]}
    write(maps, CORNERS[1])
    assert begun(tmp_path).done == {CORNERS[0], CORNERS[1]}


def test_what_was_written_for_something_else_is_forgotten(tmp_path):
    maps = begun(tmp_path)
    for corner in CORNERS:
        write(maps, corner)
    assert not begun(tmp_path, "another").done
    assert not begun(tmp_path).done  # of which nothing is left now


@pytest.mark.parametrize("lost", [None, "shares.tif"])
def test_a_finished_map_is_done_as_long_as_its_files_are_there(tmp_path, lost):
    maps = begun(tmp_path)
    for corner in CORNERS:
        write(maps, corner)
    maps.finish()
    if lost:
        (tmp_path / lost).unlink()
    again = begun(tmp_path)
    assert len(again.done) == (0 if lost else len(CORNERS))
    if not lost:
        again.finish()
        check(tmp_path)


def test_a_map_is_surveyed_by_stripes(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    land_cover = rng.integers(-1, 3, (130, 70)).astype(np.int32)
    classes = [LandCover(name, "#123456") for name in "abc"]
    write_map(tmp_path / "map.tif", land_cover, classes, None)
    monkeypatch.setattr("bdgf_jax.evaluation.maps.STRIPE", 11)
    monkeypatch.setattr("bdgf_jax.evaluation.pictures.LARGEST_SIDE", 50)
    values, counts = survey_map(tmp_path / "map.tif", len(map_bands(classes).colours) - 1)
    np.testing.assert_array_equal(values, land_cover[::3, ::3])
    np.testing.assert_array_equal(counts, np.bincount(land_cover[land_cover >= 0], minlength=3))
