"""The cheap vote: what classical classifiers say of a pixel from its classical context alone [ours].

No part of BDGF: a map may be averaged with it, since the two err at different pixels (`predict.average_with_vote`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from threadpoolctl import threadpool_limits

from bdgf_jax.errors import InputError
from bdgf_jax.run import Run

FILE = "vote.json"  # how network and vote do, each by itself
TREES = 300
VOTERS = ("lda", "rf", "boosting")


def vote(
    run: Run, guidance: tuple[np.ndarray, ...], where: Bool[np.ndarray, "h w"], names: Sequence[str] = VOTERS
) -> Float[np.ndarray, "h w k"]:
    """Class probabilities by the mean over these `voters`; 0 where not wanted.

    They are trained on the spot, on the scene's training pixels, which takes seconds.

    Args:
      run: of the scene.
      guidance: of the scene, by level; the last is the classical context.
      where: pixels that are wanted.
      names: of the voters.

    Raises:
      InputError: the scene has no training pixels, or `features.context` asks for no context.
    """
    train = run.scene.masks["train"]
    if not run.config.features.context.components:
        raise InputError(
            "predict.average_with_vote looks at the context, of which features.context.components = 0 leaves nothing;"
            " expected 1 or more."
        )
    if not train.any():
        raise InputError(
            f"predict.average_with_vote learns from training pixels, and '{run.scene.name}' has none; leave it out."
        )
    context = guidance[-1].astype(np.float32).reshape(*run.scene.shape, -1)
    labels, probabilities = run.scene.labels[train], np.zeros((*run.scene.shape, len(run.classes)), np.float32)
    models = voters(run.config.train.seed)
    for voter in (models[name] for name in names):
        # On so few pixels boosting's threads mostly wait for each other: minutes on a busy machine, seconds with one.
        with threadpool_limits(1, user_api="openmp"):
            voter.fit(context[train], labels)
        found = np.zeros((int(where.sum()), len(run.classes)), np.float32)
        found[:, voter.classes_] = voter.predict_proba(context[where])
        probabilities[where] += found / len(names)
    return probabilities


def voters(seed: int) -> dict[str, Any]:
    """A linear discriminant, whose covariance is shrunk as Ledoit and Wolf do, a random forest and boosting."""
    # Half a second of imports, for those who want a vote.
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

    return {
        "lda": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        "rf": RandomForestClassifier(TREES, random_state=seed, n_jobs=-1),
        "boosting": HistGradientBoostingClassifier(random_state=seed),
    }
