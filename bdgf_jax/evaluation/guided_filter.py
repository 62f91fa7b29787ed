"""A filter that smoothes within what looks alike, and not across its edges."""

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.ndimage import uniform_filter


def guided_filter(
    values: Float[ndarray, "h w k"],
    guide: Float[ndarray, "h w c"],
    valid: Bool[ndarray, "h w"],
    *,
    radius: int,
    edge: float,
) -> Float[ndarray, "h w k"]:
    """In every window the ridge regression of the values on the guide; at each pixel the mean over its windows.

        q_i = Ā_i g_i + b̄_i,  A_w = (Σ_w + ε I)⁻¹ cov_w(g, v),  b_w = v̄_w - A_w ḡ_w

    He, Sun, Tang, *Guided image filtering*, IEEE TPAMI 35(6), 2013. Where the guide varies by much less than ε the
    result is a plain mean, where by much more it follows the guide. Beyond the border lies nothing, and pixels that are
    not valid count for nothing.

    Args:
      values: filtered channel by channel.
      guide: what they follow.
      valid: pixels that hold values.
      radius: of the windows, of 2 radius + 1 pixels.
      edge: ε > 0, a variance of the guide.
    """
    weights = valid.astype(np.float64)
    share = lambda array: uniform_filter(array, 2 * radius + 1, mode="constant", axes=(0, 1))
    inside = np.maximum(share(weights), 0.5 / (2 * radius + 1) ** 2)

    def mean(array: Float[ndarray, "h w ..."]) -> Float[ndarray, "h w ..."]:
        trailing = (...,) + (None,) * (array.ndim - 2)
        return share(np.where(valid[trailing], array, 0.0)) / inside[trailing]

    guide, values = guide.astype(np.float64), values.astype(np.float64)
    of_guide, of_values = mean(guide), mean(values)
    variance = mean(guide[..., :, None] * guide[..., None, :]) - of_guide[..., :, None] * of_guide[..., None, :]
    covariance = mean(guide[..., :, None] * values[..., None, :]) - of_guide[..., :, None] * of_values[..., None, :]
    slopes = np.linalg.solve(variance + edge * np.eye(guide.shape[-1]), covariance)
    offsets = of_values - np.einsum("hwc,hwck->hwk", of_guide, slopes)
    return np.einsum("hwc,hwck->hwk", guide, mean(slopes)) + mean(offsets)
