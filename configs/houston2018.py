"""Houston 2018: 50 bands of CASI with a LiDAR surface model, 1202 × 4768 pixels, 20 classes.

Source: `bdgf_jax.scenes.layouts` says which files to get, and so does the error where one is missing. `scene.folder`
names their folder; it is needed once, for afterwards the scene is loaded by its name from what was prepared.
Protocol: training and test pixels published as lists; patches of 11 × 11 [kin: MSFMamba].
Command: bdgf run --config houston2018 --config.scene.folder=houston2018
Expected: not known for BDGF; the paper does not use this scene.
Not run here: the files are not redistributable.
"""

from bdgf_jax.benchmarks import benchmark_config

CLASSES = (
    ("healthy grass", "#5fc26b"),
    ("stressed grass", "#b8de6f"),
    ("artificial turf", "#2d7d46"),
    ("evergreen trees", "#145a32"),
    ("deciduous trees", "#7d9c3a"),
    ("bare earth", "#9c6b3f"),
    ("water", "#2f6fb5"),
    ("residential buildings", "#f0b27a"),
    ("non-residential buildings", "#e377a8"),
    ("roads", "#6e6e78"),
    ("sidewalks", "#b2babb"),
    ("crosswalks", "#f4f6f7"),
    ("major thoroughfares", "#cd6155"),
    ("highways", "#922b21"),
    ("railways", "#7b4397"),
    ("paved parking lots", "#e6b422"),
    ("unpaved parking lots", "#d7bd8a"),
    ("cars", "#00b3b3"),
    ("trains", "#34495e"),
    ("stadium seats", "#d35400"),
)


def get_config(size: str = ""):
    return benchmark_config("houston2018", CLASSES, size)
