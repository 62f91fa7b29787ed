"""What a user gets wrong about data, from the command line: status 2, one clear message a mistake, no traceback."""

import io
import pickle
import re
import zipfile

import h5py
import numpy as np
import pytest
import rasterio
import scipy.io

from bdgf_jax import caching, configuration
from bdgf_jax.cli import main
from bdgf_jax.run import open_run
from bdgf_jax.scenes import drawing

CONFIG = """
from bdgf_jax import configuration


def get_config(size=""):
    config = configuration.load("base")
    config.scene.folder = {folder!r}
    config.scene.modalities.hsi = {{"file": "hsi.npy"}}
    config.scene.modalities.sar = {{"file": "sar.npy", "kind": "sar"}}
    config.scene.labels.file = "labels.npy"
    config.scene.split.kind = "per_class"
    {change}
    return config
"""
MASKS = 'config.scene.split.update(kind="masks", train_file="train.npy", test_file="test.npy")'
SHAPE = (24, 20)
RANDOM = np.random.default_rng(0)
HSI = RANDOM.standard_normal((*SHAPE, 5)).astype(np.float32)
SAR = RANDOM.standard_normal((*SHAPE, 2)).astype(np.float32) - 12
LABELS = np.repeat(np.arange(1, 4), 8)[:, None] * np.ones((1, 20), np.int64)


