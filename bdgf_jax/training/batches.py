"""Batches on the devices, step by step: of samples at hand, or of samples that are read ahead of the steps.

The order is `IndexStream`'s in both cases. Grain has a shuffle of its own that keeps no order in memory, but it walks
through a block cipher of at least 16 bits until it hits a number below n, 65 536 / n times for each sample (measured:
2.8 ms a sample of 16, 0.3 ms of 100), and its shards draw other batches together than one process alone would. So Grain
is given whole batches to read, and does what it does well: threads that read ahead, and an iterator that knows where it
is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, PyTree

from bdgf_jax.errors import InputError
from bdgf_jax.training.indices import IndexStream, IndexStreams
from bdgf_jax.training.mesh import put_batch

# Batches that are read at the same time, that wait in the host's memory, and that wait on the devices.
READERS, READ_AHEAD, PUT_AHEAD = 4, 8, 2


@runtime_checkable
class Samples(Protocol):
    """What training can draw from: an array of samples, or something that reads those that it is asked for.

    Samples that are read also bear a `name`, by which a resumed run knows that they are still the same.
    """

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, numbers: Int[np.ndarray, " b"], /) -> PyTree:
        """Those of these numbers: arrays with a leading axis."""
        ...


@runtime_checkable
class Batches(Protocol):
    """An iterator of a run's batches."""

    def __next__(self) -> PyTree:
        """This step's batch, laid over the devices."""
        ...

    def position(self) -> dict[str, Any] | None:
        """What a checkpoint has to keep besides the step so that the next batch can be found again, if anything."""
        ...


@contextmanager
def opened(
    samples: Samples,
    stream: IndexStream | IndexStreams,
    mesh: Mesh,
    *,
    start: int,
    steps: int,
    position: dict[str, Any] | None,
) -> Iterator[Batches]:
    """The batches of the steps start, start + 1, …, steps - 1.

    Args:
      samples: that the batches consist of.
      stream: which of them each batch consists of; those of several members are of samples at hand.
      mesh: what the batches are laid over.
      start: steps done.
      steps: of the whole training.
      position: from the checkpoint that the run goes on from; None where it begins, or where nothing was kept.

    Raises:
      InputError: the checkpoint's batches were of other samples.
    """
    if isinstance(samples, np.ndarray):
        yield _AtHand(samples, stream, mesh, start)
        return
    if isinstance(stream, IndexStreams):
        raise TypeError(
            "Batches of several members are drawn from an array of samples, not from samples that are read."
        )
    batches = _ReadAhead(samples, stream, mesh, start=start, steps=steps, position=position)
    try:
        yield batches
    finally:
        batches.close()


class _AtHand:
    def __init__(self, samples: np.ndarray, stream: IndexStream | IndexStreams, mesh: Mesh, step: int):
        self._samples, self._stream, self._mesh, self._step = samples, stream, mesh, step

    def __next__(self) -> PyTree:
        self._step += 1
        return put_batch(self._samples[self._stream[self._step - 1]], self._mesh)

    def position(self) -> None:
        return None


class _ReadAhead:
    def __init__(self, samples, stream: IndexStream, mesh: Mesh, *, start: int, steps: int, position):
        # Imported here: it takes half a second, and the trainings of a single scene need none of it.
        import grain

        self._samples = {"name": samples.name, "count": len(samples)}
        if position is not None and position["samples"] != self._samples:
            raise InputError(_changed(position["samples"], self._samples))
        batches = grain.MapDataset.source(_Source(samples, stream, steps)).to_iter_dataset(
            grain.ReadOptions(num_threads=READERS, prefetch_buffer_size=READ_AHEAD)
        )
        on_devices = grain.experimental.ThreadPrefetchIterDataset(
            batches.map(lambda batch: put_batch(batch, mesh)), prefetch_buffer_size=PUT_AHEAD
        )
        self._iterator = iter(on_devices)
        self._iterator.set_state({"next_index": start} if position is None else position["iterator"])

    def __next__(self) -> PyTree:
        return next(self._iterator)

    def position(self) -> dict[str, Any]:
        return {"samples": self._samples, "iterator": self._iterator.get_state()}

    def close(self) -> None:
        self._iterator.close()


class _Source:
    """Whole batches as Grain's samples, so that the order, and who takes which part of it, is the stream's."""

    def __init__(self, samples: Samples, stream: IndexStream, steps: int):
        self._samples, self._stream, self._steps = samples, stream, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> PyTree:
        return self._samples[self._stream[index]]


def _changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    return (
        f"The checkpoint goes on in '{before['name']}' of {before['count']} samples, and '{now['name']}' of"
        f" {now['count']} is given: the files were changed since. Take the change back, name the samples as they were"
        f" ({before['name']}, with --force), or start afresh in another --workdir."
    )
