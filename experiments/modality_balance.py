"""Which masking rule keeps the sensors in balance: every rule at equal steps of pre-training, over seeds.

    python experiments/modality_balance.py --config sentinel_lulc --config.scene.folder=DIR --seeds 5 --out FILE.json

A seed draws the DDPM's weights, its batches and its masks, and the splits that its features are probed on. Measured:

- `skill_visible`: 1 - MSE(x̂_0) / Var(x_0) of each modality with nothing hidden, mean over four bins of t, on one
  fixed draw of crops, timesteps and noise; `skill_hidden`: the same where that modality is hidden in all of the crop.
- `aa`, `oa`: of a logistic regression on single pixels' diffusion features, by the modalities that the DDPM sees while
  the others are hidden ("s2+s1"), mean over splits into blocks.
- `kept`: a modality's `aa` when it is all that is seen, over that of the same probe on a DDPM that was trained on this
  modality alone, by as many steps. `balance_index`: the least `kept` over the greatest; 1 is balance.
- `shapley`: each modality's mean contribution to `aa` over all orders in which modalities may join; together they
  make what all reach above chance, 1 / classes.
- `probe_oa`: `oa` with all modalities seen; `fused_oa`, with --fused: that of the whole classifier, guided by it.
- `masking`: share of each modality's pixels that was hidden, by step.

On two Sentinel tiles none of the rules raised the index beyond the spread of the seeds, nor on one of them did `alone`
on nine samples in ten (masking.ratio 0.6, masking.whole 1); on Berlin all of them lowered it and raised the ratio of
the Shapley values: `docs/results.md` says why.

The DDPM is smaller, and trained for fewer steps, than the config's (`REDUCED`); any field can be set on the command
line. Every cell (a rule and a seed) leaves a small file in --workdir and is not computed again; give the same command
with more seeds or rules. `--quick` takes the config's tiny size, two rules and one seed.
"""

import argparse
import dataclasses
import itertools
import math
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # so that it runs by its path as by its name

from bdgf_jax import configuration
from bdgf_jax.caching import use_compilation_cache
from bdgf_jax.configuration import Config
from bdgf_jax.diffusion.masking import RULES
from bdgf_jax.errors import InputError
from bdgf_jax.progress import progress
from bdgf_jax.run import open_run, read_json, write_json
from experiments.ddpm_measures import SPLITS, fused_accuracy, measure, programs
from experiments.real_scenes import configured, deviation

REDUCED = {
    "diffusion.width": 16,
    "pretrain.steps": 300,
    "pretrain.crop": 16,
    "pretrain.log_every": 10,
    "features.draws": 1,
    "features.timesteps": (100,),
    # In 300 steps about as many samples lose a modality as by the config's 0.1 from the middle of 1500 steps on.
    "masking.ratio": 0.3,
    "masking.ramp": (0.2, 0.4),
}
QUICK = ("none", "adaptive")
QUICK_SIZE = {
    "diffusion.multipliers": (1,),
    "pretrain.steps": 4,
    "pretrain.log_every": 1,
    "features.levels": (0,),
    "features.draws": 1,
    "features.timesteps": (5,),
}
COLOURS = ("#2b7bba", "#b3322c", "#5a8f3c", "#8a5fa8", "#c08a2d", "#555555", "#d684b8")


