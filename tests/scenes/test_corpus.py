"""A folder of small groups of GeoTIFFs, prepared as a corpus: its tiles, its statistics, and what is wrong with it."""

import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.corpus import open_corpus
from bdgf_jax.scenes.scene import Modality
from bdgf_jax.scenes.statistics import fit_band_transform

SHAPES = {"a": (20, 32), "b": (16, 16), "c": (10, 19)}
NODATA = -9999
STATISTICS = {"mode": "whiten", "components": 30, "percentiles": (0, 100)}


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))


@pytest.fixture
def reads(scene_config):
    """The `scene` section that reads a group."""
    scene_config.modalities = ConfigDict(
        {"ms": {"file": "ms.tif"}, "dem": {"file": "dem.tif", "kind": "height"}}, sort_keys=False
    )
    return scene_config


@pytest.fixture
def groups(tmp_path, geotiff):
    """Writes three groups, one smaller than a tile, with nodata in the first; the images by group and modality."""
    random = np.random.default_rng(0)
    mixing = random.normal(size=(4, 4))
    images = {}
    for name, shape in SHAPES.items():
        (tmp_path / "groups" / name).mkdir(parents=True)
        # A large mean and a small deviation, of which sums of squares would keep no digit in float32.
        ms = (5000 + 30 * random.normal(size=(*shape, 4)) @ mixing).astype(np.int16)
        dem = (800 + random.normal(size=shape)).astype(np.float32)
        if name == "a":
            ms[:3], dem[5, 5] = NODATA, NODATA
        images[name] = {"ms": ms, "dem": dem}
        geotiff(f"groups/{name}/ms.tif", ms, nodata=NODATA)
        geotiff(f"groups/{name}/dem.tif", dem, nodata=NODATA)
    return images


def test_every_pixel_is_in_a_tile_with_its_validity(tmp_path, reads, groups):
    corpus = open_corpus(str(tmp_path / "groups"), reads, tile=16)
    assert corpus.bands == {"ms": ("band 1", "band 2", "band 3", "band 4"), "dem": ("band 1",)}
    tiles = corpus[np.arange(len(corpus))]
    assert len(corpus) == 4 + 1 + 2  # 20 × 32, 16 × 16 and 10 × 19 by tiles of 16
    assert tiles["images"]["ms"].shape == (7, 16, 16, 4)
    last_of_a = tiles["images"]["ms"][3]
    np.testing.assert_array_equal(last_of_a, groups["a"]["ms"][4:, 16:].astype(np.float32))
    assert not tiles["valid"]["ms"][0, :3].any()
    assert tiles["valid"]["ms"][0, 3:].all()
    assert not tiles["images"]["ms"][0, :3].any()
    assert not tiles["valid"]["dem"][0, 5, 5]
    small = tiles["valid"]["ms"][-1]
    assert small[:10].all()
    assert not small[10:].any()  # filled up
    np.testing.assert_array_equal(tiles["images"]["dem"][-1, :10, :, 0], groups["c"]["dem"][:, 3:])


