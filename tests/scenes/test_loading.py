import h5py
import numpy as np
import pytest
import rasterio
import scipy.io
from ml_collections import ConfigDict

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.loading import load_scene
from bdgf_jax.scenes.statistics import apply_band_transform, fit_band_transform


def said(scene):
    return " ".join(f"{finding.subject}: {finding.message}" for finding in scene.findings)


def test_a_synthetic_scene_is_split_as_the_configuration_says(scene_config):
    scene_config.source = "synthetic"
    scene_config.split.kind = "blocks"
    scene = load_scene(scene_config)
    assert scene.name == "test"
    assert scene.shape == (32, 32)
    assert "blocks of 8 × 8" in scene.split
    assert scene.masks["train"].any()
    assert scene.masks["test"].any()


def test_arrays_become_a_scene_with_its_sources(scene_config, files):
    folder = files()
    scene = load_scene(scene_config)
    np.testing.assert_array_equal(scene.modalities["hsi"].image, np.load(folder / "hsi.npy"))
    assert scene.modalities["sar"].kind == "sar"
    assert scene.georeference is None
    assert [source.path.rsplit("/", 1)[-1] for source in scene.sources] == ["hsi.npy", "sar.npy", "labels.npy"]
    assert [source.bytes for source in scene.sources] == [
        (folder / name).stat().st_size for name in ("hsi.npy", "sar.npy", "labels.npy")
    ]
    rows, columns = scene.centres("train").T
    assert scene.centres("train").dtype == np.int32
    assert (np.bincount(scene.labels[rows, columns]) == 20).all()


def test_modalities_come_in_the_order_of_an_unsorted_configuration(scene_config, files):
    files()
    options = {"sar": {"file": "sar.npy"}, "hsi": {"file": "hsi.npy"}}
    scene_config.modalities = ConfigDict(options, sort_keys=False)
    assert list(load_scene(scene_config).modalities) == ["sar", "hsi"]


def test_sizes_that_differ_without_geo_reference_are_refused_with_both(scene_config, files):
    files(sar=np.zeros((30, 24, 2), np.float32))
    with pytest.raises(InputError, match=r"modality 'sar' is 30 × 24 without geo-reference.*32 × 24 without"):
        load_scene(scene_config)
    files(labels=np.ones((32, 20), np.uint8))
    with pytest.raises(InputError, match=r"label image is 32 × 20|modality 'sar'"):
        load_scene(scene_config)


def test_geo_referenced_grids_are_joined_on_the_reference_and_said(scene_config, geotiff, tmp_path):
    random = np.random.default_rng(0)
    geotiff("fine.tif", random.random((48, 40, 3)).astype(np.float32), pixel=5.0)
    geotiff("coarse.tif", random.random((8, 6, 4)).astype(np.float32), pixel=30.0)
    geotiff("labels.tif", random.integers(1, 4, (24, 20)).astype(np.uint8), pixel=10.0)
    scene_config.modalities = ConfigDict({"coarse": {"file": "coarse.tif"}, "fine": {"file": "fine.tif"}})
    scene_config.reference = "fine"
    scene_config.labels.file = "labels.tif"
    scene = load_scene(scene_config)
    assert scene.shape == (48, 40)
    assert scene.georeference.transform[0] == 5.0
    assert not scene.modalities["coarse"].valid[:, 36:].any()
    assert scene.modalities["coarse"].valid[:, :36].all()
    assert scene.valid.all()
    assert "coarse: resampled (bilinear) from 8 × 6 at 30 (EPSG:32633) to 48 × 40 at 5" in said(scene)
    assert "label image resampled (nearest) from 24 × 20 at 10" in said(scene)


