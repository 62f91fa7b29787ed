"""How far a piece of work has come: a bar on a terminal, a line every few seconds elsewhere."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import SupportsFloat

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Column

# Seconds between two lines where there is no terminal.
INTERVAL = 5.0
# The rate is that of the last so many seconds: it follows the work and yet does not flicker.
WINDOW = 30.0

_CONSOLE = Console(stderr=True)


class Bar:
    """A piece of work, how much of it is done, and what is known of it; `progress` makes and shows it."""

    def __init__(self, title: str, total: int, unit: str, done: int, show: Callable[["Bar"], None]):
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self.figures: dict[str, float] = {}
        self._show = show
        self._began = time.monotonic()
        # (time, units done); the first mark stands after the first unit, which is often slow since it compiles.
        self._marks: deque[tuple[float, int]] = deque()

    def advance(self, n: int = 1, **figures: SupportsFloat) -> None:
        """Counts `n` more units as done. A figure, such as loss=0.4, stands until another of its name comes."""
        self.done += n
        self.figures.update({name: float(value) for name, value in figures.items()})
        now = time.monotonic()
        self._marks.append((now, self.done))
        while now - self._marks[0][0] > WINDOW and len(self._marks) > 2:
            self._marks.popleft()
        self._show(self)

    @property
    def rate(self) -> float | None:
        """Units a second of late, or None as long as too few are done to tell."""
        if len(self._marks) < 2 or self._marks[-1][0] == self._marks[0][0]:
            return None
        (then, before), (now, done) = self._marks[0], self._marks[-1]
        return (done - before) / (now - then)

    def words(self) -> str:
        """Count, share, rate, figures, and the time left, or taken once all is done."""
        words = [f"{self.done}/{self.total} {self.unit}"]
        if self.total:
            words.append(f"{100 * self.done // self.total} %")
        if self.rate:
            words.append(f"{_figure(self.rate)} {self.unit}/s")
        words += [f"{name} {_figure(value)}" for name, value in self.figures.items()]
        if self.done >= self.total:
            words.append(f"took {_clock(time.monotonic() - self._began)}")
        elif self.rate:
            words.append(f"left {_clock((self.total - self.done) / self.rate)}")
        return "  ".join(words)


@contextmanager
def progress(title: str, total: int, unit: str = "step", *, start: int = 0, shown: bool = True) -> Iterator[Bar]:
    """Shows on standard error how far the work of the `with` block has come.

    Args:
      title: what is being done, such as `Pre-training`.
      total: units of work in all.
      unit: what is counted.
      start: units that an earlier run has done already; they do not count for the rate.
      shown: False in all but one of the processes that work together.
    """
    if not shown:
        yield Bar(title, total, unit, start, lambda bar: None)
    elif _CONSOLE.is_terminal:
        words = TextColumn("{task.fields[words]}", table_column=Column(no_wrap=True, overflow="ellipsis"))
        name = TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=len(title)))
        columns = (SpinnerColumn(), name, BarColumn(24), words)
        with Progress(*columns, console=_CONSOLE) as display:
            bar = Bar(
                title, total, unit, start, lambda bar: display.update(task, completed=bar.done, words=bar.words())
            )
            task = display.add_task(title, total=total, completed=start, words=bar.words())
            yield bar
            display.update(task, words=bar.words())
    else:
        lines = _Lines()
        bar = Bar(title, total, unit, start, lines.when_due)
        lines.write(bar)
        try:
            yield bar
        finally:
            lines.last(bar)


class _Lines:
    """Plain lines for files and pipes: the first, one every `INTERVAL` seconds, the last."""

    def __init__(self):
        self._written = 0.0
        self._units = -1

    def write(self, bar: Bar) -> None:
        print(f"{bar.title}  {bar.words()}", file=sys.stderr, flush=True)
        self._written, self._units = time.monotonic(), bar.done

    def when_due(self, bar: Bar) -> None:
        if bar.done < bar.total and time.monotonic() - self._written >= INTERVAL:
            self.write(bar)

    def last(self, bar: Bar) -> None:
        if self._units != bar.done:
            self.write(bar)


def _figure(value: float) -> str:
    """Three figures that count; no exponent for what can be read at a glance."""
    return f"{value:.0f}" if 100.0 <= abs(value) < 1e6 else f"{value:#.3g}"


def _clock(seconds: float) -> str:
    """Minutes and seconds, 3:46, or hours too, 1:03:46."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
