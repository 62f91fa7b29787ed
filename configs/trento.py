"""Trento: 63 bands of AISA Eagle with a LiDAR surface model, 166 × 600 pixels, six classes.

Source: `bdgf_jax.scenes.layouts` says which files to get, and so does the error where one is missing. `scene.folder`
names their folder; it is needed once, for afterwards the scene is loaded by its name from what was prepared.
Protocol: training and test pixels published as lists; patches of 11 × 11 [kin: MSFMamba].
Command: bdgf run --config trento --config.scene.folder=trento
Expected: not known for BDGF; the paper does not use this scene.
Not run here: the files are not redistributable.
"""

from bdgf_jax import configuration
from bdgf_jax.scenes.layouts import LAYOUTS

CLASSES = (
    ("apple trees", "#8fc95b"),
    ("buildings", "#c0392b"),
    ("ground", "#9c6b3f"),
    ("woods", "#145a32"),
    ("vineyard", "#a569bd"),
    ("roads", "#6e6e78"),
)


def get_config(size: str = ""):
    config = configuration.load("base")
    config.scene.name = "trento"
    config.scene.source = "prepared"
    config.scene.update(LAYOUTS["trento"].fields())
    config.scene.labels.names = {str(value): name for value, (name, _) in enumerate(CLASSES, start=1)}
    config.scene.labels.colours = {str(value): colour for value, (_, colour) in enumerate(CLASSES, start=1)}
    config.classifier.patch = 11
    if size == "tiny":
        config.diffusion.width = 8
        config.pretrain.steps = 20
        config.train.steps = 20
    return config
