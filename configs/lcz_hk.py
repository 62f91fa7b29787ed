"""Hong Kong's local climate zones: Sentinel-2 (10 bands) with Sentinel-1 (4), 13 classes.

Source: no published layout was found. Files and variables below are a guess after the other scenes, bands and classes
what is believed (the 13 zones of the IEEE contest of 2017 that occur there): set them to what your copy holds.
`scene.folder` names the folder; it is needed once, for afterwards the scene is loaded from what was prepared.
Protocol: training and test pixels as lists; patches of 11 × 11 [kin: MSFMamba].
Command: bdgf run --config lcz_hk --config.scene.folder=lcz_hk
Expected: not known here; the paper's tables were not at hand.
Not run here: the files are not redistributable.
"""

from ml_collections import ConfigDict

from bdgf_jax.benchmarks import benchmark_config

CLASSES = (
    ("compact high-rise", "#8c0000"),
    ("compact mid-rise", "#d10000"),
    ("compact low-rise", "#ff0000"),
    ("open high-rise", "#bf4d00"),
    ("open mid-rise", "#ff6600"),
    ("open low-rise", "#ff9955"),
    ("large low-rise", "#bcbcbc"),
    ("heavy industry", "#555555"),
    ("dense trees", "#006a00"),
    ("scattered trees", "#00aa00"),
    ("bush or scrub", "#648525"),
    ("low plants", "#b9db79"),
    ("water", "#6a6aff"),
)


def get_config(size: str = ""):
    config = benchmark_config("lcz_hk", CLASSES, size)
    config.scene.modalities = ConfigDict(
        {
            "msi": {"file": "data_msi.mat", "key": "", "kind": "optical"},  # an empty key takes the only variable
            "sar": {"file": "data_sar.mat", "key": "", "kind": "sar", "scale": "none"},
        },
        sort_keys=False,
    )
    config.scene.labels.file = "data_gt.mat"
    config.scene.split.kind = "masks"
    config.scene.split.train_file = config.scene.split.test_file = "data_index.mat"
    config.scene.split.train_key = "train_index"
    config.scene.split.test_key = "test_index"
    return config