def test_pixels_that_no_modality_sees_are_in_no_mask_and_no_statistic(scene_config, files):
    image = np.random.default_rng(0).standard_normal((32, 24, 5)).astype(np.float32)
    radar = np.full((32, 24, 2), -12, np.float32) + image[..., :2]
    image[:, :4], radar[:, :4], radar[:, 4:6] = -9999, np.nan, np.nan
    files(hsi=image, sar=radar)
    scene_config.modalities.hsi.nodata = -9999
    scene_config.split.per_class = 5
    scene = load_scene(scene_config)
    np.testing.assert_array_equal(scene.valid, np.indices((32, 24))[1] >= 4)
    for mask in scene.masks.values():
        assert not mask[:, :4].any()
    assert scene.masks["test"][:, 4:6].any()
    whitened = apply_band_transform(fit_band_transform(scene.modalities["hsi"]), scene.modalities["hsi"])
    assert np.abs(whitened[:, 4:].mean(axis=(0, 1))).max() < 1e-5
    assert (scene.modalities["sar"].image[:, :6] == 0).all()


def test_a_band_without_a_valid_pixel_is_named(scene_config, files):
    image = np.ones((32, 24, 3), np.float32)
    image[..., 1] = np.nan
    files(hsi=image)
    with pytest.raises(InputError, match=r"hsi.npy: band 'band 2' of modality 'hsi' has no valid pixel"):
        load_scene(scene_config)


def test_a_pixel_that_lacks_one_band_is_left_out_and_said(scene_config, files):
    image = np.random.default_rng(0).random((32, 24, 3)).astype(np.float32)
    image[5, 6, 2] = np.inf
    files(hsi=image)
    scene = load_scene(scene_config)
    assert np.argwhere(~scene.modalities["hsi"].valid).tolist() == [[5, 6]]
    assert "1 pixels lack some of the bands" in said(scene)


def test_linear_power_becomes_decibels_and_zero_power_is_no_measurement(scene_config, files):
    power = np.full((32, 24, 2), 0.01, np.float32)
    power[0, 0, 0], power[1, 1] = 0.0, 0.1
    files(sar=power)
    scene_config.modalities.sar.scale = "db"
    sar = load_scene(scene_config).modalities["sar"]
    np.testing.assert_allclose(sar.image[1, 1], -10.0, rtol=1e-6)
    assert not sar.valid[0, 0]
    assert sar.valid.sum() == 32 * 24 - 1


def test_sar_in_linear_power_is_detected_and_left_on_request(scene_config, files):
    power = 10 ** ((-12 + np.random.default_rng(0).standard_normal((32, 24, 2))) / 10)
    power[0, 0] = 0
    files(sar=power.astype(np.float32))
    scene = load_scene(scene_config)
    np.testing.assert_allclose(scene.modalities["sar"].image[1:], 10 * np.log10(power[1:]), rtol=1e-5)
    assert np.argwhere(~scene.modalities["sar"].valid).tolist() == [[0, 0]]
    assert "sar: no value is negative, so it holds linear power: 10 log10 of it, decibels, is taken" in said(scene)
    scene_config.modalities.sar.scale = "none"
    left = load_scene(scene_config)
    np.testing.assert_allclose(left.modalities["sar"].image, power, rtol=1e-6)
    assert "decibels" not in said(left)


def test_sar_in_decibels_and_optical_images_without_negatives_are_left(scene_config, files):
    folder = files(hsi=np.random.default_rng(0).random((32, 24, 5)).astype(np.float32))
    scene = load_scene(scene_config)
    for name in ("hsi", "sar"):
        np.testing.assert_array_equal(scene.modalities[name].image, np.load(folder / f"{name}.npy"))


def test_a_factor_and_the_files_own_scale_reach_the_image_and_not_the_nodata_value(scene_config, geotiff, files):
    files()
    image = np.full((32, 24, 2), 2000, np.int16)
    image[0, 0] = -1
    path = geotiff("hsi.tif", image)
    scene_config.modalities.hsi = {"file": "hsi.tif", "nodata": -1, "scale": 1e-4}
    hsi = load_scene(scene_config).modalities["hsi"]
    np.testing.assert_allclose(hsi.image[1:], 0.2, rtol=1e-6)
    assert np.argwhere(~hsi.valid).tolist() == [[0, 0]]
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (1e-4, 1e-4), (-0.1, -0.1)
    scene_config.modalities.hsi = {"file": "hsi.tif", "nodata": -1}
    scene = load_scene(scene_config)
    np.testing.assert_allclose(scene.modalities["hsi"].image[1:], 0.1, rtol=1e-5)
    assert np.argwhere(~scene.modalities["hsi"].valid).tolist() == [[0, 0]]
    assert "hsi: scaled as the file declares, the first band by 0.0001 and -0.1" in said(scene)


