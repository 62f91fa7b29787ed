"""Bringing images from different grids onto one."""

from dataclasses import dataclass

import numpy as np
from affine import Affine
from jaxtyping import Float, Shaped
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.scene import Georeference

# Two files of one product often differ in the ninth digit of their origin.
SAME_PLACE_PIXELS = 0.01
# The warper holds its bands in float32 twice; a few at once keep hundreds of bands within the scene's own memory.
BANDS_AT_ONCE = 16
EDGE_POINTS = 21  # on each side of a grid: a straight edge bends when it is projected


@dataclass(frozen=True)
class Grid:
    """Rows and columns, and where they lie."""

    shape: tuple[int, int]
    georeference: Georeference | None

    def holds(self, other: "Grid") -> bool:
        """Whether the other's pixels are this grid's pixels. Without two geo-references equal shapes must do."""
        if self.shape != other.shape:
            return False
        if self.georeference is None or other.georeference is None:
            return True
        if not _same_crs(self.georeference.crs, other.georeference.crs):
            return False
        height, width = self.shape
        corners = np.array([(0, 0, 1), (width, 0, 1), (0, height, 1), (width, height, 1)], np.float64).T
        here = np.linalg.solve(_matrix(self.georeference), _matrix(other.georeference) @ corners)
        return bool(np.abs(here - corners).max() < SAME_PLACE_PIXELS)

    def part(self, rows: slice, columns: slice) -> "Grid":
        """The grid of some of the rows and columns, both ends given."""
        shape = rows.stop - rows.start, columns.stop - columns.start
        if self.georeference is None:
            return Grid(shape, None)
        a, b, c, d, e, f = self.georeference.transform
        corner = a * columns.start + b * rows.start + c, d * columns.start + e * rows.start + f
        return Grid(shape, Georeference(self.georeference.crs, (a, b, corner[0], d, e, corner[1])))

    def overlaps(self, other: "Grid") -> bool:
        """Whether a geo-referenced grid may share some place with this one; surely not where it says no."""
        outline = self.outline_on(other)
        if not np.isfinite(outline).all():
            return True
        low, high = outline.min(axis=1), outline.max(axis=1)
        return bool((high > 0).all() and (low < other.shape).all())

    def outline_on(self, other: "Grid") -> Float[np.ndarray, "2 n"]:
        """Rows and columns on another geo-referenced grid of points on this one's edges; may be infinite.

        A quarter of them lies on each edge: the upper, the lower, the left and the right one.
        """
        if self.georeference is None or other.georeference is None:
            raise ValueError("both grids must be geo-referenced")
        height, width = self.shape
        along = np.linspace(0, 1, EDGE_POINTS)
        still = np.ones_like(along)
        columns = width * np.concatenate([along, along, 0 * still, still])
        rows = height * np.concatenate([0 * still, still, along, along])
        x, y, _ = _matrix(self.georeference) @ np.stack([columns, rows, np.ones_like(rows)])
        systems = _reference_systems(self.georeference.crs, other.georeference.crs)
        if systems["src_crs"] != systems["dst_crs"]:
            x, y = map(np.asarray, transform(systems["src_crs"], systems["dst_crs"], x, y)[:2])
        there = np.linalg.solve(_matrix(other.georeference), np.stack([x, y, np.ones_like(rows)]))
        return there[[1, 0]]

    def describe(self) -> str:
        """Size, pixel size and reference system, in words."""
        text = f"{self.shape[0]} × {self.shape[1]}"
        if self.georeference is None:
            return f"{text} without geo-reference"
        a, b, _, d, e, _ = self.georeference.transform
        step = round(float(np.hypot(a, d)), 6), round(float(np.hypot(b, e)), 6)
        spacing = f"{step[0]:g}" if step[0] == step[1] else f"{step[0]:g} × {step[1]:g}"
        return f"{text} at {spacing} ({short_crs(self.georeference.crs)})"


def resample(
    values: Shaped[np.ndarray, "h w c"],
    valid: Shaped[np.ndarray, "h w"],
    source: Grid,
    target: Grid,
    method: str,
    *,
    what: str,
) -> tuple[Shaped[np.ndarray, "H W c"], Shaped[np.ndarray, "H W"]]:
    """Samples an image at the pixels of another grid, as `warp` does, which must lie in one place.

    Args:
      values: the image; float for every method but "nearest".
      valid: pixels that hold a measurement.
      source: the image's grid.
      target: the grid that is wanted.
      method: a name of `rasterio.enums.Resampling`: "nearest", "bilinear", "cubic", "average" …
      what: what the image is called in messages.

    Raises:
      InputError: for an unknown method, for grids of different size where one has no geo-reference, and where they do
        not overlap.
    """
    check_resampling(source, target, method, what=what)
    sampled, covered = warp(values, valid, source, target, method)
    if not covered.any():
        raise InputError(
            f"{what} ({source.describe()}) does not overlap the reference grid ({target.describe()}); check that the"
            " files show one place, and their reference systems."
        )
    return sampled, covered


