"""What differs between versions of jax, or is not public in all of them."""

import jax
from jaxtyping import Array, PyTree


def varying_axes(x: Array) -> frozenset[str]:
    """Names the mesh axes over which `x` differs from device to device inside `jax.shard_map`; none elsewhere."""
    manual = getattr(jax.typeof(x), "manual_axis_type", None)
    return frozenset() if manual is None else frozenset(manual.varying)


def vary_alike(arrays: PyTree) -> PyTree:
    """Marks all arrays as differing over the union of their mesh axes.

    Loops want carries of one such type, and a hand-written gradient has to return each argument's own: marked before,
    what is shared between devices gets its gradient summed over them by jax.
    """
    axes = frozenset().union(*(varying_axes(x) for x in jax.tree.leaves(arrays)))

    def mark(x):
        missing = tuple(sorted(axes - varying_axes(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(mark, arrays)


HAS_MOSAIC_GPU = tuple(int(part) for part in jax.__version__.split(".")[:2]) >= (0, 11)
"""Whether `plgpu.kernel` takes `out_type` and `scratch_types`, as the kernels here say it."""


def weakest_gpu() -> float | None:
    """Returns the lowest compute capability among this machine's NVIDIA GPUs, None where it has none."""
    try:
        devices = jax.local_devices(backend="cuda")
    except RuntimeError:
        return None
    return min(float(device.compute_capability) for device in devices)


def accelerator() -> str | None:
    """Returns the kind of this machine's first accelerator, None where it has none."""
    device = jax.local_devices()[0]
    return None if device.platform == "cpu" else device.device_kind