@pytest.fixture
def bdgf(tmp_path, capsys, monkeypatch):
    """Writes a scene and its config, runs a command on it, and returns its status, output and error output."""
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(drawing, "draw_scene", lambda scene, path: None)
    monkeypatch.setattr(caching, "use_compilation_cache", lambda: None)

    def run(*arguments, change="", command="inspect", **arrays):
        for name, array in {"hsi": HSI, "sar": SAR, "labels": LABELS, **arrays}.items():
            np.save(tmp_path / f"{name}.npy", array)
        (tmp_path / "scene.py").write_text(CONFIG.format(folder=str(tmp_path), change=change or "pass"))
        workdir = [] if "--workdir" in arguments else ["--workdir", str(tmp_path / "run")]
        status = main([command, "--config", str(tmp_path / "scene.py"), *workdir, *map(str, arguments)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.out, said.err

    return run


def with_values(array, where, value):
    array = array.astype(np.float64)
    array[where] = value
    return array


def rows(out):
    """Severity, subject and message of every finding in the printed table."""
    table = [line for line in out.splitlines() if re.match(r"^│ (error|warning|note) ", line)]
    return [tuple(re.split(r"\s*│\s*", line)[1:4]) for line in table]


def test_a_sound_scene_passes(bdgf):
    status, out, err = bdgf()
    assert (status, err) == (0, "")
    assert {severity for severity, _, _ in rows(out)} == {"note", "warning"}


@pytest.mark.parametrize(
    ("arrays", "change", "message"),
    [
        # Bands.
        ({"hsi": with_values(HSI, np.s_[..., 1], np.nan)}, "", "hsi.npy: band 'band 2' of modality 'hsi' has no valid"),
        (
            {"hsi": with_values(HSI, np.s_[..., 1], -99)},
            "config.scene.modalities.hsi.nodata = -99",
            "hsi.npy: band 'band 2' of modality 'hsi' has no valid pixel; leave it out with `bands`",
        ),
        (
            {"hsi": with_values(with_values(HSI, np.s_[:12, :, 0], np.nan), np.s_[12:, :, 1], np.inf)},
            "",
            "hsi.npy: no pixel of modality 'hsi' is valid in every band; check the nodata value.",
        ),
        (
            {"hsi": np.full_like(HSI, 7)},
            "",
            "5 bands 'band 1', 'band 2', 'band 3', 'band 4' … constant (7), and nothing",
        ),
        ({}, "config.scene.modalities.hsi.bands = (1, 6)", "hsi.npy: band 6 was selected, the file has bands 1 to 5."),
        ({"hsi": HSI + 1j}, "", "hsi.npy: modality 'hsi' holds complex values; give amplitudes"),
        # Grids.
        ({"sar": SAR[:-1]}, "", "modality 'sar' is 23 × 20 without geo-reference pixels, the reference grid 24 × 20"),
        (
            {"labels": LABELS[:, 1:]},
            "",
            "the label image is 24 × 19 without geo-reference pixels, the reference grid 24",
        ),
        # Labels.
        ({"labels": LABELS + 0.5}, "", "labels.npy holds fractions such as 1.5, 2.5, 3.5; whole numbers are expected."),
        (
            {"labels": with_values(LABELS, np.s_[0, :2], (-1, -9999))},
            "",
            "labels.npy holds the negative values [-9999, -1]; list those that mean unlabelled in scene.labels.ignore.",
        ),
        ({"labels": LABELS - 2}, "", "labels.npy holds -1 and 0, and scene.labels.ignore lists 0: is 0 a class? Write"),
        (
            {"labels": np.minimum(LABELS, 1)},
            "",
            "labels.npy holds the classes [1] besides the unlabelled values [0]; two",
        ),
        (
            {"labels": np.zeros_like(LABELS)},
            "",
            "labels.npy holds the classes [] besides the unlabelled values [0]; two",
        ),
        (
            {},
            'config.scene.labels.names = {"1": "water", "2": "trees"}',
            "labels.npy holds the values [1, 2, 3], but scene.labels.names has no name for [3]; name them, or list",
        ),
        # Masks.
        (
            {"train": LABELS == 1, "test": LABELS > 0},
            MASKS,
            "the training and the test mask share 160 pixels, the first at row 0, column 0; take them out",
        ),
        (
            {"train": LABELS < 3, "test": LABELS == 3},
            MASKS,
            "classes [2] (counted from 0) have test pixels and no training pixel; add some, or list their values in",
        ),
        (
            {"train": LABELS < 3, "test": LABELS > 3},
            MASKS,
            "the test mask holds no labelled pixel; check scene.split.te",
        ),
        (
            {"train": LABELS < 3, "test": LABELS[1:]},
            MASKS,
            "the test mask is 23 × 20 without geo-reference pixels, the",
        ),
        # Fields.
        (
            {},
            'config.scene.refrence = "sar"',
            "there is no field config.scene.refrence. Did you mean config.scene.refe",
        ),
        ({}, 'config.train.steps = "many"', 'line 12: `config.train.steps = "many"` cannot be used: TypeError'),
        (
            {},
            'config.scene.labels = {"file": "labels.npy"}',
            "config.scene.labels.attribute is gone, since config.scene.labels was replaced as a whole",
        ),
        (
            {},
            'config.scene.modalities.hsi = {"file": "hsi.npy", "band": (1,)}',
            "scene.modalities.hsi has no field 'band",
        ),
        (
            {},
            'del config.scene.modalities["hsi"]; config.scene.modalities.hsi = "hsi.npy"',
            "scene.modalities.hsi is 'hsi.npy', expected fields such as {\"file\": 'hsi.npy'}.",
        ),
        (
            {},
            'del config.scene.modalities["hsi"]',
            "scene.modalities holds ['sar']; a multimodal scene needs two modalities or more, each with a `file`.",
        ),
        ({}, "config.scene.labels.ignore = 0", "scene.py, line 12: `config.scene.labels.ignore = 0` cannot be used"),
        (
            {},
            'config.scene.modalities.hsi.bands = "1,2"',
            "scene.modalities.hsi.bands is '1,2', expected band numbers co",
        ),
        (
            {},
            'config.scene.modalities.hsi.nodata = "none"',
            "scene.modalities.hsi.nodata is 'none', expected a number, s",
        ),
    ],
)
def test_a_mistake_is_named_with_what_was_found_and_expected(bdgf, arrays, change, message):
    status, out, err = bdgf(change=change, **arrays)
    assert status == 2
    assert message in err
    # What is wrong with the config is said before any file is opened; all else stands in the table, too.
    told = [text for severity, _, text in rows(out) if severity == "error"]
    assert any(message in text for text in told) or not out


def test_all_mistakes_are_told_at_once_and_a_run_tells_the_same(bdgf):
    arrays = {"sar": SAR[:-1], "labels": LABELS + 0.5}
    change = "config.scene.modalities.hsi.bands = (9,)\n    config.scene.reference = 'sar'"
    for command in ("inspect", "run"):
        status, out, err = bdgf(change=change, command=command, **arrays)
        assert status == 2
        assert len(err.strip().splitlines()) == 2
        assert "hsi.npy: band 9 was selected" in err
        assert "the label image is 24 × 20 without geo-reference pixels" in err
        assert [subject for severity, subject, _ in rows(out) if severity == "error"] == (
            ["hsi", "labels"] if command == "inspect" else []
        )


@pytest.mark.parametrize(
    ("arrays", "change", "finding"),
    [
        (
            {"labels": LABELS - 1},
            'config.scene.labels.update(ignore=(), names={"1": "a", "2": "b", "3": "c"})',
            ("warning", "labels", "labels.npy holds 0 … 2; read as 1 … 3, which the names say."),
        ),
        (
            {"labels": with_values(LABELS, np.s_[0, :4], 255)},
            "",
            ("warning", "labels", "labels.npy: 4 pixels of value 255 are taken as unlabelled."),
        ),
        (
            {"labels": with_values(LABELS, np.s_[0, :4], -1)},
            "",
            ("warning", "labels", "labels.npy: 4 pixels of value -1 are taken as unlabelled."),
        ),
        (
            {},
            'config.scene.labels.names = {1: "a", 2: "b", 3: "c"}',
            ("note", "labels", "100.0% of the pixels are labelled, 3 classes."),
        ),
        (
            {"labels": LABELS * 1.0},
            "",
            ("note", "labels", "labels.npy is stored as float64, all values are whole numbers."),
        ),
        (
            {"hsi": with_values(HSI, np.s_[:2, :2], -9999)},
            "",
            ("warning", "hsi", "-9999 stands apart from all other values in 5 bands 'band 1', 'band 2', 'band 3',"),
        ),
        (
            {"hsi": with_values(HSI, np.s_[:2, :2], -9999)},
            "config.scene.modalities.hsi.nodata = -9999",
            ("note", "hsi", "4 pixels (0.83%) are nodata."),
        ),
        (
            {"hsi": with_values(HSI, np.s_[:2, :2, 0], np.nan)},
            "",
            ("warning", "hsi", "4 pixels lack some of the bands and are left out altogether."),
        ),
        (
            {"hsi": with_values(HSI, np.s_[..., 1], 3)},
            "",
            ("warning", "hsi", "band 'band 2' constant; whitening drops"),
        ),
        ({"sar": np.exp(SAR)}, "", ("note", "sar", "no value is negative, so it holds linear power: 10 log10 of it,")),
    ],
)
def test_what_has_one_reading_is_taken_and_said(bdgf, arrays, change, finding):
    status, out, err = bdgf(change=change, **arrays)
    assert (status, err) == (0, "")
    severity, subject, message = finding
    assert any((one, of) == (severity, subject) and text.startswith(message) for one, of, text in rows(out))


class Bomb:
    fired = False

    def __reduce__(self):
        return (setattr, (Bomb, "fired", True))


def a_text(path):
    path.write_text("no image at all")


def a_pickle(path):
    path.write_bytes(pickle.dumps(Bomb()))


def pickled_objects(path):
    np.save(path, np.array([Bomb()], dtype=object), allow_pickle=True)


def a_promise_beyond_memory(path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6, 8)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hsi.npy", header.getvalue() + bytes(2**20))


def a_structure(path):
    scipy.io.savemat(path, {"hsi": {"image": HSI}})


def a_link_elsewhere(path):
    with h5py.File(path, "w") as file:
        file["hsi"] = h5py.ExternalLink("/etc/passwd", "hsi")


def cut_short(path):
    profile = {"driver": "GTiff", "height": 64, "width": 64, "count": 3, "dtype": "float32"}
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(RANDOM.random((3, 64, 64)).astype(np.float32))
    path.write_bytes(path.read_bytes()[:9000])


def one_band_short(path):
    path.write_bytes(bytes(24 * 20 * 4))
    path.with_suffix(".hdr").write_text("ENVI\nsamples = 20\nlines = 24\nbands = 5\ndata type = 4\ninterleave = bsq\n")


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("hsi.tif", a_text, "hsi.tif cannot be read as GeoTIFF or ENVI ("),
        ("hsi.tif", cut_short, "hsi.tif cannot be read as GeoTIFF or ENVI ("),
        ("hsi.bsq", one_band_short, "hsi.bsq is cut short: its header promises 9600 bytes, the file holds 1920."),
        ("hsi.mat", a_text, "hsi.mat cannot be read as a MATLAB file ("),
        ("hsi.mat", a_structure, "hsi.mat, variable 'hsi' is a MATLAB struct, a numeric array is expected."),
        ("pickle.npy", a_pickle, "pickle.npy cannot be read as .npy ("),
        (
            "objects.npy",
            pickled_objects,
            "objects.npy holds pickled Python objects, which can run code when opened and",
        ),
        ("hsi.npz", a_pickle, "hsi.npz cannot be read as .npz ("),
        ("hsi.npz", a_promise_beyond_memory, "hsi.npz says that it holds 1000000 × 1000000 × 8 values of type float64"),
        ("hsi.h5", a_text, "hsi.h5 is no HDF5 file, though its name says so; it may be cut short or renamed."),
        ("hsi.h5", a_link_elsewhere, "hsi.h5 holds nothing; set `key` to the wanted one."),
        ("hsi.xyz", None, "hsi.xyz does not exist; "),
    ],
)
def test_a_broken_or_hostile_file_is_refused_and_never_run(bdgf, tmp_path, name, write, message):
    if write:
        write(tmp_path / name)
    status, _, err = bdgf(change=f"config.scene.modalities.hsi.file = {name!r}")
    assert status == 2
    assert message in err
    assert not Bomb.fired


