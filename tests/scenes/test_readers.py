import gzip
import io
import pickle
import zipfile

import h5py
import numpy as np
import pytest
import rasterio
import scipy.io

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.raster import refuse_beyond_memory
from bdgf_jax.scenes.readers import describe_source, existing_file, read_array, read_raster


@pytest.fixture
def image():
    return np.arange(5 * 4 * 3).reshape(5, 4, 3).astype(np.int16)


def write_envi(path, image, *, compressed=False):
    height, width, bands = image.shape
    data = np.moveaxis(image, -1, 0).tobytes()
    path.write_bytes(gzip.compress(data) if compressed else data)
    path.with_suffix(".hdr").write_text(
        f"ENVI\nsamples = {width}\nlines = {height}\nbands = {bands}\nheader offset = 0\ndata type = 2\n"
        f"interleave = bsq\nbyte order = 0\nfile compression = {int(compressed)}\ndata ignore value = -99\n"
        "wavelength units = Micrometers\nwavelength = {0.45, 0.55, 0.65}\nband names = {blue, green, red}\n"
    )
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".bsq", ".hdr"])
def test_envi_is_read_with_its_names_wavelengths_and_nodata(tmp_path, image, compressed, suffix):
    image[1, 2, 0] = -99
    path = write_envi(tmp_path / "a.bsq", image, compressed=compressed)
    raster = read_raster(path.with_suffix(suffix))
    np.testing.assert_array_equal(raster.values, image)
    np.testing.assert_array_equal(raster.valid, image != -99)
    assert raster.wavelengths == (450.0, 550.0, 650.0)
    assert [band.split()[0] for band in raster.bands] == ["blue", "green", "red"]


def test_the_divisor_of_envis_reflectance_is_read(tmp_path, image):
    path = write_envi(tmp_path / "a.bsq", image)
    header = path.with_suffix(".hdr")
    header.write_text(header.read_text() + "reflectance scale factor = 10000\n")
    assert read_raster(path).units == ((1e-4, 0.0),) * 3


@pytest.mark.parametrize("line", ["reflectance scale factor = lots", "wavelength = {red, green, blue}"])
def test_a_number_in_the_header_that_is_none_is_refused(tmp_path, image, line):
    path = write_envi(tmp_path / "a.bsq", image)
    header = path.with_suffix(".hdr")
    header.write_text(header.read_text().replace("wavelength = {0.45, 0.55, 0.65}", "") + line + "\n")
    with pytest.raises(
        InputError, match=r"a.bsq cannot be read as GeoTIFF or ENVI \(could not convert string to float"
    ):
        read_raster(path)


def test_reading_leaves_nothing_in_the_folder_of_the_data(tmp_path, image):
    path = write_envi(tmp_path / "a.bsq", image, compressed=True)
    before = sorted(tmp_path.iterdir())
    read_raster(path)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("compressed", [False, True])
def test_an_envi_file_that_is_cut_short_is_refused(tmp_path, compressed):
    image = np.random.default_rng(0).integers(0, 4000, (40, 30, 3)).astype(np.int16)
    path = write_envi(tmp_path / "a.bsq", image, compressed=compressed)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"a.bsq"):
        read_raster(path)


def test_a_flipped_bit_in_a_compressed_file_is_noticed(tmp_path):
    image = np.random.default_rng(0).integers(0, 4000, (40, 30, 3)).astype(np.int16)
    path = write_envi(tmp_path / "a.bsq", image, compressed=True)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a.bsq .*damaged"):
        read_raster(path)


def test_geotiff_is_read_with_its_place_and_nodata(geotiff, image):
    path = geotiff("a.tif", image, nodata=7)
    raster = read_raster(path)
    np.testing.assert_array_equal(raster.values, image)
    assert raster.valid.sum() == image.size - 1
    assert raster.georeference.crs == "EPSG:32633"
    assert raster.georeference.transform == (10.0, 0.0, 400_000.0, 0.0, -10.0, 5_800_000.0)


def test_nan_and_a_configured_nodata_value_are_no_measurements(geotiff):
    image = np.ones((4, 4, 2), np.float32)
    image[0, 0, 0], image[1, 1, 1], image[2, 2, 0] = np.nan, np.inf, -9999
    raster = read_raster(geotiff("a.tif", image), nodata=-9999)
    assert np.argwhere(~raster.valid).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 0]]


def test_bands_are_selected_in_the_order_given(geotiff, image):
    raster = read_raster(geotiff("a.tif", image), bands=(3, 1))
    np.testing.assert_array_equal(raster.values, image[..., [2, 0]])
    assert raster.bands == ("band 3", "band 1")


@pytest.mark.parametrize(("bands", "message"), [((4,), "has bands 1 to 3"), ((0,), "band 0"), ((1, 1), "twice")])
def test_a_selection_that_the_file_cannot_serve_is_refused(geotiff, image, bands, message):
    with pytest.raises(InputError, match=message):
        read_raster(geotiff("a.tif", image), bands=bands)


def test_a_truncated_geotiff_is_refused(geotiff):
    path = geotiff("a.tif", np.random.default_rng(0).random((64, 64, 3)).astype(np.float32))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(InputError, match=r"a.tif cannot be read"):
        read_raster(path)


