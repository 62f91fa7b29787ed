"""Maps made window by window, beside the same ones in one piece."""

import json
import os
import shutil
import xml.etree.ElementTree as ElementTree

import jax
import numpy as np
import pytest
import rasterio
from affine import Affine
from ml_collections import ConfigDict

from bdgf_jax import cli, configuration, extraction, networks, scoring, windowed
from bdgf_jax.diffusion.denoiser import build_denoiser
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.maps import read_absent
from bdgf_jax.many import find_scenes
from bdgf_jax.model import read_model
from bdgf_jax.run import open_run, read_json
from bdgf_jax.scenes import context
from bdgf_jax.scenes.loading import load_scene
from bdgf_jax.scenes.windows import open_windows
from bdgf_jax.training.checkpoints import Checkpoints
from bdgf_jax.training.state import initial_state

TRAINING = [
    f"--config.{override}"
    for override in (
        "scene.synthetic.bands=8",
        "diffusion.multipliers=(1,2)",
        "features.levels=(0,1)",
        "features.timesteps=(5,)",
        "features.draws=2",
        "features.tile=16",
        "features.margin=8",
        "pretrain.steps=2",
        "classifier.branches=('cnn','transformer')",
        "classifier.patch=5",
        "classifier.centre=3",
        "classifier.stages=3",
        "train.steps=2",
        "train.evaluate_every=0",
        "predict.batch_size=64",
    )
]
MAPPED = ("map.tif", "confidence.tif", "uncertainty.tif", "probabilities.tif")
SHAPE = (101, 77)  # which neither tiles, windows nor strides divide

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """Blocks of the classical context that a scene this small has several of."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in ((context, "BLOCK", 32), (windowed, "BLOCK", 32), (context, "MARGIN", 16)):
            patch.setattr(module, name, value)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The workdir of a model, as if each training had ended with its first step."""
    run = open_run(configuration.load("demo:tiny", TRAINING), tmp_path_factory.mktemp("model") / "run")
    save(run.workdir / "pretrain", build_denoiser(run.config.diffusion, run.channels, 0)[1])
    save(run.workdir / "train", networks.build(run, extraction.features(run))[1])
    return run.workdir


def save(folder, parameters):
    # Heads start at zero, and would find all classes alike.
    rng = np.random.default_rng(0)
    stirred = jax.tree.map(lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape).astype(leaf.dtype), parameters)
    with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(1, initial_state(stirred, (), ()))


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    """The config of a larger scene in GeoTIFFs, with pixels that one or all of the sensors did not see."""
    folder = tmp_path_factory.mktemp("scene")
    config = configuration.load("demo:tiny", TRAINING)
    config.scene.synthetic.update(height=SHAPE[0], width=SHAPE[1], seed=1)
    config.scene.split.block = 4
    for name, modality in load_scene(config.scene).modalities.items():
        image = np.where(modality.valid[..., None], modality.image, np.float32(-9999))
        image[40:72, 20:60] = -9999  # a window of 32 pixels, and what is around it
        if name == "sar":
            image[:9] = -9999
        write_geotiff(folder / f"{name}.tif", image, modality.bands)
    kinds = {"hsi": "optical", "sar": "sar", "height": "height"}
    fields = {name: {"file": f"{name}.tif", "kind": kind, "scale": "none"} for name, kind in kinds.items()}
    text = f"""
from ml_collections import ConfigDict
from bdgf_jax import configuration
def get_config(size=""):
    config = configuration.load("base")
    config.scene.name, config.scene.folder = "large", {str(folder)!r}
    config.scene.modalities = ConfigDict({fields!r}, sort_keys=False)
    config.predict.update(stride=2, batch_size=64, probabilities=True)
    return config
"""
    (folder / "large.py").write_text(text)
    return folder / "large.py"


def write_geotiff(path, image, bands):
    height, width, count = image.shape
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 400_000, 0, -10, 5_800_000)}
    shape = {"height": height, "width": width, "count": count, "dtype": "float32", "nodata": -9999}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place) as file:
        file.write(np.moveaxis(image, -1, 0))
        file.descriptions = bands


