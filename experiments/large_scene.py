"""Maps a scene that is larger than memory, window by window, and watches memory and rate.

    python experiments/large_scene.py --size 20000 --windows 12 --out experiments/results/large_scene.json

Two images of 12 and 2 bands, float32, are laid down as memory-mapped `.npy` files of the full size; they repeat a
synthetic scene as far as the windows reach, and are sparse zeros beyond. The model is trained for one step, since
speed does not depend on what was learnt. The map is that of `bdgf predict --config.predict.tile=…`; with `--windows` it
is left after so many windows, which the record says. Peak memory is that of the process that maps, as the kernel counts
it: its own and the files' pages that it has mapped. Any field of the config can be overridden; the whole of the scene
takes this machine hours with the default's network, and less than one with `SMALL`, which `--small` sets.
"""

import argparse
import contextlib
import json
import multiprocessing
import pathlib
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # so that it runs by its path as by its name

from bdgf_jax import cli, configuration, windowed
from bdgf_jax.caching import use_compilation_cache
from bdgf_jax.memory import host_peak
from bdgf_jax.model import read_model
from bdgf_jax.run import write_json
from bdgf_jax.scenes.synthetic import synthetic_scene
from bdgf_jax.scenes.windows import open_windows
from bdgf_jax.versions import versions

BANDS = {"optical": 12, "sar": 2}
SIDE = 96  # of the scene that is repeated, and trained on
STRIPE = 256  # rows laid down at a time
STRETCHES = 79  # that time and memory are recorded of, at most
SMALL = {
    "diffusion.width": 8,
    "features.timesteps": (50,),
    "features.draws": 1,
    "features.context.components": 0,
    "classifier.branches": ("cnn",),
    "classifier.width": 8,
    "classifier.stages": 2,
    "classifier.direct.landmarks": 0,
}
CONFIG = """
from ml_collections import ConfigDict
from bdgf_jax import configuration

def get_config(size=""):
    config = configuration.load("base")
    config.scene.name, config.scene.folder = "large", {folder!r}
    fields = {{name: {{"file": name + ".npy", "kind": name, "scale": "none"}} for name in ("optical", "sar")}}
    config.scene.modalities = ConfigDict(fields, sort_keys=False)
    config.scene.labels.file = {labels!r}
    config.pretrain.steps = config.train.steps = 1
    config.classifier.centre = config.predict.stride = 5
    config.predict.tile = 256
    return config
"""