@pytest.mark.parametrize("name", ["a.tif", "a.bsq", "a.mat", "a.npy", "a.npz", "a.h5"])
@pytest.mark.parametrize(
    "content", [b"", b"no image at all", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"]
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=name):
        read_raster(path)


def test_a_text_file_that_names_other_files_is_not_followed(tmp_path, geotiff, image):
    geotiff("secret.tif", image)
    vrt = tmp_path / "a.tif"
    vrt.write_text(
        '<VRTDataset rasterXSize="4" rasterYSize="5"><VRTRasterBand dataType="Int16" band="1"><SimpleSource>'
        f"<SourceFilename>{tmp_path}/secret.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
        "</VRTRasterBand></VRTDataset>"
    )
    assert rasterio.open(vrt).count == 1
    with pytest.raises(InputError, match=r"a.tif cannot be read as GeoTIFF or ENVI"):
        read_raster(vrt)


def test_matlab_5_and_7_3_give_the_same_axes(tmp_path, image):
    scipy.io.savemat(tmp_path / "five.mat", {"hsi": image, "gt": image[..., 0]})
    with h5py.File(tmp_path / "seven.mat", "w", userblock_size=512) as file:
        # MATLAB writes its column-major arrays as they lie in memory: HDF5 shows the axes reversed.
        file["hsi"] = image.T
        file["gt"] = image[..., 0].T
    for name in ("five.mat", "seven.mat"):
        np.testing.assert_array_equal(read_raster(tmp_path / name, key="hsi").values, image)
        assert read_raster(tmp_path / name, key="gt").values.shape == (5, 4, 1)


def test_plain_hdf5_keeps_its_axes_and_reaches_into_groups(tmp_path, image):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scene/hsi"] = image
    np.testing.assert_array_equal(read_raster(tmp_path / "a.h5", key="scene/hsi").values, image)
    np.testing.assert_array_equal(read_raster(tmp_path / "a.h5").values, image)


def test_a_wrong_key_is_answered_with_the_keys_that_exist(tmp_path, image):
    scipy.io.savemat(tmp_path / "a.mat", {"berlin_hsi": image, "berlin_gt": image[..., 0]})
    np.savez(tmp_path / "a.npz", hsi=image, gt=image[..., 0])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["hsi"], file["gt"] = image, image[..., 0]
    for name, held in [("a.mat", "berlin_hsi, berlin_gt"), ("a.npz", "hsi, gt"), ("a.h5", "gt, hsi")]:
        with pytest.raises(InputError, match=f"{name} holds no variable 'data'; it holds {held}"):
            read_raster(tmp_path / name, key="data")
        with pytest.raises(InputError, match=f"{name} holds {held}; set `key`"):
            read_raster(tmp_path / name)


def test_npz_and_npy_are_read(tmp_path, image):
    np.savez_compressed(tmp_path / "a.npz", hsi=image)
    np.save(tmp_path / "a.npy", image)
    np.testing.assert_array_equal(read_raster(tmp_path / "a.npz").values, image)
    np.testing.assert_array_equal(read_raster(tmp_path / "a.npy").values, image)


class Bomb:
    fired = False

    def __reduce__(self):
        return (setattr, (Bomb, "fired", True))


def test_pickled_objects_are_refused_and_never_run(tmp_path):
    objects = np.array([Bomb(), None], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", hsi=objects, allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bomb()))
    for name, message in [("a.npy", "pickled"), ("b.npy", "cannot be read")]:
        with pytest.raises(InputError, match=message):
            read_raster(tmp_path / name)
    with pytest.raises(InputError, match="pickled"):
        read_raster(tmp_path / "a.npz", key="hsi")
    assert not Bomb.fired


def test_a_header_that_promises_more_than_the_memory_is_refused_before_reading(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6, 8)})
    (tmp_path / "a.npy").write_bytes(header.getvalue() + b"\0" * 64)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("hsi.npy", header.getvalue() + b"\0" * 64)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(InputError, match="GiB; this machine has"):
            read_raster(tmp_path / name)


def test_an_archive_that_points_outside_writes_nothing_there(tmp_path, image):
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    buffer = io.BytesIO()
    np.save(buffer, image)
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("../../escaped.npy", buffer.getvalue())
    np.testing.assert_array_equal(read_raster(folder / "a.npz").values, image)
    assert not list(tmp_path.glob("**/escaped.npy"))


def test_a_matlab_structure_is_refused(tmp_path, image):
    scipy.io.savemat(tmp_path / "a.mat", {"scene": {"hsi": image}})
    with pytest.raises(InputError, match="'scene' is a MATLAB struct"):
        read_raster(tmp_path / "a.mat")


def test_an_array_of_the_wrong_rank_is_refused_with_its_shape(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 3, 2, 1)))
    with pytest.raises(InputError, match="float64 values of shape 4 × 3 × 2 × 1"):
        read_raster(tmp_path / "a.npy")


def test_lists_of_indices_are_read_bare(tmp_path):
    indices = np.array([[0, 1], [2, 3], [4, 0]])
    scipy.io.savemat(tmp_path / "a.mat", {"train": indices})
    np.testing.assert_array_equal(read_array(tmp_path / "a.mat", key="train"), indices)


def test_a_missing_file_is_answered_with_what_lies_there(tmp_path, image):
    np.save(tmp_path / "near.npy", image)
    with pytest.raises(InputError, match=r"gone.npy does not exist; .* holds near.npy"):
        existing_file(tmp_path / "gone.npy")
    with pytest.raises(InputError, match="is a folder"):
        existing_file(tmp_path)


def test_a_source_is_described_by_its_size_and_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    source = describe_source(tmp_path / "a")
    assert source.bytes == 3
    assert source.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_memory_is_asked_for_with_exact_arithmetic(tmp_path):
    with pytest.raises(InputError):
        refuse_beyond_memory(tmp_path / "a", (2**32, 2**32), np.dtype(np.uint8))
