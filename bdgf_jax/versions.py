"""What runs here: versions of the libraries that results depend on, and the devices."""

import importlib.metadata
import platform
from collections import Counter

LIBRARIES = ("bdgf-jax", "bdgf-kernels", "jax", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Version of each library by its name."""
    return {library: importlib.metadata.version(library) for library in LIBRARIES}


def describe() -> str:
    """Versions, platform and devices in a few lines, such as a report of a fault should begin with."""
    import jax

    found = versions()
    libraries = ", ".join(f"{name} {version}" for name, version in found.items() if name != "bdgf-jax")
    devices = Counter(f"{device.device_kind} ({device.platform})" for device in jax.devices())
    lines = (
        f"bdgf {found['bdgf-jax']}",
        libraries,
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}",
        "devices: " + ", ".join(f"{number} × {kind}" for kind, number in devices.items()),
    )
    return "\n".join(lines)
