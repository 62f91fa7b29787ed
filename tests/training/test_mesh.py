import jax
import numpy as np
import pytest

from bdgf_jax.errors import InputError
from bdgf_jax.training.mesh import check_batch_size, make_mesh, put_batches, put_replicated


def test_minus_one_takes_the_devices_that_are_left():
    assert dict(make_mesh({"data": -1, "model": 2}).shape) == {"data": 4, "model": 2}
    assert dict(make_mesh({"data": -1}, jax.devices()[:3]).shape) == {"data": 3}


@pytest.mark.parametrize("axes", [{"data": 3, "model": 1}, {"data": -1, "model": 3}, {"data": -1, "model": -1}])
def test_axes_that_do_not_fill_the_devices_are_refused(axes):
    with pytest.raises(InputError, match="over 8 device"):
        make_mesh(axes)


@pytest.mark.parametrize(("batch_size", "nearest"), [(20, "16 and 24"), (3, "8"), (0, "8"), (-5, "8")])
def test_a_batch_that_devices_cannot_share_is_refused_with_the_nearest_sizes(batch_size, nearest):
    with pytest.raises(InputError, match=rf"8 devices .*got {batch_size}; .* {nearest}\."):
        check_batch_size(batch_size, make_mesh({"data": -1}))


def test_batches_are_cut_along_data_and_the_rest_copied():
    mesh = make_mesh({"data": 4, "model": 2})
    centres = np.arange(96).reshape(3, 16, 2)
    batches = put_batches(centres, mesh)
    np.testing.assert_array_equal(batches, centres)
    assert {shard.data.shape for shard in batches.addressable_shards} == {(3, 4, 2)}
    copied = put_replicated({"image": np.ones((6, 5))}, mesh)["image"]
    assert {shard.data.shape for shard in copied.addressable_shards} == {(6, 5)}
    assert len(copied.addressable_shards) == 8
