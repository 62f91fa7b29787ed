"""BDGF and shallow classifiers on the same pixels of a real scene, over many splits.

    python experiments/real_scenes.py --config sentinel_lulc --config.scene.folder=DIR --seeds 5 --out FILE.json

Each seed draws its own split, with which every method trains on the same pixels and is scored on the same others. The
DDPM sees no labels and is trained once for a scene, so that the deviations are those of splits and of the classifiers.
`bdgf_paper` is the preset `paper`, without what is ours, on the same DDPM. `bdgf_smoothed`, `vote_smoothed` and
`lda_smoothed` are the maps of `bdgf`, of the vote that `predict.average_with_vote` takes, and of its linear
discriminant, smoothed by `predict.smoothing`, each with the radius that was best on validation blocks for the same
method, trained without these. `probe_trained` and `probe_untrained` are logistic regressions on the pixels' diffusion
features, of the pre-trained U-Net and of one as it was initialised: what pre-training is worth. What FILE.json holds is
not run again, but with `--renew`: `--renew --only bdgf,smoothed,probes` is what a change of the defaults asks for,
since the others' figures stay.
"""

import argparse
import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # so that it runs by its path as by its name

from bdgf_jax import configuration, extraction, mapping, smoothing
from bdgf_jax.caching import use_compilation_cache
from bdgf_jax.configuration import PAPER, Config
from bdgf_jax.diffusion.features import pixel_features
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.metrics import FIGURES, agreement
from bdgf_jax.fitting import pretrain, train
from bdgf_jax.run import Run, open_run, read_json, write_json
from bdgf_jax.scenes.loading import load_scene
from bdgf_jax.scenes.scene import Scene
from bdgf_jax.voting import vote
from experiments.baselines import METHODS, baseline_features, baselines

# The fields of the preset `paper`, as `configured` takes them.
PAPER_FIELDS = {field.replace(".", "__"): value for field, value in PAPER.items()}
# What is run together, and its rows in the table; where there is a context, `bdgf` has one more, `bdgf_with_vote`, and
# where there is none, `smoothed_baselines` are left out.
GROUPS = {
    "bdgf": ("bdgf",),
    "paper": ("bdgf_paper",),
    "smoothed": ("bdgf_smoothed",),
    "smoothed_baselines": ("vote_smoothed", "lda_smoothed"),
    "probes": ("probe_trained", "probe_untrained"),
    "baselines": METHODS,
}
SMOOTHING = (0, 1, 2, 4)  # radii to choose from
VALIDATION_BLOCKS = 0.3  # share of the training blocks that they are chosen on


