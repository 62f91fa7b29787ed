"""How fast tiles of a corpus are prepared and read, and how long a step of pre-training waits for them.

    python experiments/corpus_loader.py --config sentinel_lulc --groups DIR --out FILE.json

A corpus is made by cutting windows at random places out of the scenes in DIR, turned at random, each written as a group
of GeoTIFFs; so there are as many as wanted, of real content. Three things are timed: preparing it; reading its batches
as training does, and doing nothing with them (`loader`); and steps of pre-training, on a batch that stays on the device
(`step`) and on batches that are read ahead (`together`). `waiting` is the share of the time together that is spent
asking for the next batch, and `slower` what the step loses besides to readers that share its cores. All files were just
written, so that reading comes from the operating system's memory, not from a disk. `--quick` takes the config's tiny
size and few windows.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import rasterio

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # so that it runs by its path as by its name

from bdgf_jax import configuration
from bdgf_jax.configuration import Config
from bdgf_jax.errors import InputError
from bdgf_jax.fitting import pretraining_task
from bdgf_jax.run import open_run, write_json
from bdgf_jax.scenes.corpus import Corpus, open_corpus
from bdgf_jax.training.batches import READ_AHEAD, READERS, Batches, opened
from bdgf_jax.training.indices import IndexStream
from bdgf_jax.training.mesh import make_mesh
from experiments.real_scenes import configured
from experiments.throughput import commit, compiled_steps, timings

SIDE = 128  # of the windows, pixels


def main() -> int:
    """Makes the corpus, times it and prints the table; 2 where the user can put something right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="NAME_OR_FILE")
    parser.add_argument("--groups", type=pathlib.Path, required=True, metavar="DIR", help="one folder a scene")
    parser.add_argument("--windows", type=int, default=400, help="groups of the corpus (400)")
    parser.add_argument("--batches", type=int, default=100, help="batches that are read, and steps that are done (100)")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.json")
    parser.add_argument("--quick", action="store_true", help="a trial of the program, in a minute")
    options, overrides = parser.parse_known_args()
    windows, batches = (4, 6) if options.quick else (options.windows, options.batches)
    try:
        config = configuration.load(f"{options.config}:tiny" if options.quick else options.config, overrides)
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TFDS_DATA_DIR"] = f"{folder}/prepared"
            result = measure(config, options.groups, windows, batches, pathlib.Path(folder))
    except InputError as error:
        print(f"corpus_loader: {error}", file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, result)
    print(table(result))
    return 0


def measure(config: Config, groups: pathlib.Path, windows: int, batches: int, folder: pathlib.Path) -> dict[str, Any]:
    """All timings, on a corpus of so many windows and over so many batches, in a temporary folder."""
    files = [options.file for options in config.scene.modalities.values()]
    scenes = sorted(path for path in groups.iterdir() if path.is_dir())
    written = write_windows(scenes, files, windows, folder / "windows")
    began = time.perf_counter()
    corpus = open_corpus(str(folder / "windows"), config.scene, tile=config.pretrain.tile)
    preparing = time.perf_counter() - began
    loader = read_alone(corpus, config, batches)
    first = {"scene__folder": str(folder / "windows" / "00000"), "scene__labels__file": ""}
    here = configured(config, **first, pretrain__corpus=str(folder / "windows"))
    return {
        "commit": commit(),
        "device": f"{jax.devices()[0].device_kind} x{jax.device_count()}",
        "cores": os.cpu_count(),
        "readers": READERS,
        "read_ahead": READ_AHEAD,
        "batch_size": config.pretrain.batch_size,
        "tile": corpus.tile,
        "crop": config.pretrain.crop,
        "corpus": {"groups": windows, "tiles": len(corpus), "megabytes": len(corpus) * bytes_of(corpus) / 1e6},
        "prepare": {"seconds": preparing, "megabytes_per_second": written / 1e6 / preparing},
        "loader": loader,
        **steps(here, folder / "run", corpus, batches),
    }