def check_resampling(source: Grid, target: Grid, method: str, *, what: str) -> None:
    """Raises an InputError where one of the grids has no geo-reference, or there is no such method."""
    if source.georeference is None or target.georeference is None:
        raise InputError(
            f"{what} is {source.describe()} pixels, the reference grid {target.describe()}: grids of different size can"
            " only be joined where both are geo-referenced. Resample one of the files, or check that it is the right"
            " one."
        )
    names = [entry.name for entry in Resampling if entry.name != "gauss"]
    if method not in names:
        raise InputError(f"scene.resampling is '{method}', expected one of {', '.join(names)}.")


def warp(
    values: Shaped[np.ndarray, "h w c"], valid: Shaped[np.ndarray, "h w"], source: Grid, target: Grid, method: str
) -> tuple[Shaped[np.ndarray, "H W c"], Shaped[np.ndarray, "H W"]]:
    """The image at the pixels of another grid, 0 where it is not valid, and where it is.

    Invalid pixels take no part in any weighted mean. A target pixel is valid where its centre falls on a valid source
    pixel. Both grids are geo-referenced; that of the target may lie elsewhere.
    """
    assert source.georeference is not None
    assert target.georeference is not None
    place = {
        "src_transform": Affine(*source.georeference.transform),
        "dst_transform": Affine(*target.georeference.transform),
        **_reference_systems(source.georeference.crs, target.georeference.crs),
        **_scales(source, target),
    }
    on_target = np.zeros(target.shape, np.uint8)
    reproject(valid.astype(np.uint8), on_target, resampling=Resampling.nearest, **place)
    covered = on_target > 0
    bands = values.shape[2]
    sampled = np.zeros((*target.shape, bands), values.dtype)
    for start in range(0, bands, BANDS_AT_ONCE):
        chunk = np.moveaxis(values[..., start : start + BANDS_AT_ONCE], -1, 0).astype(np.float32)
        chunk[:, ~valid] = np.nan
        warped = np.full((len(chunk), *target.shape), np.nan, np.float32)
        reproject(
            chunk, warped, src_nodata=np.nan, dst_nodata=np.nan, resampling=Resampling[method], num_threads=2, **place
        )
        covered &= np.isfinite(warped).all(axis=0)
        sampled[..., start : start + BANDS_AT_ONCE] = np.moveaxis(np.nan_to_num(warped, nan=0.0), 0, -1)
    sampled[~covered] = 0
    return sampled, covered


def short_crs(crs: str | None) -> str:
    """The EPSG code where there is one, else the system's name."""
    if crs is None:
        return "no reference system"
    system = CRS.from_user_input(crs)
    code = system.to_epsg()
    return f"EPSG:{code}" if code else system.to_wkt().split('"')[1]


def _matrix(georeference: Georeference) -> Float[np.ndarray, "3 3"]:
    """From column, row, 1 to x, y, 1."""
    return np.array([*georeference.transform, 0, 0, 1], np.float64).reshape(3, 3)


def _scales(source: Grid, target: Grid) -> dict[str, str]:
    """Target pixels a source pixel, for GDAL, which would guess them from how much of each it is given."""
    upper, _, left, _ = np.split(target.outline_on(source), 4, axis=1)
    length = lambda edge: float(np.hypot(*(edge[:, -1] - edge[:, 0])))
    scales = target.shape[1] / length(upper), target.shape[0] / length(left)
    # Rounded, so that every part of a scene is sampled alike.
    return {name: f"{scale:.6g}" for name, scale in zip(("XSCALE", "YSCALE"), scales) if np.isfinite(scale)}


def _same_crs(first: str | None, second: str | None) -> bool:
    # A file that gives a transform and no system is taken to be in the other's.
    return first is None or second is None or CRS.from_user_input(first) == CRS.from_user_input(second)


def _reference_systems(source: str | None, target: str | None) -> dict[str, str]:
    known = source or target or "EPSG:3857"
    return {"src_crs": source or known, "dst_crs": target or known}
