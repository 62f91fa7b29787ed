"""BDGF and shallow classifiers on the same pixels of a real scene, over many splits.

    python experiments/real_scenes.py --config sentinel_lulc --config.scene.folder=DIR --seeds 5 --out FILE.json

Each seed draws its own split, with which every method trains on the same pixels and is scored on the same others. The
DDPM sees no labels and is trained once for a scene, so that the deviations are those of splits and of the classifiers.
`probe_trained` and `probe_untrained` are logistic regressions on the pixels' diffusion features, of the pre-trained
U-Net and of one as it was initialised: what pre-training is worth. Seeds that FILE.json holds are not run again, or,
with `--renew`, by BDGF alone, as after a change of its defaults: the others' figures stay.
"""

import argparse
import dataclasses
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # so that it runs by its path as by its name

from bdgf_jax import configuration, extraction, mapping
from bdgf_jax.caching import use_compilation_cache
from bdgf_jax.configuration import Config
from bdgf_jax.diffusion.features import pixel_features
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.metrics import agreement
from bdgf_jax.fitting import pretrain, train
from bdgf_jax.run import Run, open_run, read_json, write_json
from bdgf_jax.scenes.loading import load_scene
from bdgf_jax.scenes.scene import Scene
from experiments.baselines import METHODS, baseline_features, baselines

FIGURES = ("oa", "aa", "kappa")


def main() -> int:
    """Runs the seeds that are missing and prints the table; 2 where the user can put something right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="NAME_OR_FILE")
    parser.add_argument("--seeds", type=int, default=5, help="number of splits (5)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first split (0)")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.json")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/real_scenes"), metavar="DIR")
    parser.add_argument("--renew", action="store_true", help="run BDGF again on the seeds that are there")
    parser.add_argument("--name", help="what the scene is called in the results (the last part of its folder)")
    options, overrides = parser.parse_known_args()
    use_compilation_cache()
    try:
        config = configuration.load(options.config, overrides)
        name = options.name or pathlib.Path(config.scene.folder).name or config.scene.name
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        compare_or_renew = renew if options.renew else compare
        print(table(compare_or_renew(config, name, seeds, options.workdir / name, options.out)))
    except InputError as error:
        print(f"real_scenes: {error}", file=sys.stderr)
        return 2
    return 0


def compare(config: Config, name: str, seeds: range, workdir: pathlib.Path, out: pathlib.Path) -> dict:
    """Scores of every method on every seed's split, written to `out` after each.

    Args:
      config: of the scene; its split and training seeds are replaced.
      name: of the scene in the results.
      seeds: of the splits.
      workdir: of the runs.
      out: results so far, and from now on.
    """
    results = read_json(out) or {"scenes": []}
    record = record_of(results, name, config=portable(config), seeds=[], n_train=[], n_test=[], methods={})
    missing = [seed for seed in seeds if seed not in record["seeds"]]
    if not missing:
        return record
    whole = open_run(config, workdir / "scene")
    pretrain(whole)
    trained = extraction.diffusion_features(whole)
    guidance = (*trained, *extraction.context_features(whole))
    untrained = configured(config, features__source="untrained")
    control = extraction.diffusion_features(open_run(untrained, workdir / "untrained", whole.scene))
    features = baseline_features(load_scene(configured(config, scene__labels__minimum_test_pixels=0).scene))
    for seed in missing:
        began = time.monotonic()
        split = configured(config, scene__split__seed=seed, train__seed=seed)
        run = open_run(split, workdir / f"seed_{seed}")
        probabilities = classify(run, guidance)
        seconds = time.monotonic() - began
        probabilities |= baselines(run.scene, features, seed, METHODS)
        probabilities["probe_trained"] = probe(run.scene, trained)
        probabilities["probe_untrained"] = probe(run.scene, control)
        note(record, run, seed, probabilities)
        print(f"{name} seed {seed}: {line(record, -1)}   (BDGF {seconds:.0f} s)", flush=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, results)
    return record


def renew(config: Config, name: str, seeds: range, workdir: pathlib.Path, out: pathlib.Path) -> dict:
    """Scores of BDGF on those of the seeds that are recorded, in the place of what is there; as of `compare` else.

    Raises:
      InputError: nothing of the scene is recorded.
    """
    results = read_json(out) or {"scenes": []}
    record = next((scene for scene in results["scenes"] if scene["scene"] == name), None)
    if record is None:
        raise InputError(f"--renew: {out} holds nothing of the scene '{name}' yet.")
    whole = open_run(config, workdir / "scene")
    pretrain(whole)
    guidance = extraction.features(whole)
    record["config"] = portable(config)
    for index, seed in enumerate(record["seeds"]):
        if seed not in seeds:
            continue
        split = configured(config, scene__split__seed=seed, train__seed=seed)
        run = open_run(split, workdir / f"seed_{seed}")
        for method, found in classify(run, guidance).items():
            nothing = {figure: [None] * len(record["seeds"]) for figure in FIGURES}
            kept, figures = record["methods"].setdefault(method, nothing), score(run.scene, found)
            for figure in FIGURES:
                kept[figure][index] = figures[figure]
        print(f"{name} seed {seed}: {line(record, index)}", flush=True)
        write_json(out, results)
    # What is new and was not run on all seeds has no mean over them.
    record["methods"] = {method: kept for method, kept in record["methods"].items() if None not in kept["aa"]}
    write_json(out, results)
    return record


def classify(run: Run, guidance: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    """BDGF's class probabilities of the test pixels, (n, k), and, with a context, of their mean with a vote."""
    train(run, guidance)
    test, voting = run.scene.masks["test"], run.config.features.context.components > 0
    shown = dataclasses.replace(run, config=configured(run.config, predict__average_with_vote=voting))
    predictions = mapping.predict(shown, guidance, where=test)
    names = {"bdgf": "network", "bdgf_with_vote": "fused"} if voting else {"bdgf": "fused"}
    return {method: predictions[name][test] for method, name in names.items()}


