"""Trento: 63 bands of AISA Eagle with a LiDAR surface model, 166 × 600 pixels, six classes.

Source: `bdgf_jax.scenes.layouts` says which files to get, and so does the error where one is missing. `scene.folder`
names their folder; it is needed once, for afterwards the scene is loaded by its name from what was prepared.
Protocol: training and test pixels published as lists; patches of 11 × 11 [kin: MSFMamba].
Command: bdgf run --config trento --config.scene.folder=trento
Expected: not known for BDGF; the paper does not use this scene.
Not run here: the files are not redistributable.
"""

from bdgf_jax.benchmarks import benchmark_config

CLASSES = (
    ("apple trees", "#8fc95b"),
    ("buildings", "#c0392b"),
    ("ground", "#9c6b3f"),
    ("woods", "#145a32"),
    ("vineyard", "#a569bd"),
    ("roads", "#6e6e78"),
)


def get_config(size: str = ""):
    return benchmark_config("trento", CLASSES, size)
