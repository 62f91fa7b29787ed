"""A scene of your own: copy this file, change what is marked, and look before you train.

Source: your files. Images may be GeoTIFF, ENVI, MATLAB (v5 and v7.3), HDF5, .npy or .npz; geo-referenced ones may
differ in pixel size, extent and reference system, all are resampled onto one grid. Labels: an image or polygons.
Command: bdgf inspect --config my_scene.py
Then:    bdgf run --config my_scene.py
"""

from ml_collections import ConfigDict

from bdgf_jax import configuration

# CHANGE: value in the label file -> (name of the class, its colour in maps).
CLASSES = {
    "1": ("water", "#2b7bba"),
    "2": ("trees", "#1b6e3a"),
    "3": ("built", "#c0392b"),
}


def get_config(size: str = ""):
    config = configuration.load(f"base:{size}")
    config.scene.name = "my_scene"
    config.scene.folder = "~/data/my_scene"  # CHANGE: where the files lie

    # CHANGE: two sensors or more. Only `file` is needed; leave out what the file itself says or what does not apply.
    config.scene.modalities = ConfigDict(
        {
            "optical": {
                "file": "optical.tif",
                "kind": "optical",  # optical | sar | height
                "bands": (1, 2, 3, 4),  # counted from 1, in this order; leave out to take all
                "names": ("blue", "green", "red", "near infrared"),
                "wavelengths": (490, 560, 665, 842),  # nanometres; which bands make a natural picture
                "nodata": 0,  # besides NaN and what the file declares
                "scale": 1e-4,  # reflectance × 10⁴, as Sentinel-2 products store it
            },
            # In linear power or in decibels: which of both is detected and said; `scale` = "none" leaves the values.
            "sar": {"file": "sar.tif", "kind": "sar", "names": ("VV", "VH"), "nodata": -9999},
            # A surface model; its datum does not matter.
            "dsm": {"file": "dsm.tif", "kind": "height", "names": ("elevation",)},
        },
        sort_keys=False,
    )
    config.scene.reference = "optical"  # CHANGE: the grid of the map
    config.scene.resampling = "bilinear"  # of all other images: nearest | bilinear | cubic | average

    # CHANGE: polygons of a shapefile, GeoPackage or GeoJSON, and which attribute holds the class, as a number or in
    # words. With an image in place of polygons, leave `attribute` empty.
    config.scene.labels.file = "labels.gpkg"
    config.scene.labels.attribute = "class"
    config.scene.labels.ignore = (0,)  # values that mean unlabelled
    config.scene.labels.names = {value: name for value, (name, _) in CLASSES.items()}
    config.scene.labels.colours = {value: colour for value, (_, colour) in CLASSES.items()}

    # Blocks that keep test pixels away from training pixels. With masks of your own:
    # kind = "masks", train_file = "train.tif", test_file = "test.tif".
    config.scene.split.kind = "blocks"
    config.scene.split.block = 16  # pixels; larger than your fields or buildings
    config.scene.split.per_class = 60
    config.scene.split.guard = 10  # pixels; at least the classifier's patch less one
    return config
