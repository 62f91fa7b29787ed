"""What the configs of the field's benchmark scenes have in common."""

from collections.abc import Sequence

from bdgf_jax import configuration
from bdgf_jax.configuration import Config
from bdgf_jax.scenes.layouts import LAYOUTS

# Names and colours of the 17 local climate zones of Stewart and Oke (2012).
LOCAL_CLIMATE_ZONES = (
    ("compact high-rise", "#8c0000"),
    ("compact mid-rise", "#d10000"),
    ("compact low-rise", "#ff0000"),
    ("open high-rise", "#bf4d00"),
    ("open mid-rise", "#ff6600"),
    ("open low-rise", "#ff9955"),
    ("lightweight low-rise", "#faee05"),
    ("large low-rise", "#bcbcbc"),
    ("sparsely built", "#ffccaa"),
    ("heavy industry", "#555555"),
    ("dense trees", "#006a00"),
    ("scattered trees", "#00aa00"),
    ("bush or scrub", "#648525"),
    ("low plants", "#b9db79"),
    ("bare rock or paved", "#000000"),
    ("bare soil or sand", "#fbf7ae"),
    ("water", "#6a6aff"),
)


def benchmark_config(name: str, classes: Sequence[tuple[str, str]], size: str) -> Config:
    """The config of a scene that is prepared once and then loaded by its name.

    As in the field, each pixel has a patch of 11 × 11 to itself [kin: MSFMamba].

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
    config.classifier.centre = 1
    return config