def test_an_archive_that_points_outside_writes_nothing_there(bdgf, tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, HSI)
    with zipfile.ZipFile(tmp_path / "hsi.npz", "w") as archive:
        archive.writestr("../escaped.npy", buffer.getvalue())
    status, _, err = bdgf(change='config.scene.modalities.hsi.file = "hsi.npz"')
    assert (status, err) == (0, "")
    assert not list(tmp_path.parent.glob("**/escaped.npy"))


def test_a_scene_smaller_than_a_patch_is_fine(bdgf):
    small = np.s_[::4, ::4]
    status, _, err = bdgf(hsi=HSI[small], sar=SAR[small], labels=LABELS[small], change="config.classifier.patch = 11")
    assert (status, err) == (0, "")


def test_an_output_folder_that_cannot_be_written_is_said_before_the_scene_is_read(bdgf, tmp_path):
    (tmp_path / "file").touch()
    for command in ("inspect", "run"):
        status, _, err = bdgf("--workdir", tmp_path / "file" / "run", command=command, labels=LABELS + 0.5)
        assert status == 2
        assert f"--workdir {tmp_path}/file/run: cannot be written (Not a directory)." in err


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("red", "green", "blue"),
            "modality 'hsi': band 1 is 'red' where the model was trained on 'blue': the same bands",
        ),
        (("blue", "green"), "modality 'hsi': the bands are not those that the model was trained on: missing ['red']"),
        (("blue", "green", "nir"), "missing ['red'], not known to it ['nir']; select the model's bands with `bands`"),
    ],
)
def test_a_model_refuses_absent_and_reordered_bands_by_name(bdgf, tmp_path, names, message):
    write_image(tmp_path / "hsi.tif", ("blue", "green", "red"))
    change = 'config.scene.modalities.hsi.file = "hsi.tif"'
    assert bdgf(change=change)[0] == 0
    workdir = tmp_path / "run"
    open_run(configuration.load(str(tmp_path / "scene.py")), workdir)
    (workdir / "pretrain" / "checkpoints").mkdir(parents=True)
    write_image(tmp_path / "hsi.tif", names)
    status, _, err = bdgf(change=change, command="predict")
    assert status == 2
    assert message in err


