"""Scenes that TensorFlow Datasets prepares once, as rows in array_record files; TensorFlow itself is not needed."""

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Shaped
from ml_collections import ConfigDict

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.contents import FileContents, LabelValues, names_by_value
from bdgf_jax.scenes.grids import Grid
from bdgf_jax.scenes.labels import whole_numbers
from bdgf_jax.scenes.layouts import LAYOUTS
from bdgf_jax.scenes.raster import Raster, raster_of_array
from bdgf_jax.scenes.readers import describe_source, existing_file
from bdgf_jax.scenes.scene import Source

SPLIT = "rows"
MASKS = ("train", "test")
# All else of the `scene` section is applied when a prepared scene is read.
PREPARED = {
    "modalities": ("file", "key"),
    "labels": ("file", "key"),
    "split": ("train_file", "train_key", "test_file", "test_key"),
}


@dataclass(eq=False, kw_only=True)
class SceneFiles(tfds.core.BuilderConfig):
    """A scene to prepare: `fields` are those of a configuration's `scene` section that name its files."""

    fields: Mapping[str, Any] = field(default_factory=dict)


def files_of(scene: Any) -> dict[str, Any]:
    """What of the `scene` section of a configuration decides what is prepared: the names of files and variables."""
    pick = lambda part, options: {key: options.get(key, "") for key in PREPARED[part]}
    modalities = {name: pick("modalities", options) for name, options in scene["modalities"].items()}
    return {"modalities": modalities, **{part: pick(part, scene[part]) for part in ("labels", "split")}}


def scene_files(name: str, scene: Any) -> SceneFiles:
    """The files of a scene, under its own name where they are as published, else under one that tells them apart.

    Args:
      name: of the scene.
      scene: modalities, labels and split, as in the `scene` section of a configuration.
    """
    fields = files_of(scene)
    layout = LAYOUTS.get(name)
    if layout is None or fields != files_of(layout.fields()):
        digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()
        return SceneFiles(name=f"{name}-{digest[:8]}", description=f"{name}, from files of one's own.", fields=fields)
    return SceneFiles(name=name, description=f"{layout.title}. Source: {layout.source}.", fields=fields)