def main() -> int:
    """Lays the scene down, trains, maps and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=20_000, help="side of the scene in pixels (20000)")
    parser.add_argument("--windows", type=int, help="leave after so many windows; all by default")
    parser.add_argument("--small", action="store_true", help="the smallest network that is still guided by a DDPM")
    parser.add_argument("--folder", type=pathlib.Path, help="where the scene is laid down; a temporary one by default")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.json")
    options, overrides = parser.parse_known_args()
    if options.small:
        overrides = [*(f"--config.{field}={value}" for field, value in SMALL.items()), *overrides]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        # Trained and mapped in processes of their own, so that the peak is that of the mapping alone.
        record = lay_down(pathlib.Path(folder), options.size, options.windows, overrides)
        spawn = multiprocessing.get_context("spawn")
        for step in (train, map_windows):
            process = spawn.Process(target=step, args=(folder, options.windows, overrides))
            process.start()
            process.join()
            if process.exitcode:
                return 2
        record |= json.loads((pathlib.Path(folder) / "record.json").read_text())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, record)
    print(summary(record))
    return 0


def lay_down(folder: pathlib.Path, size: int, windows: int | None, overrides: list[str]) -> dict[str, Any]:
    """Writes both scenes and their configs; what there is to be said of the large one."""
    scene = synthetic_scene(height=SIDE, width=SIDE, bands=BANDS["optical"], classes=6, seed=0)
    images = {"optical": scene.modalities["hsi"].image, "sar": scene.modalities["sar"].image[..., : BANDS["sar"]]}
    for name, side in (("small", SIDE), ("large", size)):
        (folder / name).mkdir()
        labels = "labels.npy" if name == "small" else ""
        (folder / f"{name}.py").write_text(CONFIG.format(folder=str(folder / name), labels=labels))
        tile = configuration.load(str(folder / f"{name}.py"), overrides).predict.tile
        across = -(-side // tile)
        rows = side if windows is None else min(side, (-(-windows // across) + 1) * tile)
        for image, values in images.items():
            path = folder / name / f"{image}.npy"
            array = np.lib.format.open_memmap(path, "w+", np.float32, (side, side, values.shape[-1]))
            stripe = np.tile(values, (-(-STRIPE // SIDE), -(-side // SIDE), 1))[:, :side]
            for row in range(0, rows, SIDE):
                array[row : row + SIDE] = stripe[: min(SIDE, side - row)]
            array.flush()
    np.save(folder / "small" / "labels.npy", (scene.labels + 1).astype(np.uint8))
    gigabytes = sum((folder / "large" / f"{name}.npy").stat().st_size for name in BANDS) / 1e9
    return {"size": size, "bands": BANDS, "scene_gigabytes": gigabytes, "rows_with_content": rows}


def train(folder: str, windows: int | None, overrides: list[str]) -> None:
    """One step of each training, on the small scene."""
    del windows
    sys.exit(cli.main(["train", "--config", f"{folder}/small.py", "--workdir", f"{folder}/run", *overrides]))


def map_windows(folder: str, windows: int | None, overrides: list[str]) -> None:
    """Maps the large scene, or the first windows of it, and records time and memory after each."""
    use_compilation_cache()
    config = configuration.load(f"{folder}/large.py", overrides)
    workdir = pathlib.Path(folder) / "map"
    workdir.mkdir()
    began, marks = time.monotonic(), []

    def mark(_: int) -> None:
        marks.append((time.monotonic() - began, host_peak() / 1e9))
        print(f"window {len(marks)}: {marks[-1][0]:.0f} s, peak {marks[-1][1]:.2f} GB", file=sys.stderr, flush=True)
        if len(marks) == windows:
            raise StopIteration

    mapper, scene = windowed.WindowMapper(read_model(pathlib.Path(folder) / "run", config)), open_windows(config.scene)
    total = len(windowed.window_corners(scene.grid.shape, mapper.side))
    with contextlib.suppress(StopIteration):
        windowed.map_scene(mapper, scene, workdir, on_window=mark)
    stretch = max(1, len(marks) // STRETCHES)
    seconds, peaks = np.array(marks)[::stretch].T
    record = {
        "window": mapper.side,
        "windows": total,
        "windows_predicted": len(marks),
        "whole": len(marks) == total,
        "seconds": marks[-1][0],
        "peak_gigabytes": marks[-1][1],
        "windows_a_stretch": stretch,
        "pixels_per_second": (stretch * mapper.side**2 / np.diff(seconds)).tolist(),
        "peak_gigabytes_so_far": peaks.tolist(),
        "device": f"{jax.devices()[0].device_kind} x{jax.device_count()}",
        "versions": versions(),
        "config": {name: config[name].to_dict() for name in ("diffusion", "features", "classifier", "predict")},
    }
    write_json(pathlib.Path(folder) / "record.json", record)


def summary(record: dict[str, Any]) -> str:
    """The record in words."""
    rates = np.array(record["pixels_per_second"])
    part = "all of them" if record["whole"] else f"{record['windows_predicted']} of them"
    return (
        f"{record['size']} × {record['size']} pixels, {record['scene_gigabytes']:.1f} GB, in {record['windows']}"
        f" windows, {part} mapped in {record['seconds']:,.0f} s: peak {record['peak_gigabytes']:.2f} GB;"
        f" {np.median(rates):,.0f} pixels a second, {rates.min():,.0f} to {rates.max():,.0f} from one stretch of"
        f" {record['windows_a_stretch']} windows to the next"
    )


if __name__ == "__main__":
    sys.exit(main())
