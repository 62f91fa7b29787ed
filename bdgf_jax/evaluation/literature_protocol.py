"""The figures that much of the published code reports: those of the step that scores best on the test pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.metrics import FIGURES


def selected_on_test(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The logged step with the highest overall accuracy on the test pixels: "step", "oa", "aa", "kappa".

    Such a choice has seen the test labels, so the figures are too good. They stand for comparison beside published ones
    that were made so, in a column of their own, and nothing is ever chosen by them.

    Args:
      log: lines of the classifier's log; those with "test/oa" count.

    Raises:
      InputError: no line has it.
    """
    tested = [line for line in log if line.get("test/oa") is not None]
    if not tested:
        raise InputError(
            "evaluate.literature_protocol needs a training that watched the test pixels, and this one did not: set"
            " train.evaluate_every above 0 and train again in another --workdir, or leave evaluate.literature_protocol"
            " off."
        )
    best = max(tested, key=lambda line: line["test/oa"])
    return {"step": best["step"], **{name: best[f"test/{name}"] for name in FIGURES}}
