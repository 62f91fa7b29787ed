"""What a checkpoint must consist of, so that a flipped bit or a file cut short is noticed before anything is restored.

Orbax restores damaged arrays without a word. So the SHA-256 of every file is written into the checkpoint while it is
still under its temporary name; the rename that commits the arrays commits the manifest with them.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

NAME = "manifest.json"
# Orbax writes the moment of the commit into the first after the manifest is made, and the second then too.
ORBAX_METADATA = "_CHECKPOINT_METADATA"
ORBAX_COMMIT = "commit_success.txt"


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
      step: steps that had been done.
      score: the figure by which the best one is chosen, higher is better; None where it was not evaluated.
      arrays: name -> dtype and shape, such as `float32[3,4]`.
      files: path inside the checkpoint -> SHA-256.
    """

    step: int
    score: float | None
    arrays: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)


def write_manifest(checkpoint: Path, manifest: Manifest) -> None:
    """Writes the manifest into the checkpoint, with the digests of the files that lie there now."""
    files = {path: _digest(checkpoint / path) for path in _files(checkpoint)}
    body = json.dumps(asdict(manifest) | {"files": files}, indent=1)
    (checkpoint / NAME).write_text(json.dumps({"sha256": _sha256(body.encode()), "manifest": body}))


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest, its own digest checked.

    Raises:
      ValueError: it is missing or damaged; the message says which.
    """
    try:
        sealed = json.loads((checkpoint / NAME).read_text())
        if _sha256(sealed["manifest"].encode()) != sealed["sha256"]:
            raise ValueError
        return Manifest(**json.loads(sealed["manifest"]))
    except FileNotFoundError:
        raise ValueError(f"{NAME} is missing") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{NAME} is damaged") from None


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with the checkpoint, in words, or None where every byte is as it was written."""
    try:
        expected = read_manifest(checkpoint).files
    except ValueError as error:
        return str(error)
    for path, digest in expected.items():
        if not (checkpoint / path).is_file():
            return f"{path} is missing"
        if _digest(checkpoint / path) != digest:
            return f"{path} differs from what was written"
    surplus = [path for path in _files(checkpoint) if path not in expected]
    return f"{surplus[0]} does not belong to it" if surplus else None


def _files(checkpoint: Path) -> list[str]:
    paths = sorted(path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file())
    return [path for path in paths if path not in (NAME, ORBAX_COMMIT)]


def _digest(path: Path) -> str:
    if path.name == ORBAX_METADATA:
        try:
            metadata = json.loads(path.read_text())
            metadata.pop("commit_timestamp_nsecs", None)
            return _sha256(json.dumps(metadata, sort_keys=True).encode())
        except (ValueError, AttributeError):
            return "unreadable"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
