"""Which samples each step sees: a stream without state, so that the step's number is all there is to remember."""

from collections.abc import Sequence
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
        # Two epochs, since a batch may reach from one into the next.
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def __getitem__(self, step: int) -> Int[np.ndarray, " b"]:
        """This process's part of the batch of step 0, 1, …"""
        share = self.batch_size // self.count
        epochs, places = np.divmod(step * self.batch_size + self.index * share + np.arange(share), self.samples)
        parts = [self._order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
        return np.concatenate(parts)

    def _shuffled(self, epoch: int) -> Int[np.ndarray, " n"]:
        return np.random.default_rng((self.seed, epoch)).permutation(self.samples)


class IndexStreams:
    """The streams of several members; of each step, the batches of those that this process's devices take.

    Args:
      streams: of all members, in the order of the devices.
    """

    def __init__(self, streams: Sequence[IndexStream]):
        share = len(streams) // jax.process_count()
        first = jax.process_index() * share
        self._own = streams[first : first + share]

    def __getitem__(self, step: int) -> Int[np.ndarray, "m b"]:
        """The batches of step 0, 1, …"""
        return np.stack([stream[step] for stream in self._own])
