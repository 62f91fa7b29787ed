"""MUUFL Gulfport: 64 bands of CASI with two LiDAR rasters, 325 × 220 pixels, eleven classes.

Source: `bdgf_jax.scenes.layouts` says which files to get, and so does the error where one is missing. `scene.folder`
names their folder; it is needed once, for afterwards the scene is loaded by its name from what was prepared.
Protocol: no split is distributed with it; the field draws pixels at random, which leaks (see README); patches of
11 × 11.
Command: bdgf run --config muufl --config.scene.folder=muufl
Expected: not known for BDGF; the paper does not use this scene.
Not run here: the files are not redistributable.
"""

from bdgf_jax.benchmarks import benchmark_config

CLASSES = (
    ("trees", "#145a32"),
    ("mostly grass", "#5fc26b"),
    ("mixed ground surface", "#b8de6f"),
    ("dirt and sand", "#d7bd8a"),
    ("road", "#6e6e78"),
    ("water", "#2f6fb5"),
    ("building shadow", "#34495e"),
    ("building", "#c0392b"),
    ("sidewalk", "#b2babb"),
    ("yellow curb", "#f1c40f"),
    ("cloth panels", "#a569bd"),
)


def get_config(size: str = ""):
    return benchmark_config("muufl", CLASSES, size)
