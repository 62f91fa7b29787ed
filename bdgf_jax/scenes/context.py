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

Window = tuple[slice, ...]

BLOCK = 256  # side of the blocks of a fixed grid that maps are computed in, so that large scenes need no more memory …
MARGIN = 64  # … with this many pixels round each, since a reconstruction may reach any distance


def context_maps(
    images: Mapping[str, Float[np.ndarray, "h w _"]],
    *,
    components: int,
    radii: Sequence[int],
    windows: Sequence[int],
) -> Float32[np.ndarray, "h w c"]:
    """Profiles and window statistics of each modality's first channels, side by side, for a whole scene.

    Args:
      images: modalities as the models see them; whitened, their first channels are their leading components.
      components: how many channels of each modality.
      radii: of the disks, see `morphological_profile`.
      windows: sides of the windows, see `local_statistics`.
    """
    height, width = next(iter(images.values())).shape[:2]
    rows = []
    for row in range(0, height, BLOCK):
        blocks = []
        for column in range(0, width, BLOCK):
            seen, inside = surroundings((row, column), (height, width))
            part = {name: image[seen] for name, image in images.items()}
            blocks.append(block_maps(part, inside, components=components, radii=radii, windows=windows))
        rows.append(np.concatenate(blocks, axis=1))
    return np.concatenate(rows, axis=0)


def surroundings(corner: tuple[int, int], shape: tuple[int, int]) -> tuple[Window, Window]:
    """What is read to compute a block: the window of the scene, and the block's place in that window.

    Args:
      corner: row and column of the block's upper left pixel, multiples of `BLOCK`.
      shape: rows and columns of the scene.
    """
    first = [max(start - MARGIN, 0) for start in corner]
    seen = tuple(slice(begin, min(at + BLOCK + MARGIN, n)) for begin, at, n in zip(first, corner, shape))
    inside = tuple(slice(at - begin, min(at + BLOCK, n) - begin) for begin, at, n in zip(first, corner, shape))
    return seen, inside


def block_maps(
    images: Mapping[str, Float[np.ndarray, "h w _"]],
    inside: Window,
    *,
    components: int,
    radii: Sequence[int],
    windows: Sequence[int],
) -> Float32[np.ndarray, "H W c"]:
    """The maps of one block, from images of its surroundings; all else as of `context_maps`."""
    channels = [image[..., index] for image in images.values() for index in range(min(components, image.shape[-1]))]

    def maps_of(channel: Float[np.ndarray, "h w"]) -> list[Float32[np.ndarray, "H W"]]:
        image = np.ascontiguousarray(channel, np.float32)
        return [one[inside].astype(np.float32) for one in channel_maps(image, radii=radii, windows=windows)]

    with ThreadPoolExecutor() as pool:
        return np.stack([one for of_channel in pool.map(maps_of, channels) for one in of_channel], axis=-1)


def map_count(channels: Mapping[str, int], *, components: int, radii: Sequence[int], windows: Sequence[int]) -> int:
    """How many maps `context_maps` makes of modalities with these numbers of channels."""
    return 2 * (len(radii) + len(windows)) * sum(min(components, count) for count in channels.values())


def channel_maps(
    image: Float[np.ndarray, "h w"], *, radii: Sequence[int], windows: Sequence[int]
) -> Iterator[Float[np.ndarray, "h w"]]:
    """All maps of one channel: its profile, then its window statistics."""
    yield from morphological_profile(image, radii)
    yield from local_statistics(image, windows)


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