def predict(config_file, model, workdir, *overrides):
    arguments = ["--config", str(config_file), "--model", str(model), "--workdir", str(workdir), *overrides]
    return cli.main(["predict", *arguments])


@pytest.fixture(scope="module")
def in_one_piece(config_file, model, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    assert predict(config_file, model, workdir) == 0
    return workdir


def check_same(folder, expected):
    for name in MAPPED:
        with rasterio.open(folder / name) as file, rasterio.open(expected / name) as other:
            np.testing.assert_allclose(file.read(), other.read(), atol=0 if name == "map.tif" else 1e-6, err_msg=name)
            assert file.profile == other.profile
            assert file.descriptions == other.descriptions
            if name == "map.tif":
                assert file.colormap(1) == other.colormap(1)
    for name in ("map.tif.aux.xml", "map.qml", "map.png"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes()


def test_the_map_by_windows_is_that_of_one_piece_in_memory_that_does_not_hold_the_scene(
    config_file, model, in_one_piece, tmp_path, monkeypatch, capsys
):
    # Windows of 32 pixels are read with 24 more on each side. The image of 8 bands takes 101 · 77 · 8 · 4 bytes.
    budget = 80 * 80 * 8 * 4 + 1
    monkeypatch.setattr("os.sysconf", lambda name: 1 if name == "SC_PAGE_SIZE" else budget)
    assert predict(config_file, model, tmp_path / "whole") == 2
    assert "this machine has" in capsys.readouterr().err
    assert predict(config_file, model, tmp_path / "windows", "--config.predict.tile=32") == 0
    assert "Mapping  12/12 tile" in capsys.readouterr().err
    check_same(tmp_path / "windows", in_one_piece)
    with rasterio.open(tmp_path / "windows" / "map.tif") as file:
        assert (file.read(1)[40:72, 20:60] == 0).all()
        assert len(np.unique(file.read(1))) > 2


def test_a_smoothed_map_by_windows_is_that_of_one_piece_and_says_so(config_file, model, in_one_piece, tmp_path):
    whole, windows, radius = tmp_path / "whole", tmp_path / "windows", "--config.predict.smoothing=3"
    assert predict(config_file, model, whole, radius) == 0
    windows.mkdir()
    (windows / "vote.json").write_text("{}")  # of an earlier prediction
    assert predict(config_file, model, windows, radius, "--config.predict.tile=32") == 0
    check_same(windows, whole)
    assert (windows / "map.tif").read_bytes() != (in_one_piece / "map.tif").read_bytes()
    assert read_json(windows / "smoothing.json") == {"radius": 3, "validation_aa": {}, "without": None}
    assert not (windows / "vote.json").exists()


def test_a_map_that_was_broken_off_goes_on_with_the_windows_that_are_missing(
    config_file, model, in_one_piece, tmp_path, monkeypatch
):
    mapper, scene = opened(config_file, model)
    wanted = windowed.window_layers
    asked = []

    def killed(*arguments):
        if len(asked) == 5:
            raise KeyboardInterrupt
        asked.append(arguments)
        return wanted(*arguments)

    monkeypatch.setattr(windowed, "window_layers", killed)
    with pytest.raises(KeyboardInterrupt):
        windowed.map_scene(mapper, scene, tmp_path)
    assert not (tmp_path / "map.tif").exists()
    again = []
    monkeypatch.setattr(windowed, "window_layers", lambda *arguments: again.append(arguments) or wanted(*arguments))
    windowed.map_scene(mapper, scene, tmp_path)
    assert len(asked) + len(again) == 12
    check_same(tmp_path, in_one_piece)
    windowed.map_scene(mapper, scene, tmp_path)
    assert len(asked) + len(again) == 12


def opened(config_file, model):
    config = configuration.load(str(config_file), ["--config.predict.tile=32"])
    return windowed.WindowMapper(read_model(model, config)), open_windows(config.scene)


def test_the_workdir_of_a_run_is_mapped_by_windows_as_in_one_piece(model):
    arguments = ["--config", "demo:tiny", *TRAINING, "--workdir", str(model)]
    assert cli.main(["predict", *arguments]) == 0
    read = lambda: rasterio.open(model / "confidence.tif").read()
    whole, described = read(), (model / "scene.json").read_bytes()
    assert cli.main(["predict", *arguments, "--config.predict.tile=16"]) == 0
    np.testing.assert_allclose(read(), whole, atol=1e-6)
    assert (model / "scene.json").read_bytes() == described
    assert cli.main(["predict", *arguments, "--config.predict.tile=16", "--config.train.steps=3"]) == 2


@pytest.fixture
def config_without_sar(config_file, tmp_path):
    """The config of the same scene, of which one file is gone."""
    folder = shutil.copytree(config_file.parent, tmp_path / "gone")
    (folder / "sar.tif").unlink()
    moved = folder / "large.py"
    moved.write_text(moved.read_text().replace(str(config_file.parent), str(folder)))
    return moved


def test_a_scene_is_mapped_without_a_sensor_by_windows_as_in_one_piece(
    config_without_sar, model, in_one_piece, tmp_path, capsys
):
    assert predict(config_without_sar, model, tmp_path / "whole") == 2
    assert "sar.tif" in capsys.readouterr().err
    assert predict(config_without_sar, model, tmp_path / "whole", "--without", "sar") == 0
    windows = ["--without", "sar", "--config.predict.tile=32"]
    assert predict(config_without_sar, model, tmp_path / "windows", *windows) == 0
    check_same(tmp_path / "windows", tmp_path / "whole")
    assert read_absent(tmp_path / "windows" / "map.tif") == read_absent(tmp_path / "whole" / "map.tif") == ["sar"]
    assert read_absent(in_one_piece / "map.tif") == []
    shares = [rasterio.open(folder / "probabilities.tif").read() for folder in (tmp_path / "whole", in_one_piece)]
    assert (shares[0] >= 0).all(0).any()
    assert (shares[0] != shares[1]).any()
    described = json.loads((tmp_path / "whole" / "scene.json").read_text())["modalities"]
    assert [name for name, of in described.items() if of.get("absent")] == ["sar"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("lidar",), "--without lidar: the model knows no such modality; it knows 'hsi', 'sar', 'height'."),
        (("sar", "hsi", "height"), "--without sar hsi height: no modality is left"),
    ],
)
def test_only_modalities_that_the_model_knows_and_not_all_can_be_absent(
    config_file, model, tmp_path, capsys, names, message
):
    for tile in (0, 32):
        assert predict(config_file, model, tmp_path, "--without", *names, f"--config.predict.tile={tile}") == 2
        assert message in capsys.readouterr().err


