"""Heeds SIGTERM, by which schedulers ask for the machine back: at once where nothing is lost, else after a save."""

import itertools
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils

# Steps at which JAX's coordination service was asked, over all trainings of this program: it waits for one number to
# come up, and a second training counts its own steps from 1 again.
_asked = itertools.count(1)


class Preemption:
    """What is known of a SIGTERM; until `hold` is called, there is nothing to save and it ends the program."""

    def __init__(self, farewell: str):
        self._farewell = farewell
        self._held = self._noted = False

    def hold(self) -> None:
        """From now on there is something to save: SIGTERM is only noted, for `asked`."""
        self._held = True

    def note(self) -> None:
        """SIGTERM has come."""
        again, self._noted = self._noted, True
        if not (again or self._held):
            print(self._farewell, flush=True)
            # The main thread may be deep in the compiler. What survives kill -9 at any moment survives this too.
            os._exit(0)

    def asked(self) -> bool:
        """Whether the run has been asked to stop; several processes all hear of it after the same step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(next(_asked))
        return self._noted


@contextmanager
def heeding_preemption(farewell: str) -> Iterator[Preemption]:
    """While in it, SIGTERM prints `farewell` and leaves the program with status 0 at once, until it is held.

    One process heeds the signal itself. Where several work together it is left to JAX's coordination service, which
    tells the others, so it is served after a step of training and nowhere else.
    """
    preemption = Preemption(farewell)
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield preemption  # only the main thread may handle signals
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(receiver, preemption), daemon=True)
    watcher.start()
    # Python runs handlers in the main thread, once what it is in returns. The interpreter writes the signal's number
    # to the file in any case, so the watcher hears of it during a compilation of minutes.
    earlier_file = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    earlier = signal.signal(signal.SIGTERM, lambda *_: preemption.note())
    try:
        yield preemption
    finally:
        signal.signal(signal.SIGTERM, earlier)
        signal.set_wakeup_fd(earlier_file)
        sender.close()
        watcher.join()


def _watch(receiver: socket.socket, preemption: Preemption) -> None:
    with receiver:
        while numbers := receiver.recv(64):
            if signal.SIGTERM in numbers:
                preemption.note()
