"""Which numbers a network may compute in half precision, by config."""

import jax.numpy as jnp
import numpy as np

from bdgf_jax.errors import InputError

PRECISIONS = ("float32", "bfloat16")


def compute_dtype(field: str, name: str) -> np.dtype:
    """The type of a network's convolutions, matrix products and what passes between them.

    Parameters, statistics of normalisations, softmaxes, states of scans, logits and losses are float32 whatever this
    is. bfloat16 has the range of float32, so losses need no scaling (arXiv 1905.12322).

    Args:
      field: of the config, for the error.
      name: its value.

    Raises:
      InputError: it is none of `PRECISIONS`.
    """
    if name not in PRECISIONS:
        raise InputError(
            f"{field} is '{name}'; expected one of {', '.join(PRECISIONS)}."
            " Parameters, norms and losses are float32 with either."
        )
    return jnp.dtype(name)
