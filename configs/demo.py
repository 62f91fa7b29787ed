"""A synthetic scene from pre-training to map, in a few minutes on two CPU cores.

Source: `bdgf_jax.scenes.synthetic`: spectra, SAR and height, none of which separates all classes alone.
Command: bdgf run --config demo
"""

from bdgf_jax import configuration


def get_config(size: str = ""):
    config = configuration.load("base")
    config.scene.name = "demo"
    config.scene.source = "synthetic"
    config.scene.synthetic.height = config.scene.synthetic.width = 128
    config.scene.split.validation_blocks = 0.2
    config.scene.statistics.components = 12
    config.pretrain.steps = 400
    config.train.steps = 300
    config.train.evaluate_every = 100
    if size == "tiny":
        config.scene.synthetic.height = config.scene.synthetic.width = 48
        config.scene.synthetic.classes = 4
        config.scene.split.block = 8
        config.scene.split.guard = 4
        config.diffusion.width = 8
        config.diffusion.timesteps = 100
        config.features.timesteps = (5, 20)
        config.features.tile = 32
        config.features.margin = 8
        config.pretrain.steps = 30
        config.pretrain.crop = 16
        config.pretrain.batch_size = 8
        config.classifier.width = 16
        config.classifier.patch = 5
        config.classifier.centre = 3
        config.train.steps = 60
        config.train.batch_size = 32
        config.train.warmup = 10
        config.report.sampling_steps = 5
    return config
