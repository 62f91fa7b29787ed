"""What a DDPM is worth to a scene that it was pre-trained on alone, has never seen, or has seen among others.

    python experiments/transfer.py --config sentinel_lulc --groups DIR --seeds 5 --out FILE.json

DIR holds one folder a scene, each with the files that the config names. For each of them three DDPMs are compared:
`in_scene`, pre-trained on it alone; `cross_scene`, on all the others; `corpus`, on all of them. All are pre-trained in
the same way (as a corpus, by as many steps, with the statistics of what they see) and only differ in what they see;
none sees a label. Each guides a classifier of its own, on the same splits into blocks, and so does a net as it was
initialised (`untrained`); `probe_…` are logistic regressions on the same features, pixel by pixel. Seeds that FILE.json
holds are not run again. `--quick` takes the config's tiny size, one seed and few steps, and says nothing about worth.
"""

import argparse
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # so that it runs by its path as by its name

from bdgf_jax import configuration, extraction
from bdgf_jax.caching import use_compilation_cache
from bdgf_jax.configuration import Config
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.metrics import FIGURES
from bdgf_jax.fitting import pretrain
from bdgf_jax.pretrained import open_guided
from bdgf_jax.run import Run, open_run, read_json, write_json
from experiments.real_scenes import classify, configured, line, note, of_split, probe, record_of, spread

WAYS = ("in_scene", "cross_scene", "corpus", "untrained")
METHODS = (*WAYS, *(f"probe_{way}" for way in WAYS))
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
        seeds = range(1 if options.quick else options.seeds)
        print(table(compare(config, options.groups, seeds, options.workdir, options.out)))
    except InputError as error:
        print(f"transfer: {error}", file=sys.stderr)
        return 2
    return 0


def compare(config: Config, groups: pathlib.Path, seeds: range, workdir: pathlib.Path, out: pathlib.Path) -> dict:
    """Scores of every way of pre-training on every scene and split, written to `out` after each split.

    Args:
      config: of any of the scenes; its folder, corpus and seeds of splits and classifiers are replaced.
      groups: one folder a scene.
      seeds: of the splits.
      workdir: of the runs; pre-trainings that are finished there are not done again.
      out: results so far, and from now on.

    Raises:
      InputError: there are no two scenes.
    """
    scenes = tuple(sorted(path for path in groups.iterdir() if path.is_dir()))
    if len(scenes) < 2:
        raise InputError(f"--groups {groups}: two scenes are needed at least, it holds {len(scenes)} folders.")
    results = read_json(out) or {"config": config.to_dict(), "pretraining_steps": config.pretrain.steps, "scenes": []}
    for target in scenes:
        record = record_of(results, target.name, seeds=[], n_train=[], n_test=[], methods={})
        missing = [seed for seed in seeds if seed not in record["seeds"]]
        if not missing:
            continue
        others = tuple(one for one in scenes if one != target)
        sees = {"in_scene": (target,), "cross_scene": others, "corpus": scenes, "untrained": ()}
        ways = {way: guided_by(config, target, which, workdir) for way, which in sees.items()}
        runs = {way: opened(here, workdir / target.name / way) for way, here in ways.items()}
        features = {way: extraction.diffusion_features(run) for way, run in runs.items()}
        guidance = {way: (*features[way], *extraction.context_features(run)) for way, run in runs.items()}
        for seed in missing:
            splits = {way: opened_split(here, seed, workdir / target.name / way) for way, here in ways.items()}
            classified = {way: classify(split, guidance[way])["bdgf"] for way, split in splits.items()}
            probed = {f"probe_{way}": probe(split.scene, features[way]) for way, split in splits.items()}
            note(record, splits["in_scene"].scene, seed, classified | probed)
            print(f"{target.name} seed {seed}: {line(record, seed)}", flush=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, results)
    return results


def guided_by(config: Config, target: pathlib.Path, seen: tuple[pathlib.Path, ...], workdir: pathlib.Path) -> Config:
    """The config for this scene, guided by a DDPM that has seen those, or by an untrained one.

    Args:
      config: of any scene.
      target: folder of the scene that is classified.
      seen: folders of the scenes that the DDPM has seen; none for an untrained one.
      workdir: where pre-trainings are kept.
    """
    here = configured(config, scene__folder=str(target))
    if not seen:
        return configured(here, features__source="untrained")
    return configured(here, features__checkpoint=str(pretrained_on(config, seen, workdir / "pretrained")))


def opened(config: Config, workdir: pathlib.Path) -> Run:
    """The run of a config of `guided_by`."""
    return open_guided(config, workdir) if config.features.checkpoint else open_run(config, workdir)


def opened_split(config: Config, seed: int, workdir: pathlib.Path) -> Run:
    """The run of such a config on the split of this seed, in a folder of its own."""
    return opened(of_split(config, seed), workdir / f"seed_{seed}")


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

    The last column compares split by split: on how many of them a method is ahead of `in_scene` in AA, and a probe of
    `probe_in_scene`.
    """
    lines = []
    for record in results["scenes"]:
        lines += [
            f"| {record['scene']}, {len(record['seeds'])} seeds | OA | AA | κ | ahead of in_scene in AA |",
            "| --- | --- | --- | --- | --- |",
        ]
        for method in METHODS:
            figures, own = record["methods"][method], method.replace(method.removeprefix("probe_"), "in_scene")
            ahead = int((np.array(figures["aa"]) > record["methods"][own]["aa"]).sum())
            cells = [*(spread(figures[figure]) for figure in FIGURES), "" if method == own else ahead]
            lines.append(f"| {method} | {' | '.join(map(str, cells))} |")
        lines.append("")
    return "\n".join(lines).rstrip()


if __name__ == "__main__":
    sys.exit(main())
