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

from bdgf_jax.benchmarks import LOCAL_CLIMATE_ZONES, benchmark_config

ABSENT = ("lightweight low-rise", "sparsely built", "bare rock or paved", "bare soil or sand")
CLASSES = tuple(zone for zone in LOCAL_CLIMATE_ZONES if zone[0] not in ABSENT)


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
