"""The filter against the sums that define it, pixel by pixel, and what it keeps and smoothes."""

import numpy as np
import pytest

from bdgf_jax.evaluation.guided_filter import guided_filter

SHAPE = (13, 11)
RNG = np.random.default_rng(0)
GUIDE, VALUES = RNG.normal(size=(*SHAPE, 3)), RNG.uniform(size=(*SHAPE, 4))
VALID = RNG.uniform(size=SHAPE) > 0.3
EVERYWHERE = np.ones(SHAPE, bool)


def by_definition(values, guide, valid, radius, edge):
    """A ridge regression in each window, and at each pixel the mean of the windows that hold it."""
    rows, columns = valid.shape
    around = lambda i, j: np.s_[max(0, i - radius) : i + radius + 1, max(0, j - radius) : j + radius + 1]
    slopes, offsets = {}, {}
    for i, j in np.ndindex(rows, columns):
        inside = valid[around(i, j)]
        if not inside.any():
            continue
        g, v = guide[around(i, j)][inside], values[around(i, j)][inside]
        centred = g - g.mean(0)
        slope = np.linalg.solve(
            centred.T @ centred / len(g) + edge * np.eye(g.shape[1]), centred.T @ (v - v.mean(0)) / len(g)
        )
        slopes[i, j], offsets[i, j] = slope, v.mean(0) - g.mean(0) @ slope
    filtered = np.zeros_like(values)
    for i, j in np.argwhere(valid):
        there = [at for at in slopes if abs(at[0] - i) <= radius and abs(at[1] - j) <= radius and valid[at]]
        slope = np.mean([slopes[at] for at in there], axis=0)
        filtered[i, j] = guide[i, j] @ slope + np.mean([offsets[at] for at in there], axis=0)
    return filtered


@pytest.mark.parametrize("valid", [EVERYWHERE, VALID], ids=["everywhere", "holes"])
@pytest.mark.parametrize(("radius", "edge"), [(1, 0.3), (3, 0.05)])
def test_it_is_the_mean_of_its_windows_regressions(valid, radius, edge):
    filtered = guided_filter(VALUES, GUIDE, valid, radius=radius, edge=edge)
    np.testing.assert_allclose(filtered[valid], by_definition(VALUES, GUIDE, valid, radius, edge)[valid], atol=1e-10)


def test_what_is_not_valid_has_no_say():
    filtered = guided_filter(VALUES, GUIDE, VALID, radius=2, edge=0.1)
    other = guided_filter(
        np.where(VALID[..., None], VALUES, 7.0), np.where(VALID[..., None], GUIDE, -9.0), VALID, radius=2, edge=0.1
    )
    np.testing.assert_allclose(other[VALID], filtered[VALID], atol=1e-12)


def test_a_function_of_the_guide_passes_and_sums_stay():
    line = GUIDE @ RNG.normal(size=(3, 2)) + 0.5
    np.testing.assert_allclose(guided_filter(line, GUIDE, EVERYWHERE, radius=2, edge=1e-9), line, atol=1e-6)
    shares = VALUES / VALUES.sum(-1, keepdims=True)
    filtered = guided_filter(shares, GUIDE, VALID, radius=2, edge=0.1)
    np.testing.assert_allclose(filtered[VALID].sum(-1), 1.0, atol=1e-10)


def test_noise_is_smoothed_and_an_edge_stays_sharp():
    edge = np.repeat((np.arange(40) >= 20)[None].astype(float), 40, axis=0)
    guide = edge[..., None] * 4.0 + 0.05 * RNG.normal(size=(40, 40, 1))
    noisy = edge + 0.3 * RNG.normal(size=edge.shape)
    filtered = guided_filter(noisy[..., None], guide, np.ones((40, 40), bool), radius=4, edge=0.1)[..., 0]
    assert np.abs(filtered - edge)[:, [19, 20]].mean() < 0.12  # a plain mean would be off by 0.44
    assert (filtered - edge).std() < 0.3 * (noisy - edge).std()
