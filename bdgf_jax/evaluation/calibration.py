"""Whether a map is as often right as it says: reliability, expected calibration error, errors found by uncertainty."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

BINS = 15


def reliability(confidence: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> list[dict[str, Any]]:
    """The pixels sorted by confidence into `BINS` bins of one width: Guo et al. 2017, arXiv 1706.04599.

    Args:
      confidence: probability of the class that the map shows, in 0 … 1.
      right: whether the map is right there.

    Returns:
      Of each bin: "from" and "to", "pixels", and "confidence" and "accuracy", its means, None where it is empty.
    """
    edges = np.linspace(0.0, 1.0, BINS + 1)
    bin_of = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, BINS - 1)
    pixels = np.bincount(bin_of, minlength=BINS)
    sums = [np.bincount(bin_of, np.asarray(values, np.float64), BINS) for values in (confidence, right)]
    return [
        {
            "from": float(low),
            "to": float(high),
            "pixels": int(count),
            "confidence": float(claimed / count) if count else None,
            "accuracy": float(met / count) if count else None,
        }
        for low, high, count, claimed, met in zip(edges, edges[1:], pixels, *sums)
    ]


def expected_calibration_error(bins: Sequence[dict[str, Any]]) -> float:
    """Σ_b n_b/n |accuracy_b − confidence_b|: by how much confidence is off, on average over the pixels."""
    filled = [one for one in bins if one["pixels"]]
    off = sum(one["pixels"] * abs(one["accuracy"] - one["confidence"]) for one in filled)
    return off / sum(one["pixels"] for one in filled)


def error_detection(uncertainty: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]) -> float | None:
    """Probability that a wrong pixel is more uncertain than a right one, ties counting half.

    That is the area under the ROC curve of finding errors by uncertainty: 0.5 says that it tells nothing. None where
    all pixels are right, or none.
    """
    wrong = ~right
    errors, hits = int(wrong.sum()), int(right.sum())
    if not errors or not hits:
        return None
    ranks = rankdata(uncertainty.astype(np.float64))  # newer SciPy ranks in the dtype that it is given
    return float((ranks[wrong].sum() - errors * (errors + 1) / 2) / (errors * hits))
