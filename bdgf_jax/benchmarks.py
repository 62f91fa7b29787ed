"""What the configs of the field's benchmark scenes have in common."""

from collections.abc import Sequence

from bdgf_jax import configuration
from bdgf_jax.configuration import Config
from bdgf_jax.scenes.layouts import LAYOUTS


def benchmark_config(name: str, classes: Sequence[tuple[str, str]], size: str) -> Config:
    """The config of a scene that is prepared once and then loaded by its name, with patches of 11 × 11 [kin: MSFMamba].

    Args:
      name: of the scene; its files are those of the layout of that name, where there is one.
      classes: name and colour of each, labelled from 1.
      size: as of `get_config`.
    """
    config = configuration.load(f"base:{size}")
    config.scene.name = name
    config.scene.source = "prepared"
    if name in LAYOUTS:
        config.scene.update(LAYOUTS[name].fields())
    config.scene.labels.names = {str(value): title for value, (title, _) in enumerate(classes, start=1)}
    config.scene.labels.colours = {str(value): colour for value, (_, colour) in enumerate(classes, start=1)}
    config.classifier.patch = 11
    return config
