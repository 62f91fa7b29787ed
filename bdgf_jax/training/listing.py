"""What lies in a folder of checkpoints, and in what state of health."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bdgf_jax.training.manifest import find_damage, read_manifest


@dataclass(frozen=True)
class Listed:
    """One entry of a folder of checkpoints.

    Attributes:
      name: of its folder: its step, or what a damaged or unfinished one is called.
      score: the figure by which the best is chosen; None where it was not evaluated, or cannot be read.
      megabytes: of all its files.
      health: "whole", "unfinished", or what is damaged.
      roles: "last" and "best" of those that are whole.
    """

    name: str
    score: float | None
    megabytes: float
    health: str
    roles: tuple[str, ...] = ()


def list_checkpoints(folder: Path) -> list[Listed]:
    """Everything in the folder, by step; every byte is read, so that "whole" means whole."""
    found = sorted(_entries(folder), key=lambda entry: (int(entry.name.partition(".")[0]), entry.name))
    whole = [entry for entry in found if entry.health == "whole"]
    last = whole[-1] if whole else None
    scored = [(entry.score, place) for place, entry in enumerate(whole) if entry.score is not None]
    best = whole[max(scored)[1]] if scored else None
    roles = lambda entry: tuple(role for role, chosen in (("last", last), ("best", best)) if entry is chosen)
    return [Listed(entry.name, entry.score, entry.megabytes, entry.health, roles(entry)) for entry in found]


def _entries(folder: Path) -> Iterator[Listed]:
    for path in folder.glob("*"):
        step, _, rest = path.name.partition(".")
        if not (path.is_dir() and step.isdecimal()):
            continue
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
        damage = find_damage(path)
        if "tmp" in rest:
            yield Listed(path.name, None, size, "unfinished")
        elif damage is None:
            yield Listed(path.name, read_manifest(path).score, size, "whole")
        else:
            yield Listed(path.name, None, size, f"damaged: {damage}")
