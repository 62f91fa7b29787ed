"""Accuracies and areas as a probability sample estimates them, with intervals: Olofsson et al. 2014.

P. Olofsson, G. M. Foody, M. Herold, S. V. Stehman, C. E. Woodcock, M. A. Wulder: Good practices for estimating area and
assessing accuracy of land change. Remote Sensing of Environment 148 (2014) 42–57, equations 1 to 11.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from bdgf_jax.errors import InputError

NORMAL = 1.96  # standard errors either side of an estimate, for 95 %


@dataclass(frozen=True, eq=False)
class Estimates:
    """Estimated shares in 0 … 1, and half the width of the 95 % interval of each.

    Attributes:
      oa: overall accuracy over the mapped area.
      users: user's accuracy of each class, nan where the map does not show it.
      producers: producer's accuracy of each class, nan where there is none of it.
      areas: share of the mapped area that each class really covers, whatever the map shows.
    """

    oa: float
    oa_margin: float
    users: Float[np.ndarray, " k"]
    users_margin: Float[np.ndarray, " k"]
    producers: Float[np.ndarray, " k"]
    producers_margin: Float[np.ndarray, " k"]
    areas: Float[np.ndarray, " k"]
    areas_margin: Float[np.ndarray, " k"]


def estimate_areas(confusion: Int[np.ndarray, "k k"], mapped: Int[np.ndarray, " k"]) -> Estimates:
    """Stratified estimates, the map's classes being the strata; for a simple random sample, poststratified ones.

    With W_i the share of the area that is mapped as i, and n_ij sampled pixels that are mapped as i and are j:

        p_ij = W_i n_ij / n_i·,    OA = Σ_i p_ii,    U_i = p_ii / p_i·,    P_j = p_jj / p_·j,    A_j = p_·j.

    Args:
      confusion: n_ji as everywhere here, the reference in rows and the map in columns.
      mapped: pixels of the map by class.

    Raises:
      InputError: a class is mapped where fewer than two pixels were sampled, so that nothing is known of its errors.
    """
    counts = confusion.T.astype(np.float64)
    sampled, shown = counts.sum(axis=1), mapped > 0
    if (sampled[shown] < 2).any():
        poor = [int(k) for k in np.flatnonzero(shown & (sampled < 2))]
        raise InputError(
            f"areas cannot be estimated: of the classes {poor} (counted from 0), which the map shows, fewer than 2 test"
            " pixels were sampled. Sample more of them, or merge them in scene.labels."
        )
    weights = mapped / mapped.sum()
    rows = np.maximum(sampled, 1.0)[:, None]
    shares = counts / rows
    spread = shares * (1.0 - shares) / np.maximum(rows - 1.0, 1.0)  # variance of n_ij / n_i·
    proportions = weights[:, None] * shares
    users, areas = np.diag(shares), proportions.sum(axis=0)
    exists = areas > 0
    producers = np.divide(np.diag(proportions), areas, out=np.full(len(areas), np.nan), where=exists)

    own, weighted = np.diag(spread), weights[:, None] ** 2 * spread
    missed = weighted.sum(axis=0) - np.diag(weighted)
    within = weights**2 * (1.0 - producers) ** 2 * own + producers**2 * missed
    producers_error = np.sqrt(np.divide(within, areas**2, out=np.full(len(areas), np.nan), where=exists))
    return Estimates(
        oa=float(np.trace(proportions)),
        oa_margin=float(NORMAL * np.sqrt((weights**2 * own).sum())),
        users=np.where(shown, users, np.nan),
        users_margin=np.where(shown, NORMAL * np.sqrt(own), np.nan),
        producers=producers,
        producers_margin=NORMAL * producers_error,
        areas=areas,
        areas_margin=NORMAL * np.sqrt(weighted.sum(axis=0)),
    )