def test_names_and_wavelengths_of_the_configuration_are_taken(scene_config, files):
    files()
    scene_config.modalities.hsi.names = ("a", "b", "c", "d", "e")
    scene_config.modalities.hsi.wavelengths = (450, 550, 650, 850, 1600)
    hsi = load_scene(scene_config).modalities["hsi"]
    assert hsi.bands == ("a", "b", "c", "d", "e")
    assert hsi.wavelengths == (450.0, 550.0, 650.0, 850.0, 1600.0)
    scene_config.modalities.sar.names = ("VV",)
    with pytest.raises(InputError, match=r"sar.names lists 1 entries, the image has 2 bands"):
        load_scene(scene_config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(source="web"), r"scene.source is 'web'"),
        (lambda config: config.update(reference="lidar"), r"scene.reference is 'lidar', expected one of"),
        (lambda config: config.modalities.sar.update(kind="radar"), r"sar.kind is 'radar', expected one of optical"),
        (lambda config: config.modalities.sar.update(scale="log"), r"sar.scale is 'log'"),
        (lambda config: config.split.update(kind="random"), r"scene.split.kind is 'random'"),
        (lambda config: config.split.update(kind="masks"), r"needs scene.split.train_file"),
        (lambda config: config.modalities.sar.update(file=""), r"scene.modalities.sar.file is empty"),
        (lambda config: config.modalities.sar.update(knd="sar"), r"sar has no field 'knd'; did you mean 'kind'"),
        (lambda config: config.modalities.sar.update(file="sra.npy"), r"sra.npy does not exist; .*sar.npy"),
    ],
)
def test_a_wrong_field_is_answered_with_what_was_expected(scene_config, files, change, message):
    files()
    scene_config.modalities.sar.unlock()
    change(scene_config)
    with pytest.raises(InputError, match=message):
        load_scene(scene_config)


def test_one_modality_is_not_enough(scene_config, files):
    files()
    del scene_config.modalities["sar"]
    with pytest.raises(InputError, match="two modalities or more"):
        load_scene(scene_config)


def test_a_scene_without_labels_can_still_be_read(scene_config, files):
    files()
    scene_config.labels.file = ""
    scene_config.labels.names = ConfigDict({"1": "water", "2": "trees"})
    scene = load_scene(scene_config)
    assert (scene.labels == -1).all()
    assert [entry.name for entry in scene.classes] == ["water", "trees"]
    assert not any(mask.any() for mask in scene.masks.values())
    assert "mapped, not trained on" in said(scene)


def test_a_dropped_class_leaves_the_table_and_the_labels(scene_config, files):
    labels = np.repeat(np.arange(1, 5), 8)[:, None] * np.ones((1, 24), np.int64)
    labels[8:16] = 1
    labels[8:10, :3] = 2
    files(labels=labels.astype(np.uint8))
    scene_config.split.kind, scene_config.split.guard, scene_config.split.block = "blocks", 1, 4
    scene_config.labels.minimum_test_pixels = 20
    scene = load_scene(scene_config)
    assert [entry.name for entry in scene.classes] == ["class 1", "class 3", "class 4"]
    assert np.unique(scene.labels).tolist() == [-1, 0, 1, 2]
    assert (scene.labels == -1).sum() == 6
    assert "class 'class 2' has 6 labelled pixels" in said(scene)


