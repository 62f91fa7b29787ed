"""Second moments of pixels, put together piece by piece: what statistics of a scene, or of a corpus, are made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and scatter of pixels that need not be held together, in float64.

    Args:
      count: pixels.
      mean: of each band.
      scatter: sum over the pixels of (x - mean)(x - mean)^T.
      limits: lowest and highest value of each band.
    """

    count: int
    mean: Float[np.ndarray, " c"]
    scatter: Float[np.ndarray, "c c"]
    limits: Float[np.ndarray, "2 c"]

    @classmethod
    def of(cls, pixels: Float[np.ndarray, "n c"]) -> "Moments":
        """Of one piece, of one pixel or more.

        In two passes by chunks: hundreds of bands in float64 would triple a scene's memory.
        """
        count, bands = pixels.shape
        chunks = [pixels[start : start + ROWS_AT_ONCE] for start in range(0, count, ROWS_AT_ONCE)]
        mean = np.sum([chunk.sum(axis=0, dtype=np.float64) for chunk in chunks], axis=0) / count
        scatter = np.zeros((bands, bands))
        for chunk in chunks:
            centred = chunk.astype(np.float64) - mean
            scatter += centred.T @ centred
        limits = np.stack([pixels.min(axis=0), pixels.max(axis=0)]).astype(np.float64)
        return cls(count, mean, scatter, limits)

    def __add__(self, other: "Moments") -> "Moments":
        """Of both pieces together [Chan, Golub and LeVeque 1983], which loses no digits to a large mean."""
        count = self.count + other.count
        apart = other.mean - self.mean
        between = np.outer(apart, apart) * (self.count * other.count / count)
        limits = np.stack([np.minimum(self.limits[0], other.limits[0]), np.maximum(self.limits[1], other.limits[1])])
        mean = self.mean + apart * (other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between, limits)

    @property
    def covariance(self) -> Float[np.ndarray, "c c"]:
        """Scatter by pixel; exactly 0 for a constant band, whose mean is off by rounding, which is no variance."""
        constant = self.limits[0] == self.limits[1]
        return np.where(constant[:, None] | constant[None, :], 0.0, self.scatter) / self.count

    def to_dict(self) -> dict[str, Any]:
        """Numbers and lists for JSON, exact to the last bit."""
        lists = {name: getattr(self, name).tolist() for name in ("mean", "scatter", "limits")}
        return {"count": self.count, **lists}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Moments":
        """The moments that `to_dict` described."""
        arrays = {name: np.asarray(fields[name], np.float64) for name in ("mean", "scatter", "limits")}
        return cls(int(fields["count"]), **arrays)
