"""A CPU's cores as devices of a mesh.

XLA shares one program out over a CPU's cores where its single operations are large. Those of a pre-training's step are
not: where each of two cores is a device that takes half of the batch, it takes three quarters of the time. A classifier
is better left to one device, as are several that are trained together: their steps were no faster so.
"""

import math
import os
from collections.abc import Mapping, Sequence

import jax

# More of them would copy the scene more often than they would be worth.
MOST_DEVICES = 8
# What all copies of the arrays that every device holds may take.
MOST_COPIED = 2**31


def offer_cores() -> None:
    """Makes a device of every core that this process may use. Before any use of JAX, and in a process by itself.

    Nothing changes where XLA_FLAGS or JAX_NUM_CPU_DEVICES say how many devices there are, or where JAX has begun.
    """
    if _told():
        return
    try:
        jax.config.update("jax_num_cpu_devices", min(_cores(), MOST_DEVICES))
    except RuntimeError:  # JAX has begun, with the devices that it has
        return


def share_of_cores(axes: Mapping[str, int], pieces: int, copied: int) -> Sequence | None:
    """The devices that a training should take where cores were offered; None where it should take what there is.

    Args:
      axes: of the mesh, see `mesh.make_mesh`; where none of them is -1, as many devices as they say.
      pieces: what the devices share out evenly among them: the samples of a batch, or 1 where one does best.
      copied: bytes of the arrays that each device holds a copy of.
    """
    if not _offered():
        return None
    devices = jax.devices()
    fixed = math.prod(size for size in axes.values() if size != -1)
    if -1 not in axes.values():
        return devices[:fixed]
    most = min(len(devices), max(1, MOST_COPIED // max(1, copied)))
    fitting = [count for count in range(1, most + 1) if pieces % count == 0 and count % fixed == 0]
    return devices[: max(fitting, default=len(devices))]


def _offered() -> bool:
    """Whether this process trains on its cores, and these are devices because of `offer_cores`."""
    asked = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    return asked > 0 and not _told() and jax.default_backend() == "cpu"


def _told() -> bool:
    """Whether the user has said how many devices a CPU is."""
    flags = os.environ.get("XLA_FLAGS", "")
    return "JAX_NUM_CPU_DEVICES" in os.environ or "xla_force_host_platform_device_count" in flags


def _cores() -> int:
    """Cores that this process may use, fewer than there are where it is held to some of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
