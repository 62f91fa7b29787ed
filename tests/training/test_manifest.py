import numpy as np
import pytest

from bdgf_jax.training.manifest import Manifest, find_damage, read_manifest, write_manifest


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "ema").mkdir()
    (tmp_path / "ema" / "data").write_bytes(np.random.default_rng(0).bytes(1000))
    (tmp_path / "_CHECKPOINT_METADATA").write_text('{"item_handlers": {"ema": "x"}, "commit_timestamp_nsecs": null}')
    write_manifest(tmp_path, Manifest(7, 0.5, {"ema/kernel": "float32[3, 4]"}))
    return tmp_path


def test_what_is_written_is_read_and_found_whole(checkpoint):
    manifest = read_manifest(checkpoint)
    assert (manifest.step, manifest.score, manifest.arrays) == (7, 0.5, {"ema/kernel": "float32[3, 4]"})
    assert find_damage(checkpoint) is None


def test_what_orbax_writes_at_the_commit_is_no_damage(checkpoint):
    (checkpoint / "_CHECKPOINT_METADATA").write_text('{"commit_timestamp_nsecs": 17, "item_handlers": {"ema": "x"}}')
    (checkpoint / "commit_success.txt").write_text("done")
    assert find_damage(checkpoint) is None


@pytest.mark.parametrize("name", ["ema/data", "_CHECKPOINT_METADATA", "manifest.json"])
def test_any_flipped_byte_is_found(checkpoint, name):
    path = checkpoint / name
    whole = path.read_bytes()
    # In the metadata the moment of the commit may be anything, which is its last entry.
    end = whole.find(b', "commit') if name.startswith("_") else len(whole)
    for position in np.random.default_rng(1).integers(0, end, 50):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        assert name.split("/")[0] in (find_damage(checkpoint) or ""), f"byte {position}"


def test_a_file_cut_short_absent_or_added_is_named(checkpoint):
    data = checkpoint / "ema" / "data"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    assert find_damage(checkpoint) == "ema/data differs from what was written"
    data.unlink()
    assert find_damage(checkpoint) == "ema/data is missing"
    data.write_bytes(whole)
    (checkpoint / "ema" / "more").touch()
    assert find_damage(checkpoint) == "ema/more does not belong to it"


def test_a_folder_without_manifest_is_no_checkpoint(tmp_path):
    assert find_damage(tmp_path) == "manifest.json is missing"
