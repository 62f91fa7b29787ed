"""Class probabilities of a whole scene from a function that predicts windows."""

from collections import deque
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bdgf_jax.errors import InputError

PredictFn = Callable[[Int[Array, "b 2"]], Mapping[str, Float[Array, "b s s k"]]]

# Batches that are dispatched before the oldest is waited for: the device computes while the host adds up.
IN_FLIGHT = 3


def window_centres(
    shape: tuple[int, int], *, stride: int, side: int, where: Bool[np.ndarray, "h w"] | None = None
) -> Int[np.ndarray, "n 2"]:
    """Rows and columns of the windows' centres, `stride` apart, so that the windows together cover the scene.

    Args:
      side: side s of a window, odd, at least `stride`; windows may reach over the scene's border.
      where: keeps only the windows that hold one of these pixels.

    Raises:
      InputError: `stride` is below 1 or above `side`, so that pixels would be left out.
    """
    if not 1 <= stride <= side or side % 2 == 0:
        raise InputError(
            f"The prediction stride must lie between 1 and the odd side of the predicted centre (classifier.centre),"
            f" got stride {stride} and centre {side}; a stride of {side} covers every pixel once."
        )
    rows, columns = (np.minimum(np.arange(stride // 2, size + stride // 2, stride), size - 1) for size in shape)
    centres = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int32)
    return centres if where is None else centres[_holds_any(where, centres, side)]


def predict_scene(
    predict_fn: PredictFn,
    shape: tuple[int, int],
    *,
    stride: int,
    batch_size: int,
    where: Bool[np.ndarray, "h w"] | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> dict[str, Float[np.ndarray, "h w k"]]:
    """Probabilities of every pixel, each the mean over the windows that show it.

    Args:
      predict_fn: from centres (row, column) to class probabilities of the s×s pixels round each, s odd, by name of
        the branch. JAX must be able to trace it. It is always called with `batch_size` centres, so that one program
        is compiled.
      stride: distance of neighbouring windows in pixels, at most s; s is fastest, smaller strides average.
      where: pixels that are wanted. The others are 0 in the answer, and windows that hold no wanted pixel are not
        computed; the wanted ones come out as they would without `where`.
      on_progress: called with the number of windows that a batch has added; `window_centres` says how many there are.

    Raises:
      InputError: `stride` is larger than the window.
      FloatingPointError: a branch predicts values that are not finite.
    """
    outputs = jax.eval_shape(predict_fn, jax.ShapeDtypeStruct((batch_size, 2), np.int32))
    side = next(iter(outputs.values())).shape[1]
    centres = window_centres(shape, stride=stride, side=side, where=where)
    # A margin takes what windows predict beyond the border, and is cut off in the end.
    margin = side // 2
    padded = (shape[0] + 2 * margin, shape[1] + 2 * margin)
    sums = {name: np.zeros((*padded, output.shape[-1]), np.float32) for name, output in outputs.items()}
    counts = np.zeros((*padded, 1), np.float32)

    def collect(chunk: Int[np.ndarray, "b 2"], predictions: Mapping[str, Float[Array, "_ s s k"]]) -> None:
        windows = {name: np.asarray(prediction, np.float32)[: len(chunk)] for name, prediction in predictions.items()}
        for offset in np.ndindex(side, side):
            at = tuple((chunk + np.array(offset)).T)  # no pixel twice, since the centres differ
            counts[at] += 1.0
            for name, window in windows.items():
                sums[name][at] += window[:, *offset]
        if on_progress is not None:
            on_progress(len(chunk))

    in_flight = deque()
    for start in range(0, len(centres), batch_size):
        chunk = centres[start : start + batch_size]
        batch = np.pad(chunk, ((0, batch_size - len(chunk)), (0, 0)), mode="edge")
        in_flight.append((chunk, predict_fn(jax.device_put(batch))))
        if len(in_flight) > IN_FLIGHT:
            collect(*in_flight.popleft())
    while in_flight:
        collect(*in_flight.popleft())

    inside = (slice(margin, margin + shape[0]), slice(margin, margin + shape[1]))
    counts = np.maximum(counts[inside], 1.0)
    return {name: _finite(name, total[inside] / counts, where) for name, total in sums.items()}


def _finite(
    name: str, probabilities: Float[np.ndarray, "h w k"], where: Bool[np.ndarray, "h w"] | None
) -> Float[np.ndarray, "h w k"]:
    if where is not None:
        probabilities = np.where(where[..., None], probabilities, np.float32(0.0))
    broken = ~np.isfinite(probabilities).all(axis=-1)
    if broken.any():
        row, column = np.argwhere(broken)[0]
        raise FloatingPointError(
            f"Branch {name!r} predicts values that are not finite at {broken.sum()} pixels, the first at row {row},"
            f" column {column}: its parameters are damaged or diverged in training."
        )
    return probabilities


def _holds_any(wanted: Bool[np.ndarray, "h w"], centres: Int[np.ndarray, "n 2"], side: int) -> Bool[np.ndarray, " n"]:
    """Whether each window holds a wanted pixel, by a summed-area table."""
    margin = side // 2
    table = np.pad(np.pad(wanted, margin).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    top, left = centres.T
    bottom, right = top + side, left + side
    return table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left] > 0
