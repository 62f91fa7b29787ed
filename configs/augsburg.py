"""Augsburg: 180 bands of HySpex with Sentinel-1, 332 × 485 pixels, seven classes.

Source: `bdgf_jax.scenes.layouts` says which files to get, and so does the error where one is missing. `scene.folder`
names their folder; it is needed once, for afterwards the scene is loaded by its name from what was prepared.
Protocol: 761 training and 77 533 test pixels, published with the scene; patches of 11 × 11 [kin: MSFMamba].
Command: bdgf run --config augsburg --config.scene.folder=augsburg
Expected: BDGF 93.57 (OA, per cent) in its own paper; MSFMamba 91.4 in its own, 68.9 in MERGE-Net's ten runs.
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
    return benchmark_config("augsburg", CLASSES, size)
