"""How far an accuracy can be trusted that was measured on pixels which are not independent of their neighbours."""

import numpy as np
from jaxtyping import Bool, Int

FEWEST_BLOCKS = 10
DRAWS = 2000
BLOCKS_AT_ONCE = 2_000_000


def block_bootstrap_interval(
    right: Bool[np.ndarray, " n"], block_of: Int[np.ndarray, " n"], *, seed: int = 0
) -> tuple[float, float] | None:
    """A 95 % interval of the overall accuracy, by drawing whole blocks of pixels with replacement.

    Pixels of a field are right or wrong together; an interval that took them as independent would be far too short. So
    blocks are drawn as they are (the percentile bootstrap of clusters, Davison and Hinkley 1997), `DRAWS` times, and
    the accuracy over each draw is the share of its pixels that are right. It holds for this scene and this map; that
    training again would give another map is not in it.

    Args:
      right: of each test pixel, whether the map is right.
      block_of: number of the block in which it lies.
      seed: of the draws.

    Returns:
      The ends of the interval, None where there are fewer than `FEWEST_BLOCKS` blocks to draw from.
    """
    blocks, index = np.unique(block_of, return_inverse=True)
    if len(blocks) < FEWEST_BLOCKS:
        return None
    hits, sizes = np.bincount(index, right), np.bincount(index).astype(np.float64)
    random = np.random.default_rng(seed)
    at_once = max(1, BLOCKS_AT_ONCE // len(blocks))
    accuracies = []
    for start in range(0, DRAWS, at_once):
        drawn = random.integers(len(blocks), size=(min(at_once, DRAWS - start), len(blocks)))
        accuracies.append(hits[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.percentile(np.concatenate(accuracies), (2.5, 97.5))
    return float(low), float(high)
