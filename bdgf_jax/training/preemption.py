"""Notices that the machine is wanted back (SIGTERM), so that the loop can save and leave."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils


@contextmanager
def noticing_preemption() -> Iterator[Callable[[int], bool]]:
    """Gives a function that says, once a step is done, whether the run has been asked to stop.

    One process heeds SIGTERM; several ask JAX's coordination service, so that all stop after the same step.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
    elif threading.current_thread() is not threading.main_thread():
        yield lambda step: False  # only the main thread may handle signals
    else:
        asked = threading.Event()
        earlier = signal.signal(signal.SIGTERM, lambda *_: asked.set())
        try:
            yield lambda step: asked.is_set()
        finally:
            signal.signal(signal.SIGTERM, earlier)
