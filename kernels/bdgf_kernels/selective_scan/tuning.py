"""Numbers that only a measurement can choose, such as tile sizes, by the kind of device: data, which defaults read.

`tuned/<kind of device>.json` holds, for an implementation, the sizes that were timed, what was fastest, and all raw
times: `{"mosaic_gpu": [{"sizes": {"b": …}, "choice": {…}, "times": [{"choice": {…}, "milliseconds": […]}]}]}`.
`python -m benchmarks.tune` writes it. Where there is no such file or row, an implementation's own default serves.
"""

import contextlib
import functools
import json
import math
import pathlib
from collections.abc import Iterator

from bdgf_kernels import compatibility
from bdgf_kernels.selective_scan.call import Sizes

FOLDER = pathlib.Path(__file__).parent / "tuned"

tried: dict[str, int] | None = None


def tuned(implementation: str, size: Sizes) -> dict[str, int]:
    """Returns the measured choice for a call on this machine's device; empty where nothing like it was measured.

    A row serves calls that differ from it in the batch alone; of several, the one whose batch is nearest in ratio.
    """
    if tried is not None:
        return tried
    kind = compatibility.accelerator()
    rows = [Row(size, row) for row in table(kind).get(implementation, ())] if kind else []
    rows = [row for row in rows if row.fits]
    return dict(min(rows, key=lambda row: row.distance).choice) if rows else {}


class Row:
    """A row of the table beside the sizes of a call."""

    def __init__(self, size: Sizes, row: dict):
        measured = Sizes(**row["sizes"])
        self.choice = row["choice"]
        self.fits = measured.b > 0 and size.b > 0 and measured._replace(b=size.b) == size
        self.distance = abs(math.log(measured.b / size.b)) if self.fits else math.inf


@functools.cache
def table(kind: str) -> dict[str, list[dict]]:
    """Reads what was measured on a kind of device."""
    file = path(kind)
    return json.loads(file.read_text()) if file.exists() else {}


def path(kind: str) -> pathlib.Path:
    """Says where the measurements of a kind of device lie."""
    return FOLDER / f"{kind.lower().replace(' ', '_')}.json"


@contextlib.contextmanager
def trying(choice: dict[str, int]) -> Iterator[None]:
    """Makes calls traced inside run with a choice, measured or not: the tuner's."""
    global tried
    before, tried = tried, choice
    try:
        yield
    finally:
        tried = before