def main() -> int:
    """Runs the seeds that are missing and prints the table; 2 where the user can put something right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="NAME_OR_FILE")
    parser.add_argument("--seeds", type=int, default=5, help="number of splits (5)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first split (0)")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.json")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/real_scenes"), metavar="DIR")
    parser.add_argument("--only", help=f"some of {', '.join(GROUPS)}, with commas between them (all)")
    parser.add_argument("--renew", action="store_true", help="run them again on the seeds that are there")
    parser.add_argument("--name", help="what the scene is called in the results (the last part of its folder)")
    options, overrides = parser.parse_known_args()
    use_compilation_cache()
    try:
        config = configuration.load(options.config, overrides)
        name = options.name or pathlib.Path(config.scene.folder).name or config.scene.name
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        groups = tuple(options.only.split(",")) if options.only else tuple(GROUPS)
        if unknown := [group for group in groups if group not in GROUPS]:
            raise InputError(f"--only: there is no {unknown[0]!r}; there are {', '.join(GROUPS)}.")
        where = {"workdir": options.workdir / name, "out": options.out}
        print(table(compare(config, name, seeds, groups, renew=options.renew, **where)))
    except InputError as error:
        print(f"real_scenes: {error}", file=sys.stderr)
        return 2
    return 0


def compare(
    config: Config,
    name: str,
    seeds: range,
    groups: Sequence[str] = tuple(GROUPS),
    *,
    renew: bool = False,
    workdir: pathlib.Path,
    out: pathlib.Path,
) -> dict:
    """Scores of every method on every seed's split, written to `out` after each seed.

    Args:
      config: of the scene; its split and training seeds are replaced.
      name: of the scene in the results.
      seeds: of the splits.
      groups: names in `GROUPS`, of what is run.
      renew: run them on seeds that are recorded too, in the place of what is there.
      workdir: of the runs.
      out: results so far, and from now on.
    """
    if not config.features.context.components:
        groups = [group for group in groups if group != "smoothed_baselines"]
    results = read_json(out) or {"scenes": []}
    record = record_of(results, name, config=portable(config), seeds=[], n_train=[], n_test=[], methods={})
    lacking = lambda seed: [group for group in groups if renew or not is_scored(record, group, seed)]
    missing = {seed: some for seed in seeds if (some := lacking(seed))}
    if not missing:
        return record
    record["config"] = portable(config)
    classifiers = prepare(config, set().union(*missing.values()), workdir)
    for seed, some in missing.items():
        began = time.monotonic()
        run = open_run(of_split(config, seed), workdir / f"seed_{seed}")
        for group in some:
            note(record, run.scene, seed, classifiers[group](run))
        print(f"{name} seed {seed}: {line(record, seed)}   ({time.monotonic() - began:.0f} s)", flush=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, results)
    return record


def is_scored(record: dict, group: str, seed: int) -> bool:
    """Whether the record of a scene holds what the methods of a group reach on the split of this seed."""
    if seed not in record["seeds"]:
        return False
    at, methods = record["seeds"].index(seed), record["methods"]
    return all(method in methods and methods[method]["aa"][at] is not None for method in GROUPS[group])


def prepare(config: Config, groups: set[str], workdir: pathlib.Path) -> dict[str, Callable[[Run], dict]]:
    """What each group needs of the scene once for all splits, and then its methods' class probabilities, given a split.

    Args:
      config: of the scene.
      groups: names in `GROUPS`.
      workdir: of the runs; the DDPM is pre-trained in it.
    """
    whole = open_run(config, workdir / "scene")
    if groups - {"smoothed_baselines", "baselines"}:
        pretrain(whole)
    # Before those of `paper`, which take their place in the workdir.
    trained = extraction.diffusion_features(whole) if groups & {"bdgf", "smoothed", "probes"} else ()
    context = extraction.context_features(whole) if groups & {"bdgf", "smoothed", "smoothed_baselines"} else ()
    guidance = (*trained, *context)
    found = {}
    if "bdgf" in groups:
        found["bdgf"] = lambda run: classify(run, guidance)
    if "smoothed" in groups:
        found["smoothed"] = lambda run: smoothed(run, guidance, {"bdgf_smoothed": network})
    if "smoothed_baselines" in groups:
        cheap = {"vote_smoothed": vote, "lda_smoothed": partial(vote, names=("lda",))}
        found["smoothed_baselines"] = lambda run: smoothed(run, context, cheap)
    if "paper" in groups:
        published = configured(config, **PAPER_FIELDS)
        published_guidance = extraction.features(dataclasses.replace(whole, config=published))

        def by_paper(run: Run) -> dict[str, np.ndarray]:
            changed = open_run(of_split(published, run.config.train.seed), run.workdir / "paper")
            return {"bdgf_paper": classify(changed, published_guidance)["bdgf"]}

        found["paper"] = by_paper
    if "probes" in groups:
        untrained = configured(config, features__source="untrained")
        control = extraction.diffusion_features(open_run(untrained, workdir / "untrained", whole.scene))
        found["probes"] = lambda run: {
            "probe_trained": probe(run.scene, trained),
            "probe_untrained": probe(run.scene, control),
        }
    if "baselines" in groups:
        features = baseline_features(load_scene(configured(config, scene__labels__minimum_test_pixels=0).scene))
        found["baselines"] = lambda run: baselines(run.scene, features, run.config.train.seed)
    return found


def of_split(config: Config, seed: int) -> Config:
    """The config on the split of this seed, by classifiers of the same seed."""
    return configured(config, scene__split__seed=seed, train__seed=seed)


def classify(run: Run, guidance: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    """BDGF's class probabilities of the test pixels, (n, k), and, with a context, of their mean with a vote."""
    train(run, guidance)
    test, voting = run.scene.masks["test"], run.config.features.context.components > 0
    shown = dataclasses.replace(run, config=configured(run.config, predict__average_with_vote=voting))
    predictions = mapping.predict(shown, guidance, where=test)
    names = {"bdgf": "network", "bdgf_with_vote": "fused"} if voting else {"bdgf": "fused"}
    return {method: predictions[name][test] for method, name in names.items()}


