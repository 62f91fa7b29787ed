"""What a DDPM is worth to a scene that it was pre-trained on alone, has never seen, or has seen among others.

    python experiments/transfer.py --config sentinel_lulc --groups DIR --seeds 5 --out FILE.json

DIR holds one folder a scene, each with the files that the config names. For each of them three DDPMs are compared:
`in_scene`, pre-trained on it alone; `cross_scene`, on all the others; `corpus`, on all of them. All are pre-trained in
the same way (as a corpus, by as many steps, with the statistics of what they see) and only differ in what they see;
none sees a label. Features of each, and of a net as it was initialised (`untrained`), are scored by a logistic
regression on single pixels, on the same splits into blocks. `--quick` takes the config's tiny size, two seeds and few
steps, and says nothing about worth.
"""

import argparse
import dataclasses
import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # so that it runs by its path as by its name

from bdgf_jax import configuration, extraction
from bdgf_jax.caching import use_compilation_cache
from bdgf_jax.configuration import Config
from bdgf_jax.errors import InputError
from bdgf_jax.fitting import pretrain
from bdgf_jax.pretrained import open_guided
from bdgf_jax.run import open_run, read_json, write_json
from bdgf_jax.scenes.loading import load_scene
from experiments.real_scenes import FIGURES, configured, note, probe

METHODS = ("in_scene", "cross_scene", "corpus", "untrained")
QUICK_STEPS = 4


def main() -> int:
    """Pre-trains what is missing, scores it and prints the tables; 2 where the user can put something right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="NAME_OR_FILE")
    parser.add_argument("--groups", type=pathlib.Path, required=True, metavar="DIR", help="one folder a scene")
    parser.add_argument("--seeds", type=int, default=5, help="number of splits (5)")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.json")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/transfer"), metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="a trial of the program, in a minute or two")
    options, overrides = parser.parse_known_args()
    if options.quick:
        overrides = [f"--config.pretrain.steps={QUICK_STEPS}", *overrides]
    use_compilation_cache()
    try:
        config = configuration.load(f"{options.config}:tiny" if options.quick else options.config, overrides)
        seeds = range(2 if options.quick else options.seeds)
        print(table(compare(config, options.groups, seeds, options.workdir, options.out)))
    except InputError as error:
        print(f"transfer: {error}", file=sys.stderr)
        return 2
    return 0


def compare(config: Config, groups: pathlib.Path, seeds: range, workdir: pathlib.Path, out: pathlib.Path) -> dict:
    """Scores of every way of pre-training on every scene and split, written to `out` after each scene.

    Args:
      config: of any of the scenes; its folder, corpus and split seed are replaced.
      groups: one folder a scene.
      seeds: of the splits.
      workdir: of the runs; pre-trainings that are finished there are not done again.
      out: results.

    Raises:
      InputError: there are no two scenes.
    """
    scenes = tuple(sorted(path for path in groups.iterdir() if path.is_dir()))
    if len(scenes) < 2:
        raise InputError(f"--groups {groups}: two scenes are needed at least, it holds {len(scenes)} folders.")
    began = time.monotonic()
    results = {"config": config.to_dict(), "pretraining_steps": config.pretrain.steps, "scenes": []}
    sees = {
        target: {"in_scene": (target,), "cross_scene": tuple(one for one in scenes if one != target), "corpus": scenes}
        for target in scenes
    }
    seen = dict.fromkeys(which for ways in sees.values() for which in ways.values())
    pretrained = {which: pretrained_on(config, which, workdir / "pretrained") for which in seen}
    for target in scenes:
        here = configured(config, scene__folder=str(target))
        features = {}
        for method, which in sees[target].items():
            guided = configured(here, features__checkpoint=str(pretrained[which]))
            features[method] = extraction.diffusion_features(open_guided(guided, workdir / target.name / method))
        run = open_run(configured(here, features__source="untrained"), workdir / target.name / "untrained")
        features["untrained"] = extraction.diffusion_features(run)
        record = {"scene": target.name, "seeds": [], "n_train": [], "n_test": [], "methods": {}}
        for seed in seeds:
            split = dataclasses.replace(run, scene=load_scene(configured(here, scene__split__seed=seed).scene))
            note(record, split, seed, {method: probe(split.scene, features[method]) for method in METHODS})
        results["scenes"].append(record)
        results["seconds"] = time.monotonic() - began
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, results)
    return read_json(out)


def pretrained_on(config: Config, seen: tuple[pathlib.Path, ...], workdir: pathlib.Path) -> pathlib.Path:
    """The workdir of a DDPM that has seen these scenes, pre-trained now where that was never done.

    Args:
      config: of any scene.
      seen: folders of the scenes that the DDPM sees.
      workdir: where pre-trainings are kept, by what they have seen.
    """
    workdir = workdir / "+".join(path.name for path in seen)
    folder = workdir / "groups"
    folder.mkdir(parents=True, exist_ok=True)
    for path in seen:
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path.resolve())
    pretrain(open_run(configured(config, scene__folder=str(seen[0]), pretrain__corpus=str(folder)), workdir / "run"))
    return workdir / "run"


def table(results: dict) -> str:
    """Mean ± standard deviation over the splits in per cent, as Markdown.

    The last column compares split by split: on how many of them the method is ahead of `in_scene` in AA.
    """
    cell = lambda values: f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"
    lines = []
    for record in results["scenes"]:
        lines += [
            f"| {record['scene']}, {len(record['seeds'])} seeds | OA | AA | κ | ahead of in_scene in AA |",
            "| --- | --- | --- | --- | --- |",
        ]
        own = np.array(record["methods"]["in_scene"]["aa"])
        for method in METHODS:
            figures = record["methods"][method]
            ahead = "" if method == "in_scene" else str(int((np.array(figures["aa"]) > own).sum()))
            lines.append(f"| {method} | {' | '.join(cell(figures[figure]) for figure in FIGURES)} | {ahead} |")
        lines.append("")
    return "\n".join(lines).rstrip()


if __name__ == "__main__":
    sys.exit(main())
