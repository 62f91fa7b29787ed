"""Augsburg as first published: 180 bands of HySpex, Sentinel-1 and a surface model, seven classes.

Source: `bdgf_jax.scenes.layouts` says which files to get, and so does the error where one is missing. `scene.folder`
names their folder; it is needed once, for afterwards the scene is loaded by its name from what was prepared.
Protocol: training and test pixels are two images that hold the classes; patches of 11 × 11 [kin: MSFMamba].
Command: bdgf run --config augsburg_dsm --config.scene.folder=augsburg_dsm
Expected: not known for this trio of sensors.
Not run here: the files are not redistributable.
"""

from bdgf_jax.benchmarks import benchmark_config

CLASSES = (
    ("forest", "#1b6e3c"),
    ("residential area", "#c0392b"),
    ("industrial area", "#8e44ad"),
    ("low plants", "#8fc95b"),
    ("allotment", "#e6b422"),
    ("commercial area", "#e377a8"),
    ("water", "#2f6fb5"),
)


def get_config(size: str = ""):
    return benchmark_config("augsburg_dsm", CLASSES, size)