def write_windows(scenes: list[pathlib.Path], files: list[str], count: int, folder: pathlib.Path) -> int:
    """Windows of these scenes as groups of their own, turned at random; bytes of their pixels."""
    random, written = np.random.default_rng(0), 0
    for number in range(count):
        scene, turns = scenes[number % len(scenes)], int(random.integers(4))
        with rasterio.open(scene / files[0]) as reference:
            side = min(SIDE, *reference.shape)
            row, column = (int(random.integers(length - side + 1)) for length in reference.shape)
        window = ((row, row + side), (column, column + side))
        group = folder / f"{number:05d}"
        group.mkdir(parents=True)
        for file in files:
            with rasterio.open(scene / file) as source:
                image = np.rot90(source.read(window=window), turns, axes=(1, 2))
                profile = source.profile | {"width": side, "height": side, "tiled": False}
                with rasterio.open(group / file, "w", **profile) as target:
                    target.write(image)
            written += image.nbytes
    return written


def bytes_of(corpus: Corpus) -> int:
    """Of one tile, as it goes to the device."""
    return sum(array.nbytes for array in jax.tree.leaves(corpus[np.arange(1)]))


@contextmanager
def batches_of(corpus: Corpus, config: Config, count: int) -> Iterator[Batches]:
    """The batches that training would be given."""
    stream = IndexStream(len(corpus), batch_size=config.pretrain.batch_size, seed=config.pretrain.seed)
    mesh = make_mesh(config.mesh.to_dict())
    with opened(corpus, stream, mesh, start=0, steps=count, position=None) as batches:
        yield batches


def read_alone(corpus: Corpus, config: Config, count: int) -> dict[str, float]:
    """Rates of reading, where nothing else is done; crops are cut one from a tile."""
    with batches_of(corpus, config, count) as batches:
        began = time.perf_counter()
        for _ in range(count):
            jax.block_until_ready(next(batches))
        seconds = time.perf_counter() - began
    tiles = count * config.pretrain.batch_size
    return {"crops_per_second": tiles / seconds, "megabytes_per_second": tiles * bytes_of(corpus) / 1e6 / seconds}


def steps(config: Config, workdir: pathlib.Path, corpus: Corpus, count: int) -> dict[str, Any]:
    """Seconds a step on a resident batch and on batches that are read ahead, and the share of waiting."""
    task = pretraining_task(open_run(config, workdir))
    with batches_of(corpus, config, count + 1) as batches:
        batch = next(batches)
        step, _ = compiled_steps(task, config.pretrain, batch)
        alone = float(np.median(timings(lambda: step(batch), max(3, count // 5))))
        began, waited = time.perf_counter(), 0.0
        for _ in range(count):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            jax.block_until_ready(step(batch))
        seconds = time.perf_counter() - began
    together = {"seconds": seconds / count, "crops_per_second": count * config.pretrain.batch_size / seconds}
    slower = (seconds - waited) / count / alone - 1.0
    return {"step": {"seconds": alone}, "together": together, "waiting": waited / seconds, "slower": slower}


def table(result: dict[str, Any]) -> str:
    """The timings as Markdown."""
    corpus, loader, batch = result["corpus"], result["loader"], result["batch_size"]
    return "\n".join(
        [
            f"| {corpus['groups']} groups, {corpus['tiles']} tiles of {result['tile']} px, {result['cores']} cores | |",
            "| --- | --- |",
            f"| prepared | {result['prepare']['megabytes_per_second']:.1f} MB/s |",
            f"| loader alone | {loader['crops_per_second']:.0f} crops/s, {loader['megabytes_per_second']:.0f} MB/s |",
            f"| step alone | {batch / result['step']['seconds']:.0f} crops/s |",
            f"| together | {result['together']['crops_per_second']:.0f} crops/s |",
            f"| waiting for data | {result['waiting']:.1%} of the time |",
            f"| step slowed by the readers | {result['slower']:.1%} |",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
