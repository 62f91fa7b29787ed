"""Berlin: 244 bands of simulated EnMAP with Sentinel-1, 1723 × 476 pixels, eight classes; BDGF's first scene.

Source: `bdgf_jax.scenes.layouts` says which files to get, and so does the error where one is missing. `scene.folder`
names their folder; it is needed once, for afterwards the scene is loaded by its name from what was prepared.
Protocol: 2 820 training and 461 851 test pixels, published with the scene; patches of 11 × 11 [kin: MSFMamba].
Command: bdgf run --config berlin --config.scene.folder=berlin
Expected: MSFMamba 76.9 (OA, per cent) in its own paper, 70.8 in MERGE-Net's ten runs.
Not run here: the files are not redistributable.
"""

from bdgf_jax.benchmarks import benchmark_config

CLASSES = (
    ("forest", "#1b6e3c"),
    ("residential area", "#c0392b"),
    ("industrial area", "#8e44ad"),
    ("low plants", "#8fc95b"),
    ("soil", "#9c6b3f"),
    ("allotment", "#e6b422"),
    ("commercial area", "#e377a8"),
    ("water", "#2f6fb5"),
)


def get_config(size: str = ""):
    return benchmark_config("berlin", CLASSES, size)
