"""Which samples each step sees: a stream without state, so that the step's number is all there is to remember."""

from functools import lru_cache

import jax
import numpy as np
from jaxtyping import Int

from bdgf_jax.errors import InputError


class IndexStream:
    """Shuffled epochs of the numbers 0 … n-1, cut into batches; any batch can be asked for at any time.

    Within an epoch no number comes twice; epochs follow each other without a gap, so that a batch may hold the end of
    one and the beginning of the next. What all processes draw together at a step does not depend on how many they
    are: process i takes the i-th part of the batch.

    Args:
      samples: how many there are.
      batch_size: of all processes together.
      seed: of the shuffling.
      process: this one's number and how many there are; what JAX knows by default.

    Raises:
      InputError: there are no samples, or the processes cannot share a batch evenly.
    """

    def __init__(self, samples: int, *, batch_size: int, seed: int, process: tuple[int, int] | None = None):
        self.index, self.count = process or (jax.process_index(), jax.process_count())
        if samples < 1:
            raise InputError("There is not a single sample to train on: the training mask holds no pixel.")
        if batch_size < 1 or batch_size % self.count:
            raise InputError(f"batch_size must be a multiple of the {self.count} process(es), got {batch_size}.")
        self.samples, self.batch_size, self.seed = samples, batch_size, seed

    def __getitem__(self, step: int) -> Int[np.ndarray, " b"]:
        """This process's part of the batch of step 0, 1, …"""
        share = self.batch_size // self.count
        epochs, places = np.divmod(step * self.batch_size + self.index * share + np.arange(share), self.samples)
        parts = [_order(self.samples, self.seed, int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
        return np.concatenate(parts)


# Two, since a batch may reach from one epoch into the next.
@lru_cache(maxsize=2)
def _order(samples: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    return np.random.default_rng((seed, epoch)).permutation(samples)
