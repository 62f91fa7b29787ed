import re
import xml.etree.ElementTree as ElementTree

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bdgf_jax.evaluation.charts import BOTTOM, HEIGHT, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH, Curve, curves, line_chart

FINITE = st.floats(-1e6, 1e6)


def trend_points(svg):
    points = re.findall(r'class="trend[^"]*" points="([^"]*)"', svg)
    return [np.array([pair.split(",") for pair in line.split()], float) for line in points]


@given(hnp.arrays(np.float64, st.integers(1, 60), elements=FINITE))
def test_whatever_was_logged_the_chart_is_well_formed_and_in_its_frame(values):
    svg = line_chart([Curve("<loss>", np.arange(len(values)) * 10.0, values)], description='"losses" & <more>')
    assert ElementTree.fromstring(svg).get("aria-label") == '"losses" & <more>'
    (points,) = trend_points(svg)
    assert points[:, 0].min() >= LEFT - 0.1
    assert points[:, 0].max() <= WIDTH - RIGHT + 0.1
    assert points[:, 1].max() <= HEIGHT - BOTTOM + 0.1


def test_a_spike_in_the_first_steps_does_not_flatten_the_rest():
    values = np.concatenate([[1000.0], np.linspace(2.0, 1.0, 299)])
    (points,) = trend_points(line_chart([Curve("loss", np.arange(300.0), values)], description=""))
    middle = points[150, 1]
    assert TOP < middle < HEIGHT - BOTTOM - 0.25 * (HEIGHT - TOP - BOTTOM)


@given(hnp.arrays(np.float64, st.integers(1, 200), elements=FINITE))
def test_the_trend_is_the_mean_of_the_neighbours(values):
    half = len(values) // 30
    expected = [values[max(i - half, 0) : i + half + 1].mean() for i in range(len(values))]
    np.testing.assert_allclose(Curve("x", values, values).trend, expected, atol=1e-4)


def test_only_the_terms_under_the_prefix_are_drawn_and_gaps_are_skipped():
    log = [
        {"step": 1, "loss": 9.0, "loss/hsi": 3.0, "masking/hsi": 0.5},
        {"step": 2, "loss": 9.0, "loss/hsi": float("nan"), "loss/sar": None},
        {"step": 3, "loss": 9.0, "loss/hsi": 1.0, "loss/sar": 2.0},
    ]
    hsi, sar = curves(log, "loss")
    assert (hsi.name, hsi.steps.tolist(), hsi.values.tolist()) == ("hsi", [1, 3], [3.0, 1.0])
    assert (sar.name, sar.steps.tolist(), sar.values.tolist()) == ("sar", [3], [2.0])


def test_a_long_log_is_thinned_by_means():
    log = [{"step": step, "loss/hsi": float(step % 2)} for step in range(40 * MOST_POINTS)]
    (curve,) = curves(log, "loss")
    assert len(curve.values) == MOST_POINTS
    np.testing.assert_allclose(curve.values, 0.5)
