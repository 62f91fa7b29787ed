import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bdgf_jax.errors import InputError
from bdgf_jax.training.mesh import make_mesh, put_replicated
from bdgf_jax.training.placement import Placement
from bdgf_jax.training.state import initial_state

PARAMETERS = {"kernel": jnp.arange(1.0, 7.0).reshape(2, 3), "half": jnp.ones(5, jnp.bfloat16)}
MESH = make_mesh({"data": 4, "model": 2})


def on_devices():
    moments = optax.adam(0.1).init(jnp.arange(11.0))
    return put_replicated(initial_state(PARAMETERS, {"masking": jnp.arange(3.0)}, moments), MESH)


@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_what_is_packed_is_unpacked_as_it_was(kind):
    placement, state = Placement(PARAMETERS, MESH, kind), on_devices()
    again = placement.unpack(placement.pack(state))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert jax.tree.map(lambda leaf: leaf.dtype, again) == jax.tree.map(lambda leaf: leaf.dtype, state)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(again))


def test_a_device_holds_its_stretch_of_what_is_sharded_and_all_of_what_is_replicated():
    held = lambda leaf: leaf.addressable_shards[0].data.size
    for kind, size in (("replicated", 11), ("sharded", 16 // 8)):
        packed = Placement(PARAMETERS, MESH, kind).pack(on_devices())
        moments = [leaf for leaf in jax.tree.leaves(packed.optimiser) if leaf.ndim]
        assert [held(leaf) for leaf in (packed.parameters, packed.ema, *moments)] == [size] * (2 + len(moments))
        assert held(packed.carry["masking"]) == 3


def test_another_kind_is_refused_by_name():
    with pytest.raises(InputError, match="placement must be one of replicated, sharded, got 'shraded'"):
        Placement(PARAMETERS, MESH, "shraded")
