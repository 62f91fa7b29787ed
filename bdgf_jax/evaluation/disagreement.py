"""How far the branches disagree about a pixel, which is a measure of uncertainty that no single one of them has."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import entr


def jensen_shannon_divergence(probabilities: Sequence[Float[np.ndarray, "*n k"]]) -> Float[np.ndarray, "*n"]:
    """Jensen-Shannon divergence of two or more predictions, as a share of its upper bound.

        D = [ H(mean_b p_b) − mean_b H(p_b) ] / log min(B, K),    H(p) = −Σ p log p

    for B predictions of K classes: 0 where all say the same, however unsure they are, 1 where each is sure of a class
    of its own. J. Lin, IEEE Transactions on Information Theory 37 (1991), with equal weights. As the mutual information
    between a prediction and which model made it, it is what BALD (Houlsby et al. 2011, arXiv 1112.5745) asks for.
    """
    members, classes = len(probabilities), probabilities[0].shape[-1]
    entropy = lambda p: entr(p).sum(axis=-1)
    mean, mean_entropy = np.zeros(probabilities[0].shape), np.zeros(probabilities[0].shape[:-1])
    for member in probabilities:
        mean += member / members
        mean_entropy += entropy(member.astype(np.float64)) / members
    return np.clip((entropy(mean) - mean_entropy) / np.log(min(members, classes)), 0.0, 1.0).astype(np.float32)
