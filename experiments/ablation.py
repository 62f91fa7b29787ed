"""What each part of the method is worth: one part changed at a time, on the same splits, pixels and pre-trained DDPM.

    python experiments/ablation.py --config sentinel_lulc --config.scene.folder=DIR --seeds 5 --out FILE.json

A variant is the default with a few fields changed (`VARIANTS`). `paper` switches on what the paper's abstract names and
switches off what is ours. Every variant trains on the same pixels of a seed's split and is scored on the same others;
McNemar's test compares its maps with the default's, on the test pixels of all seeds together. The DDPM is pre-trained
once, with the default, and once more for each variant that changes how. What is done to probabilities afterwards is
done to those of the default's classifiers. Since the direct head has most of the say, the mean of the branches is
scored without it too (`branches_oa` …). The default's branches are also scored one by one and in pairs as they come out
of the training together, as `predict.branches` would show them. What FILE.json holds is not run again, so that the
command may be stopped and given anew, with more seeds or variants. `--quick` runs two of them in the tiny
configuration.
"""

import argparse
import dataclasses
import itertools
import pathlib
import sys
import time

import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # so that it runs by its path as by its name

from bdgf_jax import configuration, extraction, mapping
from bdgf_jax.caching import use_compilation_cache
from bdgf_jax.configuration import Config
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.metrics import FIGURES, agreement
from bdgf_jax.evaluation.significance import mcnemar, told_p
from bdgf_jax.fitting import pretrain, train
from bdgf_jax.run import Run, open_run, read_json, write_json
from experiments.afterwards import AFTERWARDS
from experiments.real_scenes import PAPER_FIELDS, configured, deviation, of_split, record_of, spread

PLAIN = {f"classifier__guidance__{branch}": "concatenation" for branch in ("cnn", "mamba", "transformer")}
# Name of the part -> name of the variant -> fields that differ from the default's.
VARIANTS: dict[str, dict[str, dict]] = {
    "presets": {"default": {}, "paper": PAPER_FIELDS},
    "guides": {
        "no features": {"features__source": "none"},
        "no context": {"features__context__components": 0},
        "no features, no context": {"features__source": "none", "features__context__components": 0},
        "untrained U-Net": {"features__source": "untrained"},
        "one draw of noise": {"features__draws": 1},
        "coarsest level": {"features__levels": (0,)},
        "middle level": {"features__levels": (1,)},
        "all levels": {"features__levels": (0, 1, 2), "classifier__stages": 4},
        "timestep 50": {"features__timesteps": (50,)},
        "timestep 200": {"features__timesteps": (200,)},
        "timestep 600": {"features__timesteps": (600,)},
        "timesteps 50, 100, 400": {"features__timesteps": (50, 100, 400)},
    },
    "branches": {
        "CNN": {"classifier__branches": ("cnn",)},
        "Mamba": {"classifier__branches": ("mamba",)},
        "transformer": {"classifier__branches": ("transformer",)},
        "CNN, Mamba": {"classifier__branches": ("cnn", "mamba")},
        "CNN, transformer": {"classifier__branches": ("cnn", "transformer")},
        "Mamba, transformer": {"classifier__branches": ("mamba", "transformer")},
        "no direct head": {"classifier__direct__landmarks": 0},
        "no linear discriminant": {"classifier__direct__discriminant": 0.0},
    },
    "guidance": {
        "all by concatenation": PLAIN,
        "CNN by concatenation": {"classifier__guidance__cnn": "concatenation"},
        "Mamba by concatenation": {"classifier__guidance__mamba": "concatenation"},
        "Mamba by channel cross-attention": {"classifier__guidance__mamba": "channel_cross_attention"},
        "transformer by concatenation": {"classifier__guidance__transformer": "concatenation"},
    },
    "mutual learning": {
        "no mutual learning": {"classifier__mutual__entropy": 0.0, "classifier__mutual__similarity": 0.0},
        "entropy only": {"classifier__mutual__similarity": 0.0},
        "similarity only": {"classifier__mutual__entropy": 0.0},
        "relational similarity": {"classifier__mutual__kind": "relational"},
    },
    "levers": {
        "no masking": {"masking__rule": "none"},
        "longer pre-training": {"pretrain__steps": 4500},
        "batches as they come": {"train__class_balance": "none"},
        "mean over five seeds": {"train__num_seeds": 5},
        "no jitter": {"train__jitter": 0.0},
        "aligned on unlabelled patches": {"classifier__mutual__unlabelled": 1},
    },
    "afterwards": {"smoothed, radius 2": {"predict__smoothing": (2,)}, **{name: {} for name in AFTERWARDS}},
    "scan": {"four directions": {"classifier__directions": "four"}, "square": {"classifier__convolution": "square"}},
    "patches": {
        "patch 11": {"classifier__patch": 11},
        "stride 1": {"classifier__centre": 1, "classifier__patch": 5},
        "stride 3": {"classifier__centre": 3, "classifier__patch": 5},
        "stride 5": {"classifier__centre": 5, "classifier__patch": 7},  # the default
        "stride 7": {"classifier__centre": 7, "classifier__patch": 9},
        "stride 5, patch 9": {"classifier__centre": 5, "classifier__patch": 9},
    },
    "precision": {"bfloat16": {"diffusion__dtype": "bfloat16", "classifier__dtype": "bfloat16"}},
}
ALONE = tuple(f"branches_{figure}" for figure in FIGURES)  # figures of the branches without the direct head
PRETRAINING = ("diffusion__", "masking__", "pretrain__")
CHANGES = {name: changes for variants in VARIANTS.values() for name, changes in variants.items()}
QUICK = ("default", "CNN")


