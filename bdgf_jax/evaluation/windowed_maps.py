"""The maps of a scene, written window by window: at no moment are they in memory, and a kill costs one window."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from bdgf_jax.evaluation.geotiff import Bands, begin_geotiff, finish_geotiff, plain_file, write_window
from bdgf_jax.scenes.scene import Georeference

JOURNAL = "map.windows"


class WindowedMaps:
    """GeoTIFFs of one grid that grow together. A journal beside them says which windows are written.

    What an earlier start of the program has written is taken up where its fingerprint is the same, and forgotten
    otherwise. The files take their names when all of them are whole.

    Args:
      folder: that takes the files.
      files: what each holds, by name.
      shape: rows and columns.
      georeference: where they lie.
      fingerprint: of all that decides what they will hold, the size of the windows included.

    Attributes:
      done: row and column of the upper left pixel of each window that is written.
    """

    def __init__(
        self,
        folder: Path,
        files: Mapping[str, Bands],
        shape: tuple[int, int],
        georeference: Georeference | None,
        fingerprint: str,
    ):
        self._paths = [folder / name for name in files]
        self._journal = folder / JOURNAL
        self.done: set[tuple[int, int]] = set()
        if self._journal.is_file():
            first, *lines, torn = self._journal.read_text().split("\n")
            if first == fingerprint and all(path.is_file() or plain_file(path).is_file() for path in self._paths):
                # What follows the last line break was being written when the program was killed.
                os.truncate(self._journal, self._journal.stat().st_size - len(torn))
                self.done = {(row, column) for row, column in map(json.loads, lines)}
                return
        self._journal.unlink(missing_ok=True)
        for path, bands in zip(self._paths, files.values()):
            begin_geotiff(path, shape, bands, georeference)
        self._journal.write_text(f"{fingerprint}\n")

    @property
    def finished(self) -> bool:
        """Whether the files have their names."""
        return not any(plain_file(path).is_file() for path in self._paths)

    def write(self, row: int, column: int, layers: Mapping[str, Shaped[np.ndarray, "h w _"]] | None) -> None:
        """Writes a window into every file, and into the journal that it is done.

        Args:
          row: of its upper left pixel, and
          column: likewise.
          layers: by file; None where the window holds no data.
        """
        if layers is not None:
            for path in self._paths:
                write_window(path, layers[path.name], row, column)
        with self._journal.open("a") as file:
            file.write(f"{json.dumps([row, column])}\n")
        self.done.add((row, column))

    def finish(self) -> None:
        """Gives the files their names, once all windows are written."""
        for path in self._paths:
            if plain_file(path).is_file():  # else an earlier start has finished this one
                finish_geotiff(path)
