"""Morphological profiles and window statistics: what lies round a pixel, by classical means, as one more guide.

Profiles are openings and closings by reconstruction, after Benediktsson, Palmason and Sveinsson, "Classification of
hyperspectral data from urban areas based on extended morphological profiles", IEEE TGRS 43 (2005).
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Float32
from scipy.ndimage import uniform_filter
from skimage.morphology import dilation, disk, erosion, reconstruction

BLOCK = 256  # side of the blocks of a fixed grid that maps are computed in, so that large scenes need no more memory …
MARGIN = 64  # … with this many pixels round each, since a reconstruction may reach any distance


def context_maps(
    images: Mapping[str, Float[np.ndarray, "h w _"]],
    *,
    components: int,
    radii: Sequence[int],
    windows: Sequence[int],
) -> Float32[np.ndarray, "h w c"]:
    """Profiles and window statistics of each modality's first channels, side by side.

    Args:
      images: modalities as the models see them; whitened, their first channels are their leading components.
      components: how many channels of each modality.
      radii: of the disks, see `morphological_profile`.
      windows: sides of the windows, see `local_statistics`.
    """
    channels = [image[..., index] for image in images.values() for index in range(min(components, image.shape[-1]))]
    per_channel = 2 * (len(radii) + len(windows))
    height, width = channels[0].shape
    maps = np.empty((height, width, per_channel * len(channels)), np.float32)

    def fill(place: tuple[int, int, int]) -> None:
        index, row, column = place
        top, left = max(row - MARGIN, 0), max(column - MARGIN, 0)
        image = channels[index][top : row + BLOCK + MARGIN, left : column + BLOCK + MARGIN]
        image = np.ascontiguousarray(image, np.float32)
        target = maps[row : row + BLOCK, column : column + BLOCK, index * per_channel :]
        inside = slice(row - top, row - top + target.shape[0]), slice(column - left, column - left + target.shape[1])
        for number, found in enumerate([*morphological_profile(image, radii), *local_statistics(image, windows)]):
            target[..., number] = found[inside]

    blocks = [(row, column) for row in range(0, height, BLOCK) for column in range(0, width, BLOCK)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, [(index, *block) for index in range(len(channels)) for block in blocks]))
    return maps


def morphological_profile(image: Float[np.ndarray, "h w"], radii: Sequence[int]) -> Iterator[Float[np.ndarray, "h w"]]:
    """Opening and closing by reconstruction for each disk: what is smaller goes, what stays keeps its outline."""
    for radius in radii:
        footprint = disk(radius)
        yield reconstruction(erosion(image, footprint), image, method="dilation")
        yield reconstruction(dilation(image, footprint), image, method="erosion")


def local_statistics(image: Float[np.ndarray, "h w"], windows: Sequence[int]) -> Iterator[Float[np.ndarray, "h w"]]:
    """Mean and standard deviation in each window, reflected at the border."""
    image = image.astype(np.float64)
    for side in windows:
        mean = uniform_filter(image, side, mode="reflect")
        yield mean
        yield np.sqrt(np.maximum(uniform_filter(image**2, side, mode="reflect") - mean**2, 0.0))
