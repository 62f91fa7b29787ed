"""Augsburg at the paper's size: what pods are planned with.

Source: arXiv 2509.23310 says about 4.3 M parameters on Augsburg; sizes that it does not give are its relatives': the
U-Net's and its 40 000 steps those of MTMSD, patches, batch and the states of the scan those of MSFMamba. Ours are the
width of the branches, which gives that number of parameters, and bfloat16.
Command: bdgf run --config augsburg_paper --config.scene.folder=augsburg
Expected: BDGF 93.57 (OA, per cent) in its own paper.
Not run here: the files are not redistributable, and it wants an accelerator.
"""

from bdgf_jax import configuration


def get_config(size: str = ""):
    config = configuration.load(f"augsburg:{size}")
    if size == "tiny":
        return config
    config.diffusion.width = 128
    config.diffusion.blocks = 2
    config.diffusion.dtype = "bfloat16"
    config.pretrain.steps = 40_000
    config.pretrain.batch_size = 64
    config.pretrain.learning_rate = 2e-4
    config.features.timesteps = (50, 100, 400)
    config.features.levels = (0, 1, 2)
    config.classifier.width = 176
    config.classifier.state = 16
    config.classifier.heads = 8
    config.classifier.directions = "four"
    config.classifier.merge_timesteps = "softmax"
    config.classifier.head = "mean"
    config.classifier.direct.landmarks = 0
    config.features.context.components = 0
    config.classifier.dtype = "bfloat16"
    config.train.steps = 2000
    config.train.batch_size = 128
    config.train.learning_rate = 5e-4
    config.predict.batch_size = 2048
    return config