def test_a_model_refuses_other_classes_by_name_and_keeps_its_statistics(bdgf, tmp_path):
    assert bdgf()[0] == 0
    config, workdir = configuration.load(str(tmp_path / "scene.py")), tmp_path / "run"
    statistics = lambda: open_run(config, workdir).transforms["hsi"].to_dict()
    before = statistics()
    np.save(tmp_path / "hsi.npy", HSI * 2 + 1)
    untrained = statistics()
    assert untrained != before
    (workdir / "train" / "checkpoints").mkdir(parents=True)
    np.save(tmp_path / "hsi.npy", HSI)
    assert statistics() == untrained
    status, _, err = bdgf(command="predict", labels=np.where(LABELS == 3, 7, LABELS))
    assert status == 2
    assert "holds a model of the classes class 1, class 2, class 3; the scene has class 1, class 2, class 7." in err


def write_image(path, names):
    profile = {"driver": "GTiff", "height": SHAPE[0], "width": SHAPE[1], "count": len(names), "dtype": "float32"}
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(np.moveaxis(HSI[..., : len(names)], -1, 0))
        dataset.descriptions = names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def get_config(size=''):\n    return 1 / 0",
            "scene.py, line 2: `return 1 / 0` cannot be used: ZeroDivisionError",
        ),
        ("def get_config(:", "scene.py cannot be used: SyntaxError: invalid syntax"),
        ("steps = 3", "scene.py: there is no function get_config(size) in it; see `base`."),
    ],
)
def test_a_config_that_is_no_program_is_refused(tmp_path, capsys, text, message):
    (tmp_path / "scene.py").write_text(text)
    assert main(["inspect", "--config", str(tmp_path / "scene.py")]) == 2
    assert message in capsys.readouterr().err
