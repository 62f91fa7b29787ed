"""Whether two maps of one scene differ by more than chance."""

import sys
from typing import Any

import numpy as np
from jaxtyping import Int
from scipy.stats import binomtest, chi2

FEW = 25  # discordant pixels, up to which the exact test is used


def mcnemar(
    reference: Int[np.ndarray, " n"], first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"]
) -> dict[str, Any]:
    """McNemar's test of two maps at the same pixels: Q. McNemar, Psychometrika 12 (1947); for maps, G. M. Foody 2004.

    With b pixels that only the first map has right and c that only the second has,

        χ² = (|b − c| − 1)² / (b + c)

    with one degree of freedom; up to `FEW` such pixels, the exact binomial test instead. It takes pixels as
    independent, which neighbours are not: a p-value of it is a lower bound, and `intervals` says how much more careful
    one has to be.

    Args:
      reference: class of each pixel.
      first: its class on one map.
      second: its class on the other map.

    Returns:
      "only_first" (b), "only_second" (c), "statistic" (None where the test is exact) and "p".
    """
    b, c = (int(((one == reference) & (other != reference)).sum()) for one, other in ((first, second), (second, first)))
    if b + c <= FEW:
        p = float(binomtest(b, b + c).pvalue) if b + c else 1.0
        return {"only_first": b, "only_second": c, "statistic": None, "p": p}
    statistic = max(abs(b - c) - 1, 0) ** 2 / (b + c)
    return {"only_first": b, "only_second": c, "statistic": statistic, "p": float(chi2.sf(statistic, 1))}


def told_p(p: float) -> str:
    """A p-value with its sign of comparison: where it is less than a number can be, that it is."""
    return f"= {p:.2g}" if p > 0.0 else f"< {sys.float_info.min:.0e}"