def test_a_run_maps_its_scene_without_a_sensor_and_is_none_the_worse_for_it(model, capsys, monkeypatch):
    arguments = ["--config", "demo:tiny", *TRAINING, "--workdir", str(model)]
    assert cli.main(["predict", *arguments]) == 0
    read = lambda: rasterio.open(model / "confidence.tif").read()
    whole, described = read(), (model / "scene.json").read_bytes()
    assert cli.main(["predict", *arguments, "--without", "sar"]) == 0
    assert (read() != whole).any()
    run = open_run(configuration.load("demo:tiny", TRAINING), model)
    metrics = scoring.evaluate(run)
    assert metrics["without"] == ["sar"]
    told = {}
    monkeypatch.setattr(scoring, "write_report", lambda path, **report: told.update(report))
    scoring.report(run, metrics)
    assert "was made without sar" in " ".join(told["notes"])
    assert cli.main(["predict", *arguments]) == 0
    np.testing.assert_array_equal(read(), whole)
    assert (model / "scene.json").read_bytes() == described
    capsys.readouterr()
    assert cli.main(["train", *arguments, "--config.predict.without=('sar',)"]) == 2
    assert "`bdgf train` trains, which takes all modalities" in " ".join(capsys.readouterr().err.split())


def test_what_is_known_of_the_scene_lies_beside_its_map(config_file, model, tmp_path):
    mapper, scene = opened(config_file, model)
    windowed.describe(mapper.model, scene, [], tmp_path)
    described = json.loads((tmp_path / "scene.json").read_text())
    assert described["shape"] == list(SHAPE)
    assert described["classes"] == json.loads((model / "scene.json").read_text())["classes"]
    assert [source["path"].rsplit("/")[-1] for source in described["sources"]] == ["hsi.tif", "sar.tif", "height.tif"]
    assert json.loads((tmp_path / "config.json").read_text())["config"]["scene"]["name"] == "large"