@pytest.mark.parametrize("mode", ["whiten", "standardise"])
def test_the_statistics_are_numpy_s_over_all_valid_pixels(tmp_path, reads, groups, mode):
    corpus = open_corpus(str(tmp_path / "groups"), reads, tile=16)
    transforms = corpus.transforms(**STATISTICS | {"mode": mode})
    for name in ("ms", "dem"):
        pixels = np.concatenate(
            [image[name].reshape(-1, image[name].size // np.prod(SHAPES[group])) for group, image in groups.items()]
        )
        pixels = pixels[(pixels != NODATA).all(axis=1)].astype(np.float64)
        assert transforms[name].mean == pytest.approx(pixels.mean(axis=0), rel=1e-12)
        seen = (pixels - transforms[name].mean) @ transforms[name].projection
        if mode == "whiten":
            np.testing.assert_allclose(
                np.cov(seen.T, bias=True).reshape(seen.shape[1], -1), np.eye(seen.shape[1]), atol=1e-9
            )
        np.testing.assert_allclose(seen.std(axis=0), 1.0, atol=1e-9)
        at_once = Modality(pixels[None].astype(np.float32), np.ones((1, len(pixels)), bool), corpus.bands[name])
        expected = fit_band_transform(at_once, **STATISTICS | {"mode": mode})
        np.testing.assert_allclose(transforms[name].projection, expected.projection, rtol=1e-8, atol=1e-12)


def test_a_prepared_corpus_is_opened_by_its_name_without_its_files(tmp_path, reads, groups):
    first = open_corpus(str(tmp_path / "groups"), reads, tile=16)
    (tmp_path / "groups").rename(tmp_path / "gone")
    again = open_corpus(first.name, reads, tile=16)
    np.testing.assert_array_equal(again[np.array([5, 0])]["images"]["ms"], first[np.array([5, 0])]["images"]["ms"])
    with pytest.raises(InputError, match=rf"'other', which is no folder, and no prepared corpus .*there: {first.name}"):
        open_corpus("other", reads, tile=16)
    assert "tensorflow" not in sys.modules


def test_files_that_change_are_prepared_anew(tmp_path, reads, groups, geotiff):
    first = open_corpus(str(tmp_path / "groups"), reads, tile=16)
    geotiff("groups/b/dem.tif", np.zeros((16, 16), np.float32))
    second = open_corpus(str(tmp_path / "groups"), reads, tile=16)
    assert first.name != second.name
    assert not second[np.array([4])]["images"]["dem"].any()
    assert open_corpus(str(tmp_path / "groups"), reads, tile=16).name == second.name
    assert open_corpus(str(tmp_path / "groups"), reads, tile=8).tile == 8


def test_a_group_without_a_modality_is_named(tmp_path, reads, groups):
    (tmp_path / "groups" / "b" / "dem.tif").unlink()
    (tmp_path / "groups" / "notes").mkdir()
    with pytest.raises(
        InputError, match=r"every group must hold every modality.*\n.*groups/b lacks dem.tif \(modality 'dem'\)$"
    ):
        open_corpus(str(tmp_path / "groups"), reads, tile=16)
    with pytest.raises(InputError, match=r"no folder in .*notes holds any of ms.tif, dem.tif"):
        open_corpus(str(tmp_path / "groups" / "notes"), reads, tile=16)


def test_a_group_with_other_bands_is_named_and_nothing_is_left(tmp_path, reads, groups, geotiff):
    geotiff("groups/c/ms.tif", groups["c"]["ms"][..., :3], nodata=NODATA)
    message = r"groups/c: modality 'ms' has 3 bands \(band 1, band 2, band 3\), in a it has 4"
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            open_corpus(str(tmp_path / "groups"), reads, tile=16)
    reads.modalities.ms.names = ("B", "G", "R", "N")
    with pytest.raises(InputError, match=r"groups/c: scene.modalities.ms.names lists 4 entries, the image has 3 bands"):
        open_corpus(str(tmp_path / "groups"), reads, tile=16)


def test_a_flipped_byte_is_noticed_and_the_way_out_is_said(tmp_path, reads, groups):
    corpus = open_corpus(str(tmp_path / "groups"), reads, tile=16)
    (path,) = (tmp_path / "tfds").rglob("*.array_record*")
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"the corpus '{corpus.name}' cannot be read .*Delete {path.parent}; it is"):
        corpus[np.arange(len(corpus))]


def test_percentiles_cannot_be_had_in_one_pass(tmp_path, reads, groups):
    with pytest.raises(InputError, match=r"percentiles is \(1, 99\), which cannot be taken of a corpus"):
        open_corpus(str(tmp_path / "groups"), reads, tile=16).transforms(**STATISTICS | {"percentiles": (1, 99)})