class MultimodalScene(tfds.core.GeneratorBasedBuilder):
    """Co-registered images of one scene, its labels and masks; an example is a row of pixels."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [scene_files(name, layout.fields()) for name, layout in LAYOUTS.items()]  # noqa: RUF012

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        """What to get, and where it goes."""
        files = ", ".join(path.name for path in self.contents("").files())
        return f"{self._config.description} Put {files} into one folder, and set scene.folder (or manual_dir) to it."

    @property
    def _config(self) -> SceneFiles:
        assert isinstance(self.builder_config, SceneFiles)
        return self.builder_config

    def contents(self, folder: str) -> FileContents:
        """The scene's files in a folder."""
        scene: Any = ConfigDict({"folder": str(folder), **self._config.fields}, sort_keys=False)
        scene.labels.names = ConfigDict()
        scene.split.kind = "masks" if scene.split.train_file else "per_class"
        return FileContents(scene)

    def _info(self) -> tfds.core.DatasetInfo:
        fields = self._config.fields
        features = {"row": tfds.features.Scalar(np.int32), "labels": _codes()}
        features |= {name: _codes() for name in MASKS if fields["split"][f"{name}_file"]}
        features |= {f"image/{name}": _pixels() for name in fields["modalities"]}
        return tfds.core.DatasetInfo(
            builder=self,
            description=self._config.description,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        contents = self.contents(str(dl_manager.manual_dir))
        images = {
            name: contents.image(name, options, None) for name, options in self._config.fields["modalities"].items()
        }
        grid = _one_grid(images)
        labels = contents.labels(grid)
        columns: dict[str, np.ndarray] = {
            f"image/{name}": image.values.astype(np.float32) for name, image in images.items()
        }
        columns["labels"] = np.zeros(grid.shape)
        if labels is not None:
            columns["labels"] = np.where(labels.valid, whole_numbers(labels.values, labels.valid, labels.what), 0)
        columns |= {name: mask for name in MASKS if (mask := contents.mask(name, grid)) is not None}
        return {SPLIT: self._generate_examples(columns)}

    def _generate_examples(self, columns: Mapping[str, Shaped[np.ndarray, "h ..."]]):
        for row in range(len(columns["labels"])):
            example = {name: column[row].astype(_stored_type(name)) for name, column in columns.items()}
            yield row, example | {"row": row}


class PreparedContents:
    """What a prepared scene holds, read back whole."""

    def __init__(self, config: Any, builder: MultimodalScene):
        self.config, self.folder = config, Path(builder.data_path)
        source: Any = builder.as_data_source
        rows = source(split=SPLIT)
        self.columns: dict[str, np.ndarray] = {}
        for name, values in rows[0].items():
            self.columns[name] = np.empty((len(rows), *np.shape(values)), _stored_type(name))
        for row in rows:
            for name, column in self.columns.items():
                column[row["row"]] = row[name]

    def image(self, name: str, options: Mapping[str, Any], onto: Grid | None) -> Raster:
        """The image of a modality, whole: all of them lie on one grid."""
        del onto
        values = self.columns[f"image/{name}"]
        return raster_of_array(self.folder / name, values, bands=options.get("bands", ()), nodata=options.get("nodata"))

    def labels(self, grid: Grid) -> LabelValues | None:
        """The labels as they were stored."""
        valid = np.ones(grid.shape, bool)
        return LabelValues(self.columns["labels"], valid, names_by_value(self.config), f"{self.folder} (labels)")

    def mask(self, name: str, grid: Grid) -> Shaped[np.ndarray, "h w"] | None:
        """The mask as it was stored."""
        del grid
        return self.columns.get(name)

    def sources(self) -> tuple[Source, ...]:
        """The array_record files."""
        return record_files(self.folder)


def prepared_contents(config: Any) -> PreparedContents:
    """The prepared scene of the name `config.name`, prepared now where that was never done.

    It lies where TensorFlow Datasets keeps its data: in TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Args:
      config: the `scene` section; its folder is needed the first time only.

    Raises:
      InputError: a file is missing, with what to get, or cannot be used; array_record is not installed.
    """
    check_installed("array_record", "scene.source = 'prepared'")
    files = scene_files(config.name, config)
    builder = MultimodalScene(
        config=files.name if files.name in LAYOUTS else files,
        data_dir=data_folder(),
        file_format="array_record",
    )
    if not builder.is_prepared():
        folder = str(Path(config.folder).expanduser())
        for path in builder.contents(folder).files():
            try:
                existing_file(path)
            except InputError as error:
                raise InputError(f"{error}\n{builder.MANUAL_DOWNLOAD_INSTRUCTIONS}") from error
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))
    return PreparedContents(config, builder)


def record_files(folder: Path) -> tuple[Source, ...]:
    """The array_record files in the folder of a prepared data set."""
    return tuple(describe_source(path) for path in sorted(folder.glob("*.array_record*")))


def data_folder() -> Path:
    """Where TensorFlow Datasets keeps its data."""
    return Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")


def check_installed(package: str, what: str) -> None:
    """Raises an InputError where a package of the extra, which `what` needs, is not installed."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{what} needs {package}: pip install 'bdgf-jax[prepared]'.")


def _codes() -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=(None,), dtype=np.int32)


def _pixels() -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=(None, None), dtype=np.float32, encoding="bytes")


def _stored_type(name: str) -> type:
    return np.float32 if name.startswith("image/") else np.int32


def _one_grid(images: Mapping[str, Raster]) -> Grid:
    if len({image.shape for image in images.values()}) > 1:
        listed = ", ".join(f"'{name}' {image.shape[0]} × {image.shape[1]}" for name, image in images.items())
        raise InputError(f"the images differ in size: {listed}; all of a prepared scene must lie on one grid.")
    return Grid(next(iter(images.values())).shape, None)