class TestBenchmarkLayouts:
    """Small files laid out as the benchmark scenes are distributed."""

    @pytest.fixture
    def cube(self):
        random = np.random.default_rng(0)
        truth = random.integers(0, 4, (20, 15))
        train = np.argwhere(truth > 0)[::4]
        test = np.delete(np.argwhere(truth > 0), np.s_[::4], axis=0)
        return {
            "hsi": random.random((20, 15, 6)),
            "sar": random.random((20, 15, 4)),
            "gt": truth,
            "train": train,
            "test": test,
        }

    @pytest.mark.parametrize("version", ["5", "7.3"])
    def test_matlab_files_with_lists_of_indices(self, scene_config, tmp_path, cube, version):
        content = {
            "berlin_hsi.mat": {"berlin_hsi": cube["hsi"]},
            "berlin_sar.mat": {"berlin_sar": cube["sar"]},
            "berlin_gt.mat": {"berlin_gt": cube["gt"]},
            "berlin_index.mat": {"berlin_train": cube["train"], "berlin_test": cube["test"]},
        }
        for name, variables in content.items():
            if version == "5":
                scipy.io.savemat(tmp_path / name, variables)
            else:
                with h5py.File(tmp_path / name, "w", userblock_size=512) as file:
                    for key, values in variables.items():
                        file[key] = values.T
        scene_config.modalities = ConfigDict(
            {name: {"file": f"berlin_{name}.mat", "key": f"berlin_{name}"} for name in ("hsi", "sar")}
        )
        scene_config.labels.update(file="berlin_gt.mat", key="berlin_gt")
        scene_config.split.update(
            kind="masks", train_file="berlin_index.mat", test_file="berlin_index.mat",
            train_key="berlin_train", test_key="berlin_test",
        )  # fmt: skip
        scene = load_scene(scene_config)
        np.testing.assert_array_equal(scene.centres("train"), cube["train"])
        np.testing.assert_array_equal(scene.centres("test"), cube["test"])
        np.testing.assert_array_equal(scene.labels, cube["gt"] - 1)
        np.testing.assert_allclose(scene.modalities["hsi"].image, cube["hsi"], rtol=1e-6)
        assert len(scene.sources) == 4

    def test_training_and_test_images_that_hold_the_classes(self, scene_config, files, tmp_path, cube):
        train, test = np.zeros_like(cube["gt"]), np.zeros_like(cube["gt"])
        train[tuple(cube["train"].T)] = cube["gt"][tuple(cube["train"].T)]
        test[tuple(cube["test"].T)] = cube["gt"][tuple(cube["test"].T)]
        scipy.io.savemat(tmp_path / "TrainImage.mat", {"TrainImage": train.astype(np.uint8)})
        scipy.io.savemat(tmp_path / "TestImage.mat", {"TestImage": test.astype(np.uint8)})
        files(hsi=cube["hsi"], sar=cube["sar"])
        scene_config.labels.file = ""
        scene_config.split.update(kind="masks", train_file="TrainImage.mat", test_file="TestImage.mat")
        scene = load_scene(scene_config)
        np.testing.assert_array_equal(scene.labels, cube["gt"] - 1)
        np.testing.assert_array_equal(scene.masks["train"], train > 0)
        np.testing.assert_array_equal(scene.masks["test"], test > 0)

    def test_indices_that_overlap_are_refused(self, scene_config, files, tmp_path, cube):
        files(hsi=cube["hsi"], sar=cube["sar"], labels=cube["gt"])
        np.savez(tmp_path / "index.npz", train=cube["train"], test=np.concatenate([cube["test"], cube["train"][:3]]))
        scene_config.split.update(
            kind="masks", train_file="index.npz", test_file="index.npz", train_key="train", test_key="test"
        )
        with pytest.raises(InputError, match="share 3 pixels"):
            load_scene(scene_config)

    def test_indices_counted_from_one_are_recognised(self, scene_config, files, tmp_path, cube):
        files(hsi=cube["hsi"], sar=cube["sar"], labels=cube["gt"])
        np.save(tmp_path / "train.npy", np.array([[1, 1], [20, 15], [3, 4]]))
        scene_config.split.update(kind="masks", train_file="train.npy")
        with pytest.raises(InputError, match=r"rows 1 to 20 and columns 1 to 15.*subtract 1"):
            load_scene(scene_config)

    def test_without_a_test_mask_everything_else_is_tested(self, scene_config, files, tmp_path, cube):
        files(hsi=cube["hsi"], sar=cube["sar"], labels=cube["gt"])
        np.save(tmp_path / "train.npy", cube["train"])
        scene_config.split.update(kind="masks", train_file="train.npy")
        np.testing.assert_array_equal(load_scene(scene_config).centres("test"), cube["test"])
