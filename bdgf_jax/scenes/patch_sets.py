"""Sets of labelled patches, such as So2Sat, prepared by TensorFlow Datasets, side by side as one scene."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Shaped
from tensorflow_datasets.core import registered

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.contents import LabelValues, names_by_value
from bdgf_jax.scenes.grids import Grid
from bdgf_jax.scenes.prepared import check_installed, data_folder, record_files
from bdgf_jax.scenes.raster import Raster, raster_of_array
from bdgf_jax.scenes.readers import existing_file
from bdgf_jax.scenes.scene import Source


class LocalFiles:
    """Takes the place of a download manager where the files of a data set lie in a folder already.

    Args:
      folder: that holds them under the names of their addresses.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def download(self, addresses: Mapping[str, str]) -> dict[str, str]:
        """The file of each address.

        Raises:
          InputError: it is not there.
        """
        return {name: str(existing_file(self.folder / Path(address).name)) for name, address in addresses.items()}


class PatchMosaic:
    """Patches of a data set, drawn class by class, as the cells of one large image.

    The class of a patch is that of the pixel in its middle; all other pixels are unlabelled.

    Args:
      config: the `scene` section. `file` of a modality and of the labels name features of the data set.
      builder: of TensorFlow Datasets, prepared.
    """

    def __init__(self, config: Any, builder: tfds.core.DatasetBuilder):
        self.config, self.folder = config, Path(builder.data_path)
        self.features = {name: options.file for name, options in config.modalities.items()}
        known: Any = builder.info.features
        for key in (*self.features.values(), config.labels.file):
            if key not in known:
                raise InputError(f"{self.folder} holds no feature '{key}'; it holds {', '.join(known)}.")
        for split in (config.patches.train, config.patches.test):
            if split not in builder.info.splits:
                raise InputError(f"{self.folder} holds no split '{split}'; it holds {', '.join(builder.info.splits)}.")
        classes = known[config.labels.file].num_classes
        source: Any = builder.as_data_source
        drawn = partial(draw, key=config.labels.file, classes=classes, seed=config.split.seed)
        train = drawn(source(split=config.patches.train), per_class=config.split.per_class)
        test = drawn(source(split=config.patches.test), per_class=config.patches.test_per_class)
        self.examples = [*train, *test]
        self.training = np.arange(len(self.examples)) < len(train)
        self.side = self.examples[0][next(iter(self.features.values()))].shape[0]

    def image(self, name: str, options: Mapping[str, Any], onto: Grid | None) -> Raster:
        """The image of a modality, whole; cells that no patch fills hold no data."""
        del onto
        cells = [example[self.features[name]] for example in self.examples]
        image = mosaic(np.stack(cells).astype(np.float32), np.nan)
        where = self.folder / self.features[name]
        return raster_of_array(where, image, bands=options.get("bands", ()), nodata=options.get("nodata"))

    def labels(self, grid: Grid) -> LabelValues:
        """The class of every patch in its middle, counted from 1."""
        values = self._in_the_middle([example[self.config.labels.file] + 1 for example in self.examples])
        return LabelValues(values, np.ones(grid.shape, bool), names_by_value(self.config), f"{self.folder} (labels)")

    def mask(self, name: str, grid: Grid) -> Shaped[np.ndarray, "h w"]:
        """The middles of the patches that were drawn for training, or for testing."""
        del grid
        return self._in_the_middle(self.training if name == "train" else ~self.training)

    def sources(self) -> tuple[Source, ...]:
        """The array_record files."""
        return record_files(self.folder)

    def _in_the_middle(self, values: Any) -> Shaped[np.ndarray, "h w"]:
        cells = np.zeros((len(self.examples), self.side, self.side), np.int32)
        cells[:, self.side // 2, self.side // 2] = values
        return mosaic(cells, 0)


def patch_mosaic(config: Any) -> PatchMosaic:
    """The patches of the data set `config.patches.dataset`, prepared now where that was never done.

    It lies where TensorFlow Datasets keeps its data: in TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Args:
      config: the `scene` section. Its folder, where one is given, holds the files that would be downloaded otherwise.

    Raises:
      InputError: there is no such data set, feature, split or file; array_record is not installed.
    """
    check_installed("array_record", "scene.source = 'patches'")
    name, _, variant = config.patches.dataset.partition("/")
    try:
        own = tfds.builder_cls(name)
        builder: Any = local(own, Path(config.folder).expanduser()) if config.folder else own
        builder = builder(config=variant or None, data_dir=data_folder(), file_format="array_record")
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise InputError(
            f"scene.patches.dataset is '{config.patches.dataset}', which TensorFlow Datasets does not know; so2sat/all"
            " is one that it does."
        ) from error
    if not builder.is_prepared():
        builder.download_and_prepare()
    return PatchMosaic(config, builder)


def local(own: Any, folder: Path) -> Any:
    """A builder of the same data set, prepared from files in a folder."""
    with registered.skip_registration():

        class Local(own):
            name = own.name

            def _split_generators(self, dl_manager):
                del dl_manager
                return super()._split_generators(LocalFiles(folder))

    return Local


def draw(
    patches: Sequence[Mapping[str, Any]], *, key: str, classes: int, per_class: int, seed: int
) -> list[Mapping[str, Any]]:
    """Examples in random order, until there are enough of every class; a class that holds fewer gives all.

    Args:
      key: of an example's class.
      classes: number of classes.
      per_class: how many of each.
      seed: of the order.
    """
    drawn, counts = [], np.zeros(classes, int)
    for index in np.random.default_rng(seed).permutation(len(patches)):
        example = patches[int(index)]
        if counts[example[key]] < per_class:
            counts[example[key]] += 1
            drawn.append(example)
        if (counts == per_class).all():
            break
    return drawn


def mosaic(cells: Shaped[np.ndarray, "n p p *c"], empty: float | int) -> Shaped[np.ndarray, "h w *c"]:
    """Cells row by row in a grid as square as can be, filled up with cells of the value `empty`."""
    columns = int(np.ceil(np.sqrt(len(cells))))
    rows = -(-len(cells) // columns)
    side = cells.shape[1]
    grid = np.full((rows * columns, *cells.shape[1:]), empty, cells.dtype)
    grid[: len(cells)] = cells
    grid = grid.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    return grid.reshape(rows * side, columns * side, *cells.shape[3:])
