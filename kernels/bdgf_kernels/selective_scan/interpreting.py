"""How kernels run where their device is not: by an interpreter, for calls that are traced inside a `with` block."""

import contextlib
from collections.abc import Iterator


class Interpreter:
    """What a kernel's `interpret` argument is to be; `pallas_call` compiles where it is False.

    Called with the parameters of an interpreter, `pltpu.InterpretParams(detect_races=True)` for example, or True for
    the plain one, it gives the block in which they hold.
    """

    def __init__(self) -> None:
        self.parameters: object = False

    @contextlib.contextmanager
    def __call__(self, parameters: object) -> Iterator[None]:
        """Holds the parameters until the block is left."""
        before, self.parameters = self.parameters, parameters
        try:
            yield
        finally:
            self.parameters = before
