"""Which numbers the fields of a config may be: those that no run can use are refused before one begins.

Fields that are not here are checked where they are used.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bdgf_jax.errors import InputError

TRAININGS = ("pretrain", "train")
ALLOWED: Mapping[str, Callable[[float], bool]] = {
    "1 or more": lambda value: value >= 1,
    "0 or more": lambda value: value >= 0,
    "more than 0": lambda value: value > 0,
    "a number from 0 to 1": lambda value: 0 <= value <= 1,
    "a number from 0 to less than 1": lambda value: 0 <= value < 1,
}


def of_both(*names: str) -> tuple[str, ...]:
    """These fields of either training."""
    return tuple(f"{training}.{name}" for training in TRAININGS for name in names)


FIELDS: Mapping[str, tuple[str, ...]] = {
    "1 or more": (
        *("diffusion.timesteps", "diffusion.width", "diffusion.multipliers", "diffusion.blocks", "masking.cell"),
        *of_both("steps", "batch_size", "log_every", "keep"),
        *("pretrain.tile", "classifier.width", "classifier.stages", "classifier.groups", "classifier.reduction"),
        *("classifier.heads", "classifier.state", "predict.batch_size", "report.sampling_steps"),
        *("scene.synthetic.height", "scene.synthetic.width", "scene.synthetic.bands", "scene.split.per_class"),
    ),
    "0 or more": (
        *("diffusion.hidden_weight", "masking.alpha", "features.margin"),
        *("classifier.mutual.entropy", "classifier.mutual.similarity", "classifier.mutual.unlabelled"),
        "classifier.direct.landmarks",
        *of_both("steps_together", "warmup", "weight_decay", "evaluate_every", "checkpoint_every"),
        *("train.jitter", "predict.stride", "predict.tile", "predict.smoothing", "report.samples"),
    ),
    "more than 0": (
        *of_both("learning_rate", "clip"),
        *("masking.temperature", "masking.concentration", "classifier.expansion"),
        *("classifier.direct.gamma", "classifier.direct.ridge"),
    ),
    "a number from 0 to 1": (
        *("masking.ratio", "masking.floor", "masking.whole", "masking.decay", "masking.ramp"),
        "classifier.mutual.ramp",
    ),
    "a number from 0 to less than 1": (*of_both("ema"), "classifier.dropout", "train.label_smoothing"),
}


def check_ranges(given: Mapping[str, Any]) -> None:
    """Looks at all numbers of a config, each of a list by itself.

    Args:
      given: dotted name of each field -> value.

    Raises:
      InputError: one of them is out of its range, or no number.
    """
    for expected, fields in FIELDS.items():
        for field in fields:
            value = given[field]
            numbers = value if isinstance(value, Iterable) else [value]
            if not all(isinstance(number, int | float) and ALLOWED[expected](number) for number in numbers):
                raise InputError(f"config.{field} is {value}; expected {expected}.")
