"""Named shapes of calls that matter, read by tests, tuner and benchmarks alike."""

from typing import NamedTuple


class Shape(NamedTuple):
    """Batch, steps, channels and states of a call, and where it comes from."""

    b: int
    l: int  # noqa: E741 -- the field's name for the axis
    d: int
    n: int
    source: str

    @property
    def elements(self) -> int:
        """Multiply-adds of the state: the work of a forward pass."""
        return self.b * self.l * self.d * self.n


SHAPES = {
    "tiny": Shape(2, 7, 4, 4, "the smallest that meets every axis"),
    "cpu_121": Shape(64, 121, 64, 16, "an 11 x 11 patch, a training batch on a laptop"),
    "cpu_121_narrow": Shape(64, 121, 32, 16, "an 11 x 11 patch, half the width"),
    "ours_49": Shape(1024, 49, 128, 16, "a 7 x 7 patch"),
    "ours_121": Shape(1024, 121, 128, 16, "an 11 x 11 patch"),
    "ours_289": Shape(512, 289, 128, 16, "a 17 x 17 patch"),
    "lm_2048": Shape(8, 2048, 2048, 16, "a language model of about a billion weights"),
    "lm_8192": Shape(2, 8192, 2048, 16, "the same, long context"),
}