def test_a_scene_far_off_the_models_is_said_from_a_sample_of_it(config_file, model, capsys):
    mapper, scene = opened(config_file, model)
    assert not windowed.find_drift(mapper, scene)
    config = configuration.load(str(config_file), ["--config.predict.tile=32"])
    config.scene.modalities.sar = ConfigDict({"file": "sar.tif", "kind": "sar", "scale": 10.0})
    found = windowed.find_drift(mapper, open_windows(config.scene))
    assert [finding.subject for finding in found] == ["sar"]
    assert "sar lies far off what the model was trained on" in capsys.readouterr().err


def test_windows_that_features_do_not_fit_are_refused(config_file, model):
    config = configuration.load(str(config_file), ["--config.predict.tile=40"])
    with pytest.raises(InputError, match=r"multiple of features.tile.* got 40 and 16; 48 would do"):
        windowed.WindowMapper(read_model(model, config))


@pytest.mark.parametrize("field", ["labelled_only", "average_with_vote"])
def test_windows_see_no_labels_that_a_map_could_be_held_to(config_file, model, field):
    overrides = ["--config.predict.tile=32", f"--config.predict.{field}=True"]
    with pytest.raises(InputError, match=rf"predict\.{field} does not go with windows"):
        windowed.WindowMapper(read_model(model, configuration.load(str(config_file), overrides)))


def test_other_bands_are_refused_by_name(config_file, model, tmp_path, capsys):
    assert predict(config_file, model, tmp_path, "--config.predict.tile=32", "--config.scene.reference=hsy") == 2
    assert "scene.reference is 'hsy'" in capsys.readouterr().err
    mapper, _ = opened(config_file, model)
    config = configuration.load(str(config_file))
    config.scene.modalities = ConfigDict({"hsi": {"file": "hsi.tif"}, "sar": {"file": "sar.tif"}}, sort_keys=False)
    with pytest.raises(InputError, match="'height' is missing"):
        next(mapper.predict(open_windows(config.scene)))


def test_a_map_carries_its_class_names(in_one_piece):
    names = [entry.text for entry in ElementTree.parse(in_one_piece / "map.tif.aux.xml").iter("Category")]
    assert names[0] == "no data"
    assert len(names) == 5


@pytest.fixture
def scenes(config_file, tmp_path):
    """Four scenes, the third of them cut short."""
    for index in range(4):
        folder = tmp_path / "scenes" / f"tile_{index}"
        folder.mkdir(parents=True)
        for name in ("hsi", "sar", "height"):
            with rasterio.open(config_file.parent / f"{name}.tif") as file:
                bands, image = file.descriptions, np.moveaxis(file.read(), 0, -1)
            write_geotiff(folder / f"{name}.tif", image[8 * index :][:30, :25], bands)
    broken = tmp_path / "scenes" / "tile_2" / "sar.tif"
    broken.write_bytes(broken.read_bytes()[:400])
    return tmp_path / "scenes"


def predict_many(config_file, model, scenes, out, monkeypatch, rank=0, count=1):
    together = {"WORLD_SIZE": str(count), "RANK": str(rank), "MASTER_ADDR": "node1", "MASTER_PORT": "1"}
    for name, value in together.items():
        monkeypatch.setenv(name, value)
    where = ["--scenes", str(scenes), "--out", str(out), "--config.predict.tile=32"]
    return cli.main(["predict", "--config", str(config_file), "--model", str(model), *where])


