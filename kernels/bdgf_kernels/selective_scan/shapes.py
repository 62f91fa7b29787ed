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
    "cpu_lm_1024": Shape(1, 1024, 256, 16, "a small language model's layer, one sequence"),
    "ours_49": Shape(1024, 49, 128, 16, "a 7 x 7 patch"),
    "ours_121": Shape(1024, 121, 128, 16, "an 11 x 11 patch"),
    "ours_289": Shape(512, 289, 128, 16, "a 17 x 17 patch"),
    "lm_2048": Shape(8, 2048, 2048, 16, "a language model of about a billion weights"),
    "lm_8192": Shape(2, 8192, 2048, 16, "the same, long context"),
}

TEST_SHAPES = {
    "one": Shape(1, 1, 1, 1, "the smallest"),
    "two_steps": Shape(2, 2, 4, 8, "nothing to loop over"),
    "tiny": SHAPES["tiny"],
    "ragged": Shape(5, 30, 6, 3, "no axis a multiple of anything that kernels like"),
    "patch_49": Shape(2, 49, 96, 16, "a 7 x 7 patch"),
    "patch_121": Shape(2, 121, 128, 16, "an 11 x 11 patch"),
    "whole_chunks": Shape(2, 128, 4, 4, "a length that every chunk divides"),
    "patch_289": Shape(2, 289, 4, 16, "a 17 x 17 patch"),
    "long": Shape(1, 1000, 4, 8, "many chunks and a rest"),
    "wide": Shape(3, 7, 200, 4, "more than one block of channels, the last one ragged"),
}
"""What the test suite runs: every axis at 1, at sizes of models, and at sizes that no block divides."""