def configured(config: Config, **fields) -> Config:
    """A copy of the config with these fields replaced, `section__field=value`."""
    changed = config.copy_and_resolve_references()
    # The copy sorts by name; modalities stay in the order that the config gives.
    changed.scene.modalities = ConfigDict(config.scene.modalities.to_dict(), sort_keys=False)
    changed.update_from_flattened_dict({field.replace("__", "."): value for field, value in fields.items()})
    return changed


def portable(config: Config) -> dict[str, Any]:
    """The config as records keep it: of the scene's folder, its name and not where it lies on this machine."""
    return configured(config, scene__folder=pathlib.Path(config.scene.folder).name).to_dict()


def record_of(results: dict[str, Any], scene: str, **empty: Any) -> dict[str, Any]:
    """What the results hold of a scene; begun with these entries, and put there, where they hold nothing of it."""
    record = next((record for record in results["scenes"] if record["scene"] == scene), None)
    if record is None:
        record = {"scene": scene, **empty}
        results["scenes"].append(record)
    return record


def probe(scene: Scene, guidance: tuple[np.ndarray, ...]) -> np.ndarray:
    """Probabilities at the test pixels by a logistic regression on the features of the training pixels, (n, k)."""
    pixels = lambda mask: pixel_features(guidance, scene.masks[mask])
    model = LogisticRegression(C=0.01, max_iter=500).fit(pixels("train"), scene.labels[scene.masks["train"]])
    probabilities = np.zeros((scene.masks["test"].sum(), len(scene.classes)), np.float32)
    probabilities[:, model.classes_] = model.predict_proba(pixels("test"))
    return probabilities


def note(record: dict, run: Run, seed: int, probabilities: dict[str, np.ndarray]) -> None:
    """Adds a seed's scores to the record of its scene."""
    scene = run.scene
    reference = scene.labels[scene.masks["test"]]
    record["seeds"].append(seed)
    record["n_train"].append(int(scene.masks["train"].sum()))
    record["n_test"].append(len(reference))
    for method, values in probabilities.items():
        kept = record["methods"].setdefault(method, {figure: [] for figure in FIGURES})
        for figure, value in score(scene, values).items():
            kept[figure].append(value)


def score(scene: Scene, probabilities: np.ndarray) -> dict[str, float]:
    """OA, AA and κ of class probabilities of the test pixels."""
    found = agreement(scene.labels[scene.masks["test"]], probabilities)
    return {figure: round(float(found[figure]), 6) for figure in FIGURES}


def line(record: dict, index: int) -> str:
    """One seed's AA by method, in per cent."""
    return "  ".join(f"{method} {100 * figures['aa'][index]:.1f}" for method, figures in record["methods"].items())


def deviation(values: Sequence[float] | Float[np.ndarray, " n"]) -> float:
    """Standard deviation of a sample, 0 of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation in per cent."""
    return f"{100 * np.mean(values):.1f} ± {100 * deviation(values):.1f}"


def table(record: dict) -> str:
    """Mean ± standard deviation over the seeds in per cent, best AA first, as Markdown.

    The last column compares seed by seed: on how many of the splits BDGF is ahead of the method in AA, and in κ.
    """
    methods, seeds = record["methods"], len(record["seeds"])
    ahead = lambda method, figure: int(np.sum(np.array(methods["bdgf"][figure]) > methods[method][figure]))
    lines = [
        f"| {record['scene']}, {seeds} seeds | OA | AA | κ | bdgf ahead in AA, κ |",
        "| --- | --- | --- | --- | --- |",
    ]
    for method in sorted(methods, key=lambda name: -np.mean(methods[name]["aa"])):
        won = "" if method == "bdgf" else f"{ahead(method, 'aa')}, {ahead(method, 'kappa')}"
        lines.append(f"| {method} | {' | '.join(spread(methods[method][figure]) for figure in FIGURES)} | {won} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
