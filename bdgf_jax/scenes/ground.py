"""How large a pixel is on the ground."""

from typing import Protocol, runtime_checkable

import numpy as np
from affine import Affine
from rasterio.crs import CRS

from bdgf_jax.scenes.scene import Georeference

EARTH_RADIUS = 6_371_007.0  # metres, of the sphere with the same surface


@runtime_checkable
class Placed(Protocol):
    """A scene, or its grid."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    @property
    def georeference(self) -> Georeference | None:
        """Where they lie."""
        ...


def metres_per_pixel(scene: Placed) -> float | None:
    """Width of a pixel, in the scene's middle if its grid is one of degrees; None without a place."""
    if scene.georeference is None or scene.georeference.crs is None:
        return None
    system = CRS.from_user_input(scene.georeference.crs)
    transform = Affine(*scene.georeference.transform)
    width = float(np.hypot(transform.a, transform.d))
    if system.is_projected:
        return width * system.linear_units_factor[1]
    if not system.is_geographic:
        return None
    _, latitude = transform @ (scene.shape[1] / 2, scene.shape[0] / 2)
    return float(np.deg2rad(width) * EARTH_RADIUS * np.cos(np.deg2rad(latitude)))


def hectares_per_pixel(scene: Placed) -> float | None:
    """Area of a pixel where all have the same one, on a projected grid; None elsewhere."""
    if scene.georeference is None or scene.georeference.crs is None:
        return None
    system = CRS.from_user_input(scene.georeference.crs)
    if not system.is_projected:
        return None
    return abs(Affine(*scene.georeference.transform).determinant) * system.linear_units_factor[1] ** 2 / 10_000
