"""The peak of each stretch is that stretch's own."""

import numpy as np

from bdgf_jax.memory import FILE, noting_peak
from bdgf_jax.run import read_json

MEGABYTES = 1 << 20


def test_a_peak_is_that_of_what_was_done_inside(tmp_path):
    with noting_peak(tmp_path, "large"):
        np.ones(300 * MEGABYTES, np.uint8).sum()
    with noting_peak(tmp_path, "small"):
        np.ones(MEGABYTES, np.uint8).sum()
    peaks = read_json(tmp_path / FILE)
    assert 250 * MEGABYTES < peaks["large"]["host"] - peaks["small"]["host"] < 350 * MEGABYTES


def test_what_is_only_looked_up_keeps_the_peak_of_when_it_was_computed(tmp_path):
    with noting_peak(tmp_path, "features"):
        np.ones(300 * MEGABYTES, np.uint8).sum()
    computed = read_json(tmp_path / FILE)
    with noting_peak(tmp_path, "features"):
        pass
    assert read_json(tmp_path / FILE) == computed
