"""A 224×224 tile of Sentinel-2, Sentinel-1 and a height model, labelled by a land-cover product.

Source: TerraMesh tiles, as in the examples of IBM's terramind. `scene.folder` names the folder of one tile, which
holds S2L2A.tif, S1RTC.tif, DEM.tif and LULC.tif.
Command: bdgf run --config sentinel_lulc --config.scene.folder=sentinel_lulc/433D_629L_3_1
"""

from ml_collections import ConfigDict

from bdgf_jax import configuration

S2_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
S2_WAVELENGTHS = (443.0, 492.0, 560.0, 665.0, 704.0, 741.0, 783.0, 833.0, 865.0, 945.0, 1614.0, 2202.0)  # nm
CLASSES = {
    "1": ("water", "#2b7bba"),
    "2": ("trees", "#1b6e3a"),
    "3": ("flooded vegetation", "#66c2a5"),
    "4": ("crops", "#e5b83a"),
    "5": ("built", "#c0392b"),
    "6": ("bare", "#a38f7a"),
    "9": ("rangeland", "#b5d06b"),
}


def get_config(size: str = ""):
    config = configuration.load(f"base:{size}")
    config.scene.name = "sentinel_lulc"
    config.scene.modalities = ConfigDict(
        {
            "s2": {"file": "S2L2A.tif", "kind": "optical", "names": S2_BANDS, "wavelengths": S2_WAVELENGTHS},
            "s1": {"file": "S1RTC.tif", "kind": "sar", "names": ("VV", "VH")},
            "dem": {"file": "DEM.tif", "kind": "height", "names": ("elevation",)},
        },
        sort_keys=False,
    )
    config.scene.labels.file = "LULC.tif"
    config.scene.labels.names = {value: name for value, (name, _) in CLASSES.items()}
    config.scene.labels.colours = {value: colour for value, (_, colour) in CLASSES.items()}
    config.scene.labels.minimum_test_pixels = 100
    return config
