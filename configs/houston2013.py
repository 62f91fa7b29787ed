"""Houston 2013: 144 bands of CASI with a LiDAR surface model, 349 × 1905 pixels, 15 classes.

Source: `bdgf_jax.scenes.layouts` says which files to get, and so does the error where one is missing. `scene.folder`
names their folder; it is needed once, for afterwards the scene is loaded by its name from what was prepared.
Protocol: training and test pixels as in the contest, published as lists; patches of 11 × 11 [kin: MSFMamba].
Command: bdgf run --config houston2013 --config.scene.folder=houston2013
Expected: not known for BDGF; the paper does not use this scene.
Not run here: the files are not redistributable.
"""

from bdgf_jax.benchmarks import benchmark_config

CLASSES = (
    ("healthy grass", "#5fc26b"),
    ("stressed grass", "#b8de6f"),
    ("synthetic grass", "#2d7d46"),
    ("trees", "#145a32"),
    ("soil", "#9c6b3f"),
    ("water", "#2f6fb5"),
    ("residential", "#f0b27a"),
    ("commercial", "#e377a8"),
    ("road", "#6e6e78"),
    ("highway", "#c0392b"),
    ("railway", "#7b4397"),
    ("parking lot 1", "#e6b422"),
    ("parking lot 2", "#f7dc6f"),
    ("tennis court", "#1abc9c"),
    ("running track", "#d35400"),
)


def get_config(size: str = ""):
    return benchmark_config("houston2013", CLASSES, size)