def test_processes_share_the_scenes_and_a_broken_one_stops_none_of_them(
    config_file, model, scenes, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "maps"
    assert predict_many(config_file, model, scenes, out, monkeypatch, 1, 2) == 0
    assert {path.name for path in out.glob("tile_*")} == {"tile_1", "tile_3"}
    assert "2 new, 0 there before, 0 failed" in capsys.readouterr().out
    assert predict_many(config_file, model, f"{scenes}/*", out, monkeypatch, 0, 2) == 1
    told = capsys.readouterr()
    assert "1 new, 0 there before, 1 failed" in told.out
    assert "tile_2  " in told.err.partition("could not be mapped:")[2]
    assert "sar.tif cannot be read as GeoTIFF or ENVI" in told.err
    assert {path.parent.name for path in out.glob("*/map.tif")} == {"tile_0", "tile_1", "tile_3"}
    legends = set()
    for path in out.glob("*/map.tif"):
        with rasterio.open(path) as file:
            legends.add((str(file.colormap(1)), (path.parent / "map.tif.aux.xml").read_text()))
    assert len(legends) == 1
    described = json.loads((out / "tile_0" / "scene.json").read_text())
    assert [source["path"].rsplit("/")[-1] for source in described["sources"]] == ["hsi.tif", "sar.tif", "height.tif"]
    assert (out / "legend.qml").read_bytes() == (out / "tile_0" / "map.qml").read_bytes()
    assert json.loads((out / "tile_0" / "scene.json").read_text())["name"] == "tile_0"

    # A restart: the broken tile is mended, one of the others has changed; nothing else is done again.
    shutil.copy(scenes / "tile_0" / "sar.tif", scenes / "tile_2")
    os.utime(scenes / "tile_3" / "hsi.tif")
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/map.tif")}
    assert predict_many(config_file, model, scenes, out, monkeypatch) == 0
    assert "2 new, 2 there before, 0 failed" in capsys.readouterr().out
    kept = {path.parent.name for path, then in before.items() if path.stat().st_mtime_ns == then}
    assert kept == {"tile_0", "tile_1"}


def test_scenes_are_found_by_folder_glob_and_vrt(scenes):
    config = configuration.load("demo:tiny").scene
    config.modalities = ConfigDict({"hsi": {"file": "hsi.tif"}, "sar": {"file": "sar.tif"}}, sort_keys=False)
    names = ["tile_0", "tile_1", "tile_2", "tile_3"]
    assert list(find_scenes(str(scenes), config)) == names
    assert list(find_scenes(f"{scenes}/*_[13]", config)) == ["tile_1", "tile_3"]
    assert find_scenes(str(scenes / "tile_1"), config) == {"tile_1": scenes / "tile_1"}
    source = '<SimpleSource><SourceFilename relativeToVRT="{}">{}</SourceFilename></SimpleSource>'
    sources = source.format(1, "tile_3/hsi.tif") + source.format(0, scenes / "tile_0" / "hsi.tif")
    vrt = scenes / "hsi.vrt"
    vrt.write_text(f'<VRTDataset><VRTRasterBand band="1">{sources}</VRTRasterBand></VRTDataset>')
    assert list(find_scenes(str(vrt), config)) == ["tile_0", "tile_3"]
    vrt.write_text("no XML")
    with pytest.raises(InputError, match=r"hsi\.vrt: cannot be read as a VRT"):
        find_scenes(str(vrt), config)
    with pytest.raises(InputError, match="no folder is there"):
        find_scenes(f"{scenes}/none_*", config)
    shutil.copytree(scenes / "tile_0", scenes / "more" / "tile_0")
    twice = source.format(1, "tile_0/hsi.tif") + source.format(1, "more/tile_0/hsi.tif")
    vrt.write_text(f"<VRTDataset>{twice}</VRTDataset>")
    with pytest.raises(InputError, match=r"more/tile_0 and .*/tile_0 have the same name"):
        find_scenes(str(vrt), config)


def test_where_the_maps_go_has_to_be_said(config_file, model, scenes, capsys):
    with pytest.raises(SystemExit):
        cli.main(["predict", "--config", str(config_file), "--model", str(model), "--scenes", str(scenes)])
    assert "--scenes and --out belong together" in capsys.readouterr().err