def main() -> int:
    """Computes what is missing, writes the results and draws the figure; 2 where the user can put something right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="NAME_OR_FILE")
    parser.add_argument("--rules", metavar="RULE,…", help=f"some of {', '.join(RULES)} (all)")
    parser.add_argument("--seeds", type=int, default=5, help="number of DDPMs a rule (5)")
    parser.add_argument("--fused", action="store_true", help="train the classifier too: slow")
    parser.add_argument("--quick", action="store_true", help="a trial of the program in half a minute")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.json", help="and FILE.png")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/modality_balance"), metavar="DIR")
    parser.add_argument("--name", help="what the scene is called in the results (the last part of its folder)")
    options, overrides = parser.parse_known_args()
    use_compilation_cache()
    try:
        rules = tuple(options.rules.split(",")) if options.rules else QUICK if options.quick else tuple(RULES)
        if unknown := [rule for rule in rules if rule not in RULES]:
            raise InputError(f"--rules: there is no {unknown[0]!r}; there are {', '.join(RULES)}.")
        size = QUICK_SIZE if options.quick else REDUCED
        overrides = [*(f"--config.{field}={value}" for field, value in size.items()), *overrides]
        config = configuration.load(f"{options.config}:tiny" if options.quick else options.config, overrides)
        name = options.name or pathlib.Path(config.scene.folder).name or config.scene.name
        seeds = range(1 if options.quick else options.seeds)
        results = read_json(options.out)
        measured = compare(config, rules, seeds, options.workdir / name, fused=options.fused)
    except InputError as error:
        print(f"modality_balance: {error}", file=sys.stderr)
        return 2
    results[name] = results.get(name, {}) | measured
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, results)
    print(table(name, results[name]))
    plot(results, options.out.with_suffix(".png"))
    return 0


def compare(config: Config, rules: Sequence[str], seeds: range, workdir: pathlib.Path, *, fused: bool) -> dict:
    """What was measured of each rule, by its name; see the module's docstring.

    Args:
      config: of the scene; rule and seeds are replaced.
      rules: names of the rules.
      seeds: of the DDPMs.
      workdir: keeps the runs, and what was measured of each cell.
      fused: whether the classifier is trained as well.

    Raises:
      InputError: the workdir holds cells of another configuration.
    """
    whole = open_run(config, workdir / "scene")
    alone = {name: dataclasses.replace(whole, images={name: image}) for name, image in whole.images.items()}
    shared = {tuple(run.images): programs(run) for run in (whole, *alone.values())}
    folders = {f"alone_{name}": (run, "none") for name, run in alone.items()} | {rule: (whole, rule) for rule in rules}
    cells = [(seed, folder, *folders[folder]) for seed in seeds for folder in folders]
    with progress("Balance", total=len(cells), unit="cell") as bar:
        for seed, folder, run, rule in cells:
            cell = dataclasses.replace(
                run,
                config=configured(config, masking__rule=rule, pretrain__seed=seed),
                workdir=workdir / folder / f"seed_{seed}",
            )
            once(cell.workdir / "measured.json", partial(measure, cell, seed, shared[tuple(run.images)]))
            if fused and run is whole:
                once(cell.workdir / "fused.json", partial(fused_accuracy, cell, seed))
            bar.advance()
    measured = lambda folder: [read_json(workdir / folder / f"seed_{seed}" / "measured.json") for seed in seeds]
    reference = {name: [cell["aa"][name] for cell in measured(f"alone_{name}")] for name in alone}
    results = {rule: summary(measured(rule), reference, 1 / len(whole.classes)) for rule in rules}
    for rule, result in results.items():
        files = [workdir / rule / f"seed_{seed}" / "fused.json" for seed in seeds]
        result["fused_oa"] = [read_json(file)["oa"] for file in files if file.is_file()]
        result["settings"] = {
            "seeds": list(seeds),
            "splits": SPLITS,
            "steps": config.pretrain.steps,
            "width": config.diffusion.width,
            "timesteps": list(config.features.timesteps),
            "masking": config.masking.to_dict() | {"rule": rule},
        }
    return results


def once(file: pathlib.Path, compute: Callable[[], dict]) -> None:
    """Writes what is computed into the file, unless it is there."""
    if not file.is_file():
        write_json(file, compute())


def summary(cells: Sequence[dict], reference: Mapping[str, Sequence[float]], chance: float) -> dict[str, Any]:
    """A rule's figures, a number a seed each, from what was measured of its cells.

    Args:
      cells: a record a seed.
      reference: AA of the probe on a DDPM of each modality alone, by seed.
      chance: AA of a guess.
    """
    kept = {name: [cell["aa"][name] / own for cell, own in zip(cells, by_seed)] for name, by_seed in reference.items()}
    values = [shapley(cell["aa"], tuple(reference), chance) for cell in cells]
    everything = "+".join(reference)
    by_seed = lambda name: {key: [cell[name][key] for cell in cells] for key in cells[0][name]}
    return {
        "balance_index": [round(min(each) / max(each), 6) for each in zip(*kept.values())],
        "kept": {name: [round(value, 6) for value in each] for name, each in kept.items()},
        "probe_oa": [cell["oa"][everything] for cell in cells],
        "probe_aa": [cell["aa"][everything] for cell in cells],
        "shapley": {name: [round(value[name], 6) for value in values] for name in reference},
        "skill_visible": by_seed("skill_visible"),
        "skill_hidden": by_seed("skill_hidden"),
        "aa": by_seed("aa"),
        "oa": by_seed("oa"),
        "masking": {"step": cells[0]["masking"]["step"]}
        | {name: np.mean([cell["masking"][name] for cell in cells], axis=0).round(4).tolist() for name in reference},
        "seconds": [cell["seconds"] for cell in cells],
    }


def shapley(worth: Mapping[str, float], modalities: Sequence[str], nothing: float) -> dict[str, float]:
    """phi_m = sum over S without m of |S|! (M - |S| - 1)! / M! (v(S + m) - v(S)).

    Args:
      worth: v by the modalities of S joined with "+", in their order.
      modalities: their names, in order.
      nothing: v of no modality.
    """
    count = len(modalities)
    value = lambda chosen: worth["+".join(name for name in modalities if name in chosen)] if chosen else nothing
    return {
        name: sum(
            math.factorial(len(others))
            * math.factorial(count - len(others) - 1)
            / math.factorial(count)
            * (value({*others, name}) - value(set(others)))
            for size in range(count)
            for others in itertools.combinations([other for other in modalities if other != name], size)
        )
        for name in modalities
    }


def shapley_ratio(result: dict) -> list[float]:
    """The least modality's Shapley value over the greatest's, by seed."""
    return [min(each) / max(each) for each in zip(*result["shapley"].values())]


def table(scene: str, results: Mapping[str, dict]) -> str:
    """Mean ± standard deviation over the seeds, as Markdown; accuracies in per cent.

    The last column compares seed by seed: on how many of them the rule's balance index is above that of `none`.
    """
    modalities = list(next(iter(results.values()))["kept"])
    columns = ["balance index", *(f"kept of {name}" for name in modalities)]
    columns += ["Shapley ratio", *(f"Shapley value of {name}" for name in modalities)]
    columns += ["probe OA", "probe AA", "fused OA", "index above none's"]
    lines = [f"| {scene} | {' | '.join(columns)} |", f"|{' --- |' * (len(columns) + 1)}"]
    for rule, result in results.items():
        above = "" if rule == "none" or "none" not in results else ahead(result, results["none"])
        cells = [spread(result["balance_index"], 1.0, 3)]
        cells += [spread(result["kept"][name], 1.0, 3) for name in modalities]
        cells += [spread(shapley_ratio(result), 1.0, 3)]
        cells += [spread(result["shapley"][name], 100.0, 1) for name in modalities]
        cells += [spread(result[name], 100.0, 1) for name in ("probe_oa", "probe_aa", "fused_oa")]
        lines.append(f"| {rule} | {' | '.join(cells)} | {above} |")
    return "\n".join(lines)


def ahead(result: dict, other: dict) -> str:
    """On how many of the seeds that both have the balance index is the higher one."""
    pairs = list(zip(result["balance_index"], other["balance_index"]))
    return f"{sum(mine > yours for mine, yours in pairs)} of {len(pairs)}"


def spread(values: Sequence[float], scale: float, digits: int) -> str:
    """Mean ± standard deviation, or nothing of nothing."""
    if not values:
        return ""
    return f"{scale * float(np.mean(values)):.{digits}f} ± {scale * deviation(values):.{digits}f}"


def plot(results: Mapping[str, Mapping[str, dict]], path: pathlib.Path) -> None:
    """A row a scene: balance index and Shapley ratio by rule, with their seeds, and the share hidden by step."""
    modalities = {scene: list(next(iter(rules.values()))["kept"]) for scene, rules in results.items()}
    columns = 2 + max(map(len, modalities.values()))
    figure, axes = plt.subplots(
        len(results), columns, figsize=(3.2 * columns, 2.9 * len(results)), layout="constrained", squeeze=False
    )
    for (scene, rules), (index, ratio, *panels) in zip(results.items(), axes):
        draw_by_rule(index, {rule: result["balance_index"] for rule, result in rules.items()})
        draw_by_rule(ratio, {rule: shapley_ratio(result) for rule, result in rules.items()})
        index.set(ylabel="balance index", title=scene)
        ratio.set(ylabel="Shapley ratio")
        for panel, name in zip(panels, modalities[scene]):
            for (rule, result), colour in zip(rules.items(), itertools.cycle(COLOURS)):
                panel.plot(
                    result["masking"]["step"], smooth(result["masking"][name]), color=colour, linewidth=1.2, label=rule
                )
            panel.set(title=f"{name} hidden", xlabel="step", ylim=(0, 1), ylabel="share of the pixels")
            panel.grid(alpha=0.3)
        panels[0].legend(fontsize=7)
        for panel in panels[len(modalities[scene]) :]:
            panel.set_axis_off()
    figure.savefig(path, dpi=160)
    plt.close(figure)


def draw_by_rule(axes: Axes, by_rule: Mapping[str, Sequence[float]]) -> None:
    """A figure by rule: dots are seeds, the diamond is their mean."""
    for place, (values, colour) in enumerate(zip(by_rule.values(), itertools.cycle(COLOURS))):
        axes.plot(np.full(len(values), place), values, "o", color="#9aa7b5", markersize=4)
        axes.plot(place, np.mean(values), "D", color=colour, markersize=6)
    axes.set_xticks(range(len(by_rule)), list(by_rule), rotation=30, ha="right")
    axes.grid(axis="y", alpha=0.3)


def smooth(values: Sequence[float], window: int = 5) -> np.ndarray:
    """Means over a few logged steps, since a batch holds few samples."""
    width = min(window, len(values))
    return np.convolve(np.pad(values, width // 2, mode="edge"), np.full(width, 1 / width), "same")[
        width // 2 : width // 2 + len(values)
    ]


if __name__ == "__main__":
    sys.exit(main())
