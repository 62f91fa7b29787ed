"""What a run says of itself: log.jsonl for programs, TensorBoard events for people."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import SupportsFloat

import tensorboardX

FILE = "log.jsonl"


class RunLog:
    """Writes a line a logged step; a context manager.

    Args:
      workdir: of the run; a log that is there already is continued.
      step: steps done. What the log says of later ones is cut, since they will be done again.
      written: False in all but one of the processes that work together.
    """

    def __init__(self, workdir: Path, *, step: int, written: bool = True):
        self._file = self._events = None
        self._began = time.monotonic()
        if written:
            workdir.mkdir(parents=True, exist_ok=True)
            path = workdir / FILE
            earlier = _cut(path, step)
            self._began -= earlier[-1]["seconds"] if earlier else 0.0
            self._file = path.open("a")
            self._events = tensorboardX.SummaryWriter(str(workdir), purge_step=step + 1 if step else None)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_) -> None:
        if self._file and self._events:
            self._file.close()
            self._events.close()

    def write(self, step: int, figures: Mapping[str, SupportsFloat]) -> None:
        """Adds the figures of a step; what is not finite becomes null, since JSON knows no NaN."""
        if self._file and self._events:
            line = {"step": step, "seconds": round(time.monotonic() - self._began, 3)}
            numbers = {name: value if isinstance(value, int) else float(value) for name, value in figures.items()}
            line |= {name: number if math.isfinite(number) else None for name, number in numbers.items()}
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            for name, number in numbers.items():
                self._events.add_scalar(name, number, step)


def _cut(path: Path, step: int) -> list[dict]:
    """Takes lines past `step`, and what a kill left of the last line, out of the file; returns what stays."""
    if not path.exists():
        return []
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if entry["step"] > step:
            break
        kept.append(entry)
    shorter = path.with_suffix(".tmp")
    shorter.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
    os.replace(shorter, path)
    return kept
