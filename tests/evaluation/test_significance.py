import numpy as np
import pytest

from bdgf_jax.evaluation.significance import mcnemar, told_p


def maps(both, only_first, only_second, neither):
    """Two maps of a reference of zeros, of which so many pixels are right."""
    counts = (both, only_first, only_second, neither)
    first = np.repeat([0, 0, 1, 1], counts)
    second = np.repeat([0, 1, 0, 2], counts)
    return np.zeros(sum(counts), int), first, second


def test_many_discordant_pixels_are_judged_by_chi_squared_worked_out_by_hand():
    """(|86 − 150| − 1)² / 236 = 3969 / 236: the approval ratings in Agresti, Categorical Data Analysis."""
    found = mcnemar(*maps(794, 150, 86, 570))
    assert (found["only_first"], found["only_second"]) == (150, 86)
    assert found["statistic"] == pytest.approx(3969 / 236, rel=1e-12)
    assert found["p"] == pytest.approx(4.115e-5, rel=1e-3)


def test_few_discordant_pixels_are_judged_exactly():
    """2 (C(10, 0) + C(10, 1)) / 2¹⁰."""
    found = mcnemar(*maps(40, 9, 1, 3))
    assert found["statistic"] is None
    assert found["p"] == pytest.approx(22 / 1024, rel=1e-12)


def test_two_maps_that_are_right_together_do_not_differ():
    assert mcnemar(*maps(20, 0, 0, 10))["p"] == 1.0
    assert mcnemar(*maps(20, 30, 30, 10))["p"] == 1.0


def test_the_order_of_the_maps_does_not_matter():
    reference, first, second = maps(100, 60, 20, 30)
    one, other = mcnemar(reference, first, second), mcnemar(reference, second, first)
    assert (one["p"], one["statistic"]) == (other["p"], other["statistic"])
    assert one["only_first"] == other["only_second"]


def test_a_p_that_no_number_holds_is_told_as_a_bound():
    p = mcnemar(*maps(20, 9_000, 30, 10))["p"]
    assert (p, told_p(p), told_p(0.01234)) == (0.0, "< 2e-308", "= 0.012")
