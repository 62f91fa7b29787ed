"""So2Sat LCZ42: local climate zones from patches of Sentinel-2 (10 bands) and Sentinel-1 (8), 32 × 32 pixels each.

Source: TensorFlow Datasets' own `so2sat/all`, which downloads training.h5 and validation.h5 (some 52 GB) and prepares
them once. `scene.folder` names the folder of the two files where they are at hand already.
Protocol: patches of 31 × 31 round the pixel in the middle, whose class is the patch's; training patches are drawn from
the training cities, as many a class, test patches from the validation set, which lies in other cities. No patch is
guided by what lies beyond it: features are computed tile by tile of its own size, without margin or context.
Command: bdgf run --config so2sat --config.scene.folder=so2sat
Expected: not known; published figures train on all 352 366 patches.
Not run here: the files are too large. The road was tried on files of the same layout.
"""

from ml_collections import ConfigDict

from bdgf_jax.benchmarks import LOCAL_CLIMATE_ZONES, benchmark_config

SIDE = 32


def get_config(size: str = ""):
    config = benchmark_config("so2sat", LOCAL_CLIMATE_ZONES, size)
    config.scene.source = "patches"
    config.scene.patches.dataset = "so2sat/all"
    config.scene.modalities = ConfigDict(
        {
            "s2": {"file": "sentinel2", "kind": "optical", "scale": "none"},
            "s1": {"file": "sentinel1", "kind": "sar", "scale": "none"},
        },
        sort_keys=False,
    )
    config.scene.labels.file = "label"
    config.scene.split.kind = "masks"
    config.pretrain.crop = SIDE
    config.features.tile = SIDE
    config.features.margin = 0
    config.features.context.components = 0
    config.classifier.patch = SIDE - 1
    config.classifier.centre = 1  # whatever lies beside it is another patch
    config.train.batch_size = 32  # of 961 tokens each
    config.predict.batch_size = 32
    config.predict.labelled_only = True
    return config
