"""Maps of many scenes by one model: a process takes its share, nothing is done twice, and what fails is told."""

import glob
import pathlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bdgf_jax.configuration import Config
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.class_tables import write_qgis_style
from bdgf_jax.model import read_model
from bdgf_jax.progress import progress
from bdgf_jax.run import check_writable
from bdgf_jax.scenes.loading import modality_fields, reference_name
from bdgf_jax.scenes.windows import open_windows
from bdgf_jax.windowed import WindowMapper, map_scene

SIDE = 256  # of the windows, at least, where predict.tile leaves it open


class Mapped(NamedTuple):
    """What has become of a share of the scenes.

    Attributes:
      new: maps that were made.
      before: maps that an earlier start had made, of the same files by the same model.
      failures: reason by scene.
    """

    new: int
    before: int
    failures: dict[str, str]


def find_scenes(where: str, config: Any, without: Sequence[str] = ()) -> dict[str, pathlib.Path]:
    """The folders of many scenes by name, in the order of their names.

    Args:
      where: a folder that holds those of the scenes, or is itself one; a pattern of folders, such as `tiles/*`; or a
        VRT, of which each source lies in a folder of a scene. Of a VRT the file names are read and nothing else.
      config: the `scene` section, as it is for each of them but for `folder` and `name`.
      without: modalities that none of them has.

    Raises:
      InputError: there are none, or two have the same name.
    """
    path = pathlib.Path(where).expanduser()
    if path.suffix.lower() == ".vrt":
        found = _folders_of_vrt(path)
    elif path.is_dir():
        fields = modality_fields(config, without)
        itself = (path / fields[reference_name(config, fields)].get("file", "")).is_file()
        found = [path] if itself else [inner for inner in path.iterdir() if not inner.name.startswith(".")]
    else:
        found = [pathlib.Path(match) for match in glob.glob(str(path))]
    scenes: dict[str, pathlib.Path] = {}
    for folder in sorted({folder.absolute() for folder in found if folder.is_dir()}):
        if folder.name in scenes:
            raise InputError(
                f"--scenes {where}: {scenes[folder.name]} and {folder} have the same name, and so would their maps;"
                " map them by two commands with different --out."
            )
        scenes[folder.name] = folder
    if not scenes:
        raise InputError(f"--scenes {where}: no folder is there; expected a folder, a pattern of folders or a VRT.")
    return dict(sorted(scenes.items()))


def map_scenes(
    folder: pathlib.Path,
    config: Config,
    scenes: Mapping[str, pathlib.Path],
    out: pathlib.Path,
    share: tuple[int, int] = (0, 1),
) -> Mapped:
    """Maps every nth scene by windows, each into a folder of its name, all with the model's class table.

    Args:
      folder: of the model.
      config: its `scene` and `predict` sections count, all else is the model's.
      scenes: their folders by name.
      out: takes the folders of the maps, and the class table as a style for QGIS.
      share: which of the processes this is, and how many there are.

    Raises:
      InputError: there is no such model, or `out` cannot be written.
    """
    check_writable(out)
    model = read_model(folder, config)
    if not model.config.predict.tile:
        model.config.predict.tile = -(-SIDE // model.config.features.tile) * model.config.features.tile
    mapper = WindowMapper(model)
    write_qgis_style(out / "legend", model.classes)
    index, count = share
    mine = list(scenes.items())[index::count]
    mapped, failures = [], {}
    with progress("Mapping", len(mine), unit="scene") as bar:
        for name, place in mine:
            # The model's copy of the section tells maps apart; the order of modalities is in the section itself.
            for section in (config.scene, model.config.scene):
                section.folder, section.name = str(place), name
            try:
                mapped.append(
                    map_scene(
                        mapper, open_windows(config.scene, config.predict.without), out / name, on_window=lambda _: None
                    )
                )
            except Exception as error:  # whatever it is, the others do not wait for it
                kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
                failures[name] = kind + str(error).replace("\n", "; ")
            bar.advance()
    return Mapped(sum(mapped), len(mapped) - sum(mapped), failures)


def _folders_of_vrt(path: pathlib.Path) -> list[pathlib.Path]:
    try:
        sources = list(ElementTree.parse(path).iter("SourceFilename"))
    except (OSError, ElementTree.ParseError) as error:
        raise InputError(f"--scenes {path}: cannot be read as a VRT ({error}).") from error
    beside = lambda source: path.parent if source.get("relativeToVRT") == "1" else pathlib.Path()
    return [(beside(source) / (source.text or "")).parent for source in sources]
