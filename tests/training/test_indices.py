import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bdgf_jax.errors import InputError
from bdgf_jax.training.indices import IndexStream


@given(samples=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_every_epoch_holds_each_sample_once(samples, batch_size, seed):
    stream = IndexStream(samples, batch_size=batch_size, seed=seed)
    drawn = np.concatenate([stream[step] for step in range(3 * samples // batch_size + 1)])
    for epoch in range(len(drawn) // samples):
        np.testing.assert_array_equal(np.sort(drawn[epoch * samples : (epoch + 1) * samples]), np.arange(samples))


def test_a_step_draws_the_same_whatever_was_drawn_before():
    stream = IndexStream(100, batch_size=32, seed=3)
    in_order = [stream[step] for step in range(20)]
    for step in (19, 0, 7):
        np.testing.assert_array_equal(IndexStream(100, batch_size=32, seed=3)[step], in_order[step])


def test_epochs_and_seeds_differ_in_order():
    first, second = (IndexStream(50, batch_size=50, seed=0)[epoch] for epoch in (0, 1))
    other = IndexStream(50, batch_size=50, seed=1)[0]
    for one, another in ((first, second), (first, other), (second, other)):
        assert (one != another).any()


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_draw_together_what_one_draws_alone(processes):
    alone = IndexStream(37, batch_size=16, seed=5)
    parts = [IndexStream(37, batch_size=16, seed=5, process=(index, processes)) for index in range(processes)]
    for step in range(10):
        np.testing.assert_array_equal(np.concatenate([part[step] for part in parts]), alone[step])


def test_an_empty_training_mask_is_refused():
    with pytest.raises(InputError, match="not a single sample"):
        IndexStream(0, batch_size=8, seed=0)


def test_a_batch_that_processes_cannot_share_is_refused():
    with pytest.raises(InputError, match=r"multiple of the 3 process.*got 8"):
        IndexStream(10, batch_size=8, seed=0, process=(0, 3))