def main() -> int:
    """Runs what is missing, prints the table and draws the figure; 2 where the user can put something right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="NAME_OR_FILE")
    parser.add_argument("--seeds", type=int, default=5, help="number of splits (5)")
    parser.add_argument("--variants", help="names with semicolons between them (all)")
    parser.add_argument("--quick", action="store_true", help="one seed and two variants of the tiny configuration")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.json")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/ablation"), metavar="DIR")
    options, overrides = parser.parse_known_args()
    use_compilation_cache()
    try:
        names = tuple(options.variants.split(";")) if options.variants else QUICK if options.quick else tuple(CHANGES)
        if unknown := [name for name in names if name not in CHANGES]:
            raise InputError(f"--variants: there is no {unknown[0]!r}; there are {'; '.join(CHANGES)}.")
        config = configuration.load(f"{options.config}:tiny" if options.quick else options.config, overrides)
        scene = pathlib.Path(config.scene.folder).name or config.scene.name
        seeds = range(1 if options.quick else options.seeds)
        record = ablate(config, scene, seeds, ("default", *names), options.workdir / scene, options.out)
    except InputError as error:
        print(f"ablation: {error}", file=sys.stderr)
        return 2
    print(table(record))
    plot(record, options.out.with_suffix(".png"))
    return 0


def ablate(
    config: Config, scene: str, seeds: range, variants: tuple[str, ...], workdir: pathlib.Path, out: pathlib.Path
) -> dict:
    """Scores every variant on every seed's split, written to `out` after each.

    Args:
      config: of the default; its split and training seeds are replaced.
      scene: its name in the results.
      seeds: of the splits.
      variants: names in `CHANGES`, the default first.
      workdir: of the runs; it keeps every map's test pixels, by which variants are compared.
      out: results so far, and from now on.
    """
    results = read_json(out) or {"scenes": []}
    record = record_of(results, scene, variants={}, subsets={})
    for name in dict.fromkeys(variants):
        kept = record["variants"].setdefault(name, {"seeds": [], **{figure: [] for figure in (*FIGURES, *ALONE)}})
        missing = [seed for seed in seeds if seed not in kept["seeds"]]
        changed = configured(config, **CHANGES[name])
        guidance = guide(config, changed, name, workdir) if missing else ()
        for seed in missing:
            began = time.monotonic()
            trained = "default" if name in VARIANTS["afterwards"] else name
            run = open_run(of_split(changed, seed), workdir / slug(trained) / f"seed_{seed}")
            train(run, guidance)
            test, predict = run.scene.masks["test"], AFTERWARDS.get(name, mapping.predict)
            predictions = {branch: values[test] for branch, values in predict(run, guidance, where=test).items()}
            reference, predicted = run.scene.labels[test], predictions["fused"].argmax(-1).astype(np.int32)
            pixels = pixels_file(workdir, name, seed)
            pixels.parent.mkdir(parents=True, exist_ok=True)
            np.savez(pixels, reference=reference, predicted=predicted)
            figures = agreement(reference, predictions["fused"])
            alone = agreement(
                reference, np.mean([predictions[name] for name in run.config.classifier.branches], axis=0)
            )
            kept["seeds"].append(seed)
            for figure, without_head in zip(FIGURES, ALONE):
                kept[figure].append(round(float(figures[figure]), 6))
                kept[without_head].append(round(float(alone[figure]), 6))
            if name == "default":
                for branches, oa in subset_accuracies(run, predictions).items():
                    record["subsets"].setdefault(branches, []).append(oa)
            print(
                f"{scene} {name} seed {seed}: AA {figures['aa']:.1%}   ({time.monotonic() - began:.0f} s)", flush=True
            )
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, results)
        if name != "default":
            kept["mcnemar"] = compared_with_default(workdir, name, kept["seeds"])
    write_json(out, results)
    return record


def guide(config: Config, changed: Config, name: str, workdir: pathlib.Path) -> tuple[np.ndarray, ...]:
    """The guidance of a variant, from the DDPM of the default or, where the variant pre-trains otherwise, from its own.

    Args:
      config: of the default.
      changed: of the variant.
      name: of the variant.
      workdir: that both are pre-trained in.
    """
    own = any(field.startswith(PRETRAINING) for field in CHANGES[name])
    run = open_run(changed if own else config, workdir / (slug(name) if own else "") / "scene")
    if changed.features.source == "ddpm":
        pretrain(run)
    return extraction.features(dataclasses.replace(run, config=changed))


def subset_accuracies(run: Run, predictions: dict[str, np.ndarray]) -> dict[str, float]:
    """OA by some of the branches that were trained together, and by the direct head, where there is one, beside them.

    Args:
      run: of the predictions.
      predictions: class probabilities of its test pixels by branch.
    """
    reference, found = run.scene.labels[run.scene.masks["test"]], {}
    names = tuple(run.config.classifier.branches)
    for branches in [some for count in range(1, len(names) + 1) for some in itertools.combinations(names, count)]:
        fused = np.mean([predictions[name] for name in branches], axis=0)
        if "direct" in predictions:
            share = run.config.classifier.direct.share
            fused = share * predictions["direct"] + (1.0 - share) * fused
        found[", ".join(branches)] = round(float((fused.argmax(-1) == reference).mean()), 6)
    return found


def compared_with_default(workdir: pathlib.Path, name: str, seeds: list[int]) -> dict:
    """McNemar's test of a variant's maps (first) against the default's (second), over the test pixels of all seeds."""
    maps = [[np.load(pixels_file(workdir, which, seed)) for seed in seeds] for which in (name, "default")]
    reference = np.concatenate([pixels["reference"] for pixels in maps[0]]).astype(np.int32)
    return mcnemar(reference, *(np.concatenate([pixels["predicted"] for pixels in each]) for each in maps))


