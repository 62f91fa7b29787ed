"""Many unlabelled scenes as one corpus: a folder of groups of images, cut into tiles that training draws from.

TensorFlow Datasets prepares a corpus once, as it does the benchmark scenes, in array_record files that any tile is read
from at once. The second moments of all pixels are gathered in the same pass and lie beside the tiles.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.loading import load_scene
from bdgf_jax.scenes.modalities import check_options
from bdgf_jax.scenes.moments import Moments
from bdgf_jax.scenes.prepared import check_installed, data_folder
from bdgf_jax.scenes.scene import Modality, Scene
from bdgf_jax.scenes.statistics import BandTransform, transform_of_moments

SPLIT = "tiles"


@dataclass(eq=False, kw_only=True)
class CorpusFiles(tfds.core.BuilderConfig):
    """A folder of groups to prepare.

    Args:
      scene: the `scene` section that reads a group, once `folder` is set to it.
      groups: the folders, one a group of co-registered images.
      tile: side of the tiles, pixels.
    """

    scene: Any = field(default=None, repr=False)
    groups: Sequence[Path] = field(default=(), repr=False)
    tile: int = 64


class CorpusTiles(tfds.core.GeneratorBasedBuilder):
    """Tiles of co-registered images; an example is a tile with its validity, and where it was cut."""

    VERSION = tfds.core.Version("1.0.0")

    @property
    def _config(self) -> CorpusFiles:
        assert isinstance(self.builder_config, CorpusFiles)
        return self.builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        files = self._config
        self.bands = {name: modality.bands for name, modality in _read(files.scene, files.groups[0]).modalities.items()}
        square = (files.tile, files.tile)
        tensor = lambda shape, dtype: tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")
        features = {"group": tfds.features.Text(), "corner": tfds.features.Tensor(shape=(2,), dtype=np.int32)}
        features |= {f"image/{name}": tensor((*square, len(bands)), np.float32) for name, bands in self.bands.items()}
        features |= {f"valid/{name}": tensor(square, np.bool_) for name in self.bands}
        return tfds.core.DatasetInfo(
            builder=self,
            description=files.description,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(),  # the moments, once every pixel was read
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self):
        moments: dict[str, Moments] = {}
        for group in self._config.groups:
            scene = _read(self._config.scene, group)
            self._check_bands(group, scene.modalities)
            for name, modality in scene.modalities.items():
                piece = Moments.of(modality.image[modality.valid])
                moments[name] = moments[name] + piece if name in moments else piece
            for corner, tile in cut_tiles(scene, self._config.tile):
                key = f"{group.name}/{corner[0]}_{corner[1]}"
                yield key, {"group": group.name, "corner": np.asarray(corner, np.int32), **tile}
        metadata: Any = self.info.metadata
        metadata["modalities"] = {
            name: {"bands": list(self.bands[name]), "moments": piece.to_dict()} for name, piece in moments.items()
        }
        metadata["groups"] = len(self._config.groups)

    def _check_bands(self, group: Path, modalities: Mapping[str, Modality]) -> None:
        for name, expected in self.bands.items():
            if modalities[name].bands != expected:
                given = modalities[name].bands
                raise InputError(
                    f"{group}: modality '{name}' has {len(given)} bands ({', '.join(given[:8])}), in"
                    f" {self._config.groups[0].name} it has {len(expected)} ({', '.join(expected[:8])}); all groups of"
                    " a corpus must hold the same bands. Select them with `bands`, or take the group away."
                )


class Corpus:
    """Tiles of a prepared corpus, read by number.

    Args:
      folder: that TensorFlow Datasets has prepared it in.
    """

    def __init__(self, folder: Path):
        builder: Any = tfds.builder_from_directory(folder)
        self.name, self._folder = folder.parent.name, folder
        self.groups: int = builder.info.metadata["groups"]
        self._described = builder.info.metadata["modalities"]
        self._tiles = builder.as_data_source(split=SPLIT)
        self.tile: int = builder.info.features[f"valid/{next(iter(self._described))}"].shape[0]

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, numbers: Int[np.ndarray, " b"]) -> dict[str, dict[str, np.ndarray]]:
        """The tiles of these numbers: images "b p p c" in the sensors' units and valid "b p p", by modality.

        Raises:
          InputError: a file of the corpus is damaged, which array_record notices, or gone.
        """
        try:
            tiles = self._tiles.__getitems__([int(number) for number in numbers])
        except RuntimeError as error:
            raise InputError(
                f"the corpus '{self.name}' cannot be read ({error}). Delete {self._folder}; it is prepared again from"
                " the folder that it was made of."
            ) from error
        stacked = lambda part: {name: np.stack([tile[f"{part}/{name}"] for tile in tiles]) for name in self._described}
        return {"images": stacked("image"), "valid": stacked("valid")}

    @property
    def bands(self) -> dict[str, tuple[str, ...]]:
        """Names of each modality's bands."""
        return {name: tuple(described["bands"]) for name, described in self._described.items()}

    def transforms(self, *, mode: str, components: int, percentiles: Sequence[float | int]) -> dict[str, BandTransform]:
        """The statistics of each modality over all pixels of the corpus, as `fit_band_transform` makes them of a scene.

        Args:
          mode: as there.
          components: as there.
          percentiles: (0, 100): others are not known of pixels that are seen once.

        Raises:
          InputError: for other percentiles, or a modality that does not vary.
        """
        if tuple(percentiles) != (0, 100):
            raise InputError(
                f"scene.statistics.percentiles is {tuple(percentiles)}, which cannot be taken of a corpus, whose pixels"
                " are read once: set it to (0, 100), or clip the files."
            )
        return {
            name: transform_of_moments(
                Moments.from_dict(described["moments"]), tuple(described["bands"]), mode=mode, components=components
            )
            for name, described in self._described.items()
        }


