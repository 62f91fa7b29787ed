"""Yellow River Estuary: 285 bands with SAR (3 bands), 18 classes of a wetland.

Source: `bdgf_jax.scenes.layouts` says which files to get, and so does the error where one is missing. `scene.folder`
names their folder; it is needed once, for afterwards the scene is loaded by its name from what was prepared.
Protocol: training and test pixels published with the scene; patches of 11 × 11 [kin: MSFMamba].
Command: bdgf run --config yellow_river_estuary --config.scene.folder=yellow_river_estuary
Expected: not known here; the paper's tables were not at hand.
Not run here: the files are not redistributable.
"""

from bdgf_jax.benchmarks import benchmark_config

CLASSES = (
    ("Spartina alterniflora", "#2d7d46"),
    ("pond", "#5dade2"),
    ("woodland", "#145a32"),
    ("Phragmites", "#8fc95b"),
    ("Typha orientalis", "#52be80"),
    ("intertidal Phragmites", "#c5d86d"),
    ("ecological reservoir", "#2e86c1"),
    ("arable land", "#e6b422"),
    ("lotus pond", "#f4a6c0"),
    ("oil field", "#5a5a5a"),
    ("salt field", "#d5d8dc"),
    ("Suaeda salsa", "#c0392b"),
    ("Yellow River", "#b9770e"),
    ("mixed area 1", "#a569bd"),
    ("mixed area 2", "#7d3c98"),
    ("mixed area 3", "#d2b4de"),
    ("mudflat", "#a38f7a"),
    ("sea", "#1a5276"),
)


def get_config(size: str = ""):
    return benchmark_config("yellow_river_estuary", CLASSES, size)