def pixels_file(workdir: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """Where the classes of the test pixels lie, on the ground and on the map."""
    return workdir / slug(name) / f"seed_{seed}" / "test_pixels.npz"


def slug(name: str) -> str:
    """The variant's name as a folder's."""
    return name.lower().replace(",", "").replace(" ", "_")


def table(record: dict) -> str:
    """Mean ± standard deviation in per cent by part, and mean differences from the default over the same seeds."""
    lines = [
        f"| {record['scene']} | OA | AA | κ | OA, AA against default | the same of the branches alone"
        " | pixels won, lost, McNemar's p |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for part, names in VARIANTS.items():
        present = [name for name in names if name in record["variants"]]
        lines += [f"| **{part}** |  |  |  |  |  |  |"] if present else []
        for name in present:
            kept = record["variants"][name]
            cells = [spread(kept[figure]) for figure in FIGURES]
            for figures in (FIGURES[:2], ALONE[:2]):
                known = name != "default" and figures[0] in kept and figures[0] in record["variants"]["default"]
                points = [differences(record, name, figure) for figure in figures] if known else []
                changed = np.any(points)  # not by what is done to the fused probabilities alone
                cells.append(", ".join(f"{each.mean():+.1f} ± {deviation(each):.1f}" for each in points if changed))
            test = kept.get("mcnemar")
            cells.append(
                f"{test['only_first']}, {test['only_second']}, {told_p(test['p']).removeprefix('= ')}" if test else ""
            )
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(record: dict, name: str, figure: str) -> np.ndarray:
    """A figure of a variant less that of the default, a number a seed, in points."""
    variant, default = record["variants"][name], record["variants"]["default"]
    at = [default["seeds"].index(seed) for seed in variant["seeds"]]
    return 100.0 * (np.array(variant[figure]) - np.array(default[figure])[at])


def plot(record: dict, path: pathlib.Path) -> None:
    """A row a variant: the difference in AA on each seed, and its mean."""
    names = [name for name in CHANGES if name in record["variants"] and name != "default"]
    figure, axes = plt.subplots(figsize=(7.0, 0.9 + 0.26 * len(names)), layout="constrained")
    for row, name in enumerate(names):
        points = differences(record, name, "aa")
        axes.plot(points, np.full(len(points), row), "o", color="#9aa7b5", markersize=4)
        axes.plot(points.mean(), row, "D", color="#b3322c", markersize=5)
    axes.axvline(0.0, color="#444444", linewidth=0.8)
    axes.set(
        yticks=range(len(names)), yticklabels=names, xlabel="AA against the default, points", title=record["scene"]
    )
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=160)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
