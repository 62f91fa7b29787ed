"""Simulated EnMAP (244 bands, 30 m) and HyMap's four broad bands (3.6 m) over Berlin, six land-cover classes.

Source: Berlin-Urban-Gradient dataset 2009, Okujeni, van der Linden, Hostert, GFZ 2016. EnMAP is resampled onto the
3.6 m grid. `scene.folder` names the folder of the ENVI files and of the rasterised land cover.
Command: bdgf run --config berlin_urban_gradient --config.scene.folder=berlin_urban_gradient
"""

from ml_collections import ConfigDict

from bdgf_jax import configuration

CLASSES = {
    "1": ("roof", "#b3322c"),
    "2": ("pavement", "#7f7f8a"),
    "3": ("low vegetation", "#a6d05a"),
    "4": ("tree", "#1b6e3a"),
    "5": ("soil", "#b8864b"),
    "6": ("other", "#2b7bba"),
}


def get_config(size: str = ""):
    config = configuration.load(f"base:{size}")
    config.scene.name = "berlin_urban_gradient"
    config.scene.modalities = ConfigDict(
        {
            "enmap": {"file": "EnMAP_BerlinUrbanGradient.bsq", "kind": "optical"},
            "hymap": {"file": "HighResolution_BerlinUrbanGradient.bsq", "kind": "optical"},
        },
        sort_keys=False,
    )
    config.scene.reference = "hymap"
    config.scene.labels.file = "labels_level2_3.6m.tif"
    config.scene.labels.names = {value: name for value, (name, _) in CLASSES.items()}
    config.scene.labels.colours = {value: colour for value, (_, colour) in CLASSES.items()}
    config.scene.labels.minimum_test_pixels = 100
    config.scene.split.block = 48
    return config
