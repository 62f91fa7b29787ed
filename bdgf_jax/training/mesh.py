"""Devices as a grid, and where arrays lie on it."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree, Shaped

from bdgf_jax.errors import InputError

DATA = "data"


def make_mesh(axes: Mapping[str, int], devices: Sequence | None = None) -> Mesh:
    """The mesh of the named axes over devices.

    Args:
      axes: name -> number of devices along it, such as {"data": -1, "model": 1}; at most one of them may be -1, and
        takes all devices that the others leave.
      devices: those of all processes by default.

    Raises:
      InputError: the axes do not multiply to the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    sizes = dict(axes)
    fixed = math.prod(size for size in sizes.values() if size != -1)
    open_axes = [name for name, size in sizes.items() if size == -1]
    if len(open_axes) == 1 and fixed > 0 and count % fixed == 0:
        sizes[open_axes[0]] = count // fixed
    if math.prod(sizes.values()) != count or min(sizes.values()) < 1:
        raise InputError(
            f"The mesh {dict(axes)} cannot be laid over {count} device(s): the axes must multiply to that number;"
            " -1 on one of them takes what the others leave."
        )
    # Auto: XLA chooses how intermediate values lie, from how parameters and batches do.
    kinds = (jax.sharding.AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=kinds, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds a copy."""
    return NamedSharding(mesh, PartitionSpec())


def split_over_data(mesh: Mesh) -> NamedSharding:
    """The leading axis is shared out along the mesh's `data` axis."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Every device along `data` must get the same number of samples.

    Raises:
      InputError: the batch cannot be shared out; says which sizes near it can.
    """
    shares = mesh.shape[DATA]
    if batch_size < 1 or batch_size % shares:
        below, above = batch_size // shares * shares, (max(batch_size, 0) // shares + 1) * shares
        nearest = f"{below} and {above}" if below > 0 else f"{above}"
        raise InputError(
            f"batch_size must be a multiple of the {shares} devices along the mesh's data axis, got {batch_size};"
            f" the nearest sizes are {nearest}."
        )


def put_batches(batches: PyTree[Shaped[np.ndarray, "s b ..."]], mesh: Mesh) -> PyTree[Shaped[jax.Array, "s _ ..."]]:
    """This process's parts of the batches of s steps, as parts of the one array (or tree) that all processes share."""
    shared_out = NamedSharding(mesh, PartitionSpec(None, DATA))
    return jax.tree.map(lambda part: jax.make_array_from_process_local_data(shared_out, part), batches)


def put_replicated(tree: PyTree, mesh: Mesh) -> PyTree:
    """The tree with a copy of each array on every device."""
    return jax.device_put(tree, replicated(mesh))
