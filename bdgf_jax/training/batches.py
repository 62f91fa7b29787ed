"""Batches on the devices, several steps at a time: of samples at hand, or of samples that are read ahead of the steps.

The order is `IndexStream`'s in both cases. Grain has a shuffle of its own that keeps no order in memory, but it walks
through a block cipher of at least 16 bits until it hits a number below n, 65 536 / n times for each sample (measured:
2.8 ms a sample of 16, 0.3 ms of 100), and its shards draw other batches together than one process alone would. So Grain
is given the batches of several steps to read as one sample, and does what it does well: threads that read ahead, and an
iterator that knows where it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, PyTree

from bdgf_jax.errors import InputError
from bdgf_jax.training.indices import IndexStream, IndexStreams
from bdgf_jax.training.mesh import put_batches

# Batches of several steps that are read at the same time, that wait in the host's memory, and that wait on the devices.
READERS, READ_AHEAD, PUT_AHEAD = 4, 4, 2


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
        """The next steps' batches one after the other, each laid over the devices."""
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
    together: int = 1,
    position: dict[str, Any] | None,
) -> Iterator[Batches]:
    """The batches of the steps start, start + 1, …, steps - 1.

    Args:
      samples: that the batches consist of.
      stream: which of them each batch consists of; those of several members are of samples at hand.
      mesh: what the batches are laid over.
      start: steps done, a multiple of `together`.
      steps: of the whole training, likewise.
      together: how many steps' batches are drawn at once.
      position: from the checkpoint that the run goes on from; None where it begins, or where nothing was kept.

    Raises:
      InputError: the checkpoint's batches were of other samples.
    """
    if isinstance(samples, np.ndarray):
        yield _AtHand(_Drawn(samples, stream, steps, together), mesh, start)
        return
    if isinstance(stream, IndexStreams):
        raise TypeError(
            "Batches of several members are drawn from an array of samples, not from samples that are read."
        )
    batches = _ReadAhead(_Drawn(samples, stream, steps, together), mesh, start=start, position=position)
    try:
        yield batches
    finally:
        batches.close()


class _AtHand:
    def __init__(self, drawn: "_Drawn", mesh: Mesh, start: int):
        self._drawn, self._mesh, self._next = drawn, mesh, start // drawn.together

    def __next__(self) -> PyTree:
        self._next += 1
        return put_batches(self._drawn[self._next - 1], self._mesh)

    def position(self) -> None:
        return None


class _ReadAhead:
    def __init__(self, drawn: "_Drawn", mesh: Mesh, *, start: int, position):
        # Imported here: it takes half a second, and the trainings of a single scene need none of it.
        import grain

        self._samples = {"name": drawn.samples.name, "count": len(drawn.samples)}
        self._together = drawn.together
        if position is not None and position["samples"] != self._samples:
            raise InputError(_changed(position["samples"], self._samples))
        batches = grain.MapDataset.source(drawn).to_iter_dataset(
            grain.ReadOptions(num_threads=READERS, prefetch_buffer_size=READ_AHEAD)
        )
        on_devices = grain.experimental.ThreadPrefetchIterDataset(
            batches.map(lambda batch: put_batches(batch, mesh)), prefetch_buffer_size=PUT_AHEAD
        )
        self._iterator = iter(on_devices)
        if position is None or position["together"] != self._together:
            self._iterator.set_state({"next_index": start // self._together})
        else:
            self._iterator.set_state(position["iterator"])

    def __next__(self) -> PyTree:
        return next(self._iterator)

    def position(self) -> dict[str, Any]:
        return {"samples": self._samples, "together": self._together, "iterator": self._iterator.get_state()}

    def close(self) -> None:
        self._iterator.close()


class _Drawn:
    """Several steps' batches as one sample, so that the order, and who takes which part of it, is the stream's."""

    def __init__(self, samples: Samples, stream: IndexStream | IndexStreams, steps: int, together: int):
        self.samples: Any = samples  # with a name, where they are read
        self.together = together
        self._stream, self._steps = stream, steps

    def __len__(self) -> int:
        return self._steps // self.together

    def __getitem__(self, index: int) -> PyTree:
        steps = range(index * self.together, (index + 1) * self.together)
        return jax.tree.map(lambda *batches: np.stack(batches), *[self.samples[self._stream[step]] for step in steps])


def _changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    return (
        f"The checkpoint goes on in '{before['name']}' of {before['count']} samples, and '{now['name']}' of"
        f" {now['count']} is given: the files were changed since. Take the change back, name the samples as they were"
        f" ({before['name']}, with --force), or start afresh in another --workdir."
    )