def open_corpus(name_or_folder: str, scene: Any, *, tile: int) -> Corpus:
    """A corpus by the name that it was prepared under, or by its folder, prepared now where that was never done.

    A folder whose files, or whose way of being read, have changed is prepared anew, under another name.

    Args:
      name_or_folder: such as "tiles-1a2b3c4d", or a folder of folders, each with the files of `scene.modalities`.
      scene: the `scene` section of a configuration, whose modalities, reference and resampling read each group.
      tile: side of the tiles, pixels.

    Raises:
      InputError: there is no such corpus; a group lacks a modality, cannot be read, or holds other bands; array_record
        or grain is not installed.
    """
    for package in ("array_record", "grain"):
        check_installed(package, "pretrain.corpus")
    folder, prepared = Path(name_or_folder).expanduser(), data_folder() / CorpusTiles.name
    if not folder.is_dir():
        if (prepared / name_or_folder).is_dir():
            return Corpus(prepared / name_or_folder / str(CorpusTiles.VERSION))
        known = ", ".join(sorted(path.name for path in prepared.glob("*") if path.is_dir())) or "none"
        raise InputError(
            f"pretrain.corpus is '{name_or_folder}', which is no folder, and no prepared corpus in {prepared}"
            f" (there: {known})."
        )
    fields = scene.modalities.to_dict()
    for modality, options in fields.items():
        check_options(modality, options)
    files = {modality: options["file"] for modality, options in fields.items()}
    groups = _groups(folder, files)
    stamps = [_stamp(group / file) for group in groups for file in files.values()]
    name = _name(folder, [fields, scene.reference, scene.resampling, tile, stamps])
    builder = CorpusTiles(
        config=CorpusFiles(
            name=name,
            description=f"{len(groups)} groups of {', '.join(scene.modalities)}, cut into tiles of {tile} pixels.",
            scene=_unlabelled(scene),
            groups=groups,
            tile=tile,
        ),
        data_dir=data_folder(),
        file_format="array_record",
    )
    if not builder.is_prepared():
        builder.download_and_prepare()
    return Corpus(Path(builder.data_path))


def cut_tiles(scene: Scene, side: int) -> Iterator[tuple[tuple[int, int], dict[str, np.ndarray]]]:
    """Upper left corners of the tiles that cover a scene, and the tiles; those without any data are left out.

    Where the side does not divide the scene, the last tiles end at its border and overlap those before them; a smaller
    scene is filled up with pixels that are not valid.
    """
    height, width = scene.shape
    for row in _starts(height, side):
        for column in _starts(width, side):
            window = (slice(row, row + side), slice(column, column + side))
            if not any(modality.valid[window].any() for modality in scene.modalities.values()):
                continue
            tile: dict[str, np.ndarray] = {}
            for name, modality in scene.modalities.items():
                tile[f"image/{name}"] = _filled(modality.image[window], side)
                tile[f"valid/{name}"] = _filled(modality.valid[window], side)
            yield (row, column), tile


def _starts(length: int, side: int) -> list[int]:
    return [*range(0, length - side, side), max(length - side, 0)]


def _filled(
    values: Float[np.ndarray, "h w c"] | Bool[np.ndarray, "h w"], side: int
) -> Float[np.ndarray, "p p c"] | Bool[np.ndarray, "p p"]:
    missing = [(0, side - length) for length in values.shape[:2]] + [(0, 0)] * (values.ndim - 2)
    return np.pad(values, missing)


def _groups(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """The sub-folders that hold a file of a modality, by name.

    Raises:
      InputError: one of them lacks another modality's file; there is none.
    """
    if not files:
        raise InputError("scene.modalities is empty; it names the files of each group of pretrain.corpus.")
    holds = lambda group: [name for name, file in files.items() if (group / file).is_file()]
    groups = [path for path in sorted(folder.iterdir()) if path.is_dir() and holds(path)]
    lacking = [
        f"{group} lacks {files[name]} (modality '{name}')" for group in groups for name in files.keys() - holds(group)
    ]
    if lacking:
        more = f"\nand {len(lacking) - 8} more" if len(lacking) > 8 else ""
        raise InputError(
            "pretrain.corpus: every group must hold every modality; add the file or take the group away:\n"
            + "\n".join(sorted(lacking)[:8])
            + more
        )
    if not groups:
        raise InputError(
            f"pretrain.corpus: no folder in {folder} holds any of {', '.join(files.values())}, the files that"
            " scene.modalities names."
        )
    return groups


def _stamp(path: Path) -> list:
    """What tells whether a file is still the same, without reading it."""
    stat = path.stat()
    return [path.parent.name, path.name, stat.st_size, stat.st_mtime_ns]


def _name(folder: Path, content: Any) -> str:
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_.]', '_', folder.resolve().name)}-{digest[:8]}"


def _unlabelled(scene: Any) -> Any:
    """The `scene` section without labels and split."""
    reduced = scene.copy_and_resolve_references()
    # The copy sorts by name; modalities stay in the order that the config gives.
    reduced.modalities = ConfigDict(scene.modalities.to_dict(), sort_keys=False)
    reduced.source, reduced.labels.file, reduced.split.kind = "files", "", "blocks"
    return reduced


def _read(scene: Any, group: Path) -> Scene:
    """The images of a group.

    Raises:
      InputError: they cannot be read, and in which group.
    """
    scene.folder = str(group)
    try:
        return load_scene(scene)
    except InputError as error:
        raise InputError(f"{group}: {error}") from error