def smoothed(
    run: Run, guidance: tuple[np.ndarray, ...], methods: Mapping[str, Callable[..., np.ndarray]]
) -> dict[str, np.ndarray]:
    """Smoothed class probabilities of the test pixels, (n, k), by method.

    Whoever chooses a radius has not learnt from the validation blocks, as whoever then makes the map has.

    Args:
      run: of the split.
      guidance: of the scene, by level.
      methods: (run, guidance, pixels that are wanted) -> class probabilities, (h, w, k).
    """
    aside = configured(run.config, scene__split__validation_blocks=VALIDATION_BLOCKS, predict__smoothing=SMOOTHING)
    choosing, test = open_run(aside, run.workdir / "choosing"), run.scene.masks["test"]
    round_validation = smoothing.looked_at(choosing, choosing.scene.masks["validation"])
    round_test = smoothing.looked_at(choosing, test)
    found = {}
    for method, predict in methods.items():
        radius, _ = smoothing.choose_radius(choosing, predict(choosing, guidance, round_validation))
        found[method] = smoothing.smooth(run.images, predict(run, guidance, round_test), radius)[test]
    return found


def network(run: Run, guidance: tuple[np.ndarray, ...], where: np.ndarray) -> np.ndarray:
    """Class probabilities of these pixels by BDGF, trained if need be and not smoothed, (h, w, k)."""
    train(run, guidance)
    plain = dataclasses.replace(run, config=configured(run.config, predict__smoothing=()))
    return mapping.predict(plain, guidance, where=where)["fused"]


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


def note(record: dict, scene: Scene, seed: int, probabilities: dict[str, np.ndarray]) -> None:
    """Puts scores on the split of this seed into the record of its scene; what was not run there is None."""
    reference = scene.labels[scene.masks["test"]]
    if seed not in record["seeds"]:
        record["seeds"].append(seed)
        record["n_train"].append(int(scene.masks["train"].sum()))
        record["n_test"].append(len(reference))
        for kept in record["methods"].values():
            for figure in FIGURES:
                kept[figure].append(None)
    at = record["seeds"].index(seed)
    for method, values in probabilities.items():
        kept = record["methods"].setdefault(method, {figure: [None] * len(record["seeds"]) for figure in FIGURES})
        figures = agreement(reference, values)
        for figure in FIGURES:
            kept[figure][at] = round(float(figures[figure]), 6)


def line(record: dict, seed: int) -> str:
    """AA on the split of this seed in per cent, of every method that was run there."""
    at = record["seeds"].index(seed)
    reached = {method: figures["aa"][at] for method, figures in record["methods"].items()}
    return "  ".join(f"{method} {100 * value:.1f}" for method, value in reached.items() if value is not None)


def deviation(values: Sequence[float] | Float[np.ndarray, " n"]) -> float:
    """Standard deviation of a sample, 0 of a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation in per cent."""
    return f"{100 * np.mean(values):.1f} ± {100 * deviation(values):.1f}"


def table(record: dict) -> str:
    """Mean ± standard deviation over the seeds in per cent, best AA first, as Markdown.

    Only what was run on every seed has a row. The last column compares seed by seed: on how many of the splits BDGF is
    ahead of the method in AA, and in κ.
    """
    seeds = len(record["seeds"])
    methods = {method: kept for method, kept in record["methods"].items() if None not in kept["aa"]}
    ahead = lambda method, figure: int(np.sum(np.array(methods["bdgf"][figure]) > methods[method][figure]))
    lines = [
        f"| {record['scene']}, {seeds} seeds | OA | AA | κ | bdgf ahead in AA, κ |",
        "| --- | --- | --- | --- | --- |",
    ]
    for method in sorted(methods, key=lambda name: -np.mean(methods[name]["aa"])):
        compared = method != "bdgf" and "bdgf" in methods
        won = f"{ahead(method, 'aa')}, {ahead(method, 'kappa')}" if compared else ""
        lines.append(f"| {method} | {' | '.join(spread(methods[method][figure]) for figure in FIGURES)} | {won} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
