"""What the features know: linear probes of the U-Net by level and timestep, and pictures of the branches' features.

    python experiments/probes.py --config sentinel_lulc --config.scene.folder=DIR --seeds 5 --out FILE.json

A probe is a logistic regression on single pixels' standardised features, one level of the decoder at one timestep. It
is trained and scored on the same pixels for the pre-trained U-Net and for the same U-Net before training; their
difference is what pre-training is worth. A seed draws a split into blocks; the DDPM is trained once for a scene and
sees no labels. FILE.png shows average accuracy against the timestep.

FILE_branches.png shows the feature that each branch of the trained classifier has of a test pixel, by its two leading
principal components, in the colours of the classes: the classifier is the config's, trained on the first seed's split.
FILE.json keeps which share of the variance the two carry, and `separation`, the share of these pixels whose nearest
neighbour, in the whole feature, is of their own class (mean over the classes).

What is done is kept in --workdir and not done again; give the same command with more seeds. `--quick` takes the
config's tiny size, two timesteps and one seed.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx
from jaxtyping import Float, Int
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # so that it runs by its path as by its name

from bdgf_jax import configuration, extraction, networks
from bdgf_jax.caching import use_compilation_cache
from bdgf_jax.configuration import Config
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.metrics import FIGURES
from bdgf_jax.fitting import pretrain, train
from bdgf_jax.progress import progress
from bdgf_jax.run import Run, open_run, read_json, write_json
from bdgf_jax.scenes.loading import load_scene
from bdgf_jax.scenes.patches import gather
from bdgf_jax.scenes.scene import LandCover
from experiments.ddpm_measures import probe_scores
from experiments.modality_balance import once
from experiments.real_scenes import configured, deviation, of_split, spread

SHARES = (0.01, 0.05, 0.1, 0.2, 0.4, 0.7)  # of the DDPM's timesteps, at which features are probed
QUICK = (0.05, 0.4)
NETS = ("trained", "untrained")
QUICK_SIZE = {
    "diffusion.multipliers": (1, 1),
    "pretrain.steps": 4,
    "features.levels": (0,),
    "features.draws": 1,
    "features.context.components": 0,
    "classifier.stages": 1,
    "classifier.branches": ("cnn",),
    "train.steps": 4,
    "train.evaluate_every": 0,
}
PIXELS = 300  # of each class in the pictures, at most
COLOURS = ("#2b7bba", "#b3322c", "#5a8f3c", "#8a5fa8")


def main() -> int:
    """Probes what is missing, writes the results and draws both figures; 2 where the user can put something right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="NAME_OR_FILE")
    parser.add_argument("--seeds", type=int, default=5, help="number of splits (5)")
    parser.add_argument("--quick", action="store_true", help="a trial of the program in half a minute")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.json", help="and the two figures")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/probes"), metavar="DIR")
    parser.add_argument("--name", help="what the scene is called in the results (the last part of its folder)")
    options, overrides = parser.parse_known_args()
    use_compilation_cache()
    try:
        if options.quick:
            overrides = [*(f"--config.{field}={value}" for field, value in QUICK_SIZE.items()), *overrides]
        config = configuration.load(f"{options.config}:tiny" if options.quick else options.config, overrides)
        name = options.name or pathlib.Path(config.scene.folder).name or config.scene.name
        seeds = range(1 if options.quick else options.seeds)
        results = read_json(options.out)
        run = open_run(config, options.workdir / name / "scene")
        pretrain(run)
        shares = QUICK if options.quick else SHARES
        results[name] = probe_levels(run, seeds, shares, options.workdir / name)
        vectors, labels = branch_features(run, seeds[0], options.workdir / name)
        results[name]["branches"] = {branch: described(values, labels) for branch, values in vectors.items()}
    except InputError as error:
        print(f"probes: {error}", file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, results)
    print(table(name, results[name]))
    plot(results, options.out.with_suffix(".png"))
    plot_branches(name, vectors, labels, run.classes, options.out.with_name(f"{options.out.stem}_branches.png"))
    return 0


def probe_levels(run: Run, seeds: range, shares: Sequence[float], workdir: pathlib.Path) -> dict[str, Any]:
    """Scores of the probes of both nets, by level and timestep, a number a seed.

    Args:
      run: its DDPM is pre-trained.
      seeds: of the splits.
      shares: of the DDPM's timesteps, at which its features are probed.
      workdir: keeps the scores of each seed.
    """
    timesteps = tuple(round(share * run.config.diffusion.timesteps) for share in shares)
    levels = tuple(range(len(run.config.diffusion.multipliers)))
    config = configured(run.config, features__timesteps=timesteps, features__levels=levels)
    files = [workdir / f"seed_{seed}.json" for seed in seeds]
    if not all(file.is_file() for file in files):
        features = {}
        for net, source in zip(NETS, ("ddpm", "untrained")):
            folder = run.workdir if net == "trained" else workdir / net
            probed = configured(config, features__source=source)
            features[net] = extraction.diffusion_features(dataclasses.replace(run, config=probed, workdir=folder))
        with progress("Probes", total=len(files), unit="seed") as bar:
            for seed, file in zip(seeds, files):
                once(file, partial(probe_split, config, seed, features))
                bar.advance()
    measured = [read_json(file) for file in files]
    collect = lambda trees: (
        {key: collect([tree[key] for tree in trees]) for key in trees[0]} if isinstance(trees[0], dict) else trees
    )
    settings = {"steps": run.config.pretrain.steps, "width": run.config.diffusion.width, "seeds": list(seeds)}
    return {"settings": settings | {"timesteps": list(timesteps)}, **collect(measured)}


def probe_split(config: Config, seed: int, features: Mapping[str, tuple[np.ndarray, ...]]) -> dict[str, Any]:
    """Scores by net, level and timestep on the split of this seed."""
    scene = load_scene(configured(config, scene__split__seed=seed).scene)
    result: dict[str, Any] = {}
    for net, maps in features.items():
        for level, values in zip(config.features.levels, maps):
            for place, t in enumerate(config.features.timesteps):
                found = probe_scores(scene, (values[:, :, place : place + 1],))
                kept = {figure: round(float(found[figure]), 6) for figure in FIGURES}
                result.setdefault(net, {}).setdefault(f"level {level}", {})[str(t)] = kept
    return result


def branch_features(
    run: Run, seed: int, workdir: pathlib.Path
) -> tuple[dict[str, Float[np.ndarray, "n d"]], Int[np.ndarray, " n"]]:
    """The feature that each branch of the trained classifier has of some test pixels, and their classes.

    Args:
      run: its DDPM is pre-trained.
      seed: of the split that the classifier is trained on, and of its training.
      workdir: keeps the classifier.
    """
    guidance = extraction.features(run)
    guided = open_run(of_split(run.config, seed), workdir / f"classifier_{seed}")
    train(guided, guidance)
    graph, parameters = networks.trained_classifier(guided, guidance)
    data = jax.tree.map(jnp.asarray, {"images": guided.images, "guidance": guidance})
    centres = some_of_each_class(guided.scene.centres("test"), guided.scene.labels)

    @jax.jit
    def embed(parameters, data, centres):
        patches = gather(data, centres, guided.config.classifier.patch)
        return nnx.merge(graph, parameters)(patches["images"], patches["guidance"]).embeddings

    batch = guided.config.predict.batch_size
    padded = np.resize(centres, (-(-len(centres) // batch) * batch, 2))
    parts = [embed(parameters, data, padded[start : start + batch]) for start in range(0, len(padded), batch)]
    vectors = {name: np.concatenate([np.asarray(part[name], np.float32) for part in parts]) for name in parts[0]}
    return {name: values[: len(centres)] for name, values in vectors.items()}, guided.scene.labels[tuple(centres.T)]


def some_of_each_class(centres: Int[np.ndarray, "n 2"], labels: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "m 2"]:
    """At most `PIXELS` of these pixels of each class, spread evenly over them."""
    classes = labels[tuple(centres.T)]
    chosen = [np.flatnonzero(classes == number) for number in np.unique(classes)]
    spaced = [each[np.linspace(0, len(each) - 1, min(PIXELS, len(each))).astype(int)] for each in chosen]
    return centres[np.concatenate(spaced)]


def described(vectors: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> dict[str, Any]:
    """Share of the variance in the two leading components, and how far classes lie apart in all of them."""
    explained = PCA(2).fit(vectors).explained_variance_ratio_
    return {"explained": [round(float(share), 4) for share in explained], "separation": separation(vectors, labels)}


def separation(vectors: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> float:
    """Share of the vectors whose nearest other vector is of their own class, mean over the classes."""
    nearest = NearestNeighbors(n_neighbors=1).fit(vectors).kneighbors(return_distance=False)[:, 0]
    own = labels[nearest] == labels
    return round(float(np.mean([own[labels == number].mean() for number in np.unique(labels)])), 4)


def table(scene: str, result: Mapping[str, Any]) -> str:
    """Average accuracy in per cent, mean ± standard deviation over the seeds, as Markdown; best timestep last."""
    timesteps = [str(t) for t in result["settings"]["timesteps"]]
    lines = [f"| {scene}, AA at timestep | {' | '.join(timesteps)} |", f"|{' --- |' * (len(timesteps) + 1)}"]
    for level in result["trained"]:
        for net in NETS:
            values = [result[net][level][t]["aa"] for t in timesteps]
            cells = [spread(each) for each in values]
            lines.append(f"| {level}, {net} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(results: Mapping[str, Mapping[str, Any]], path: pathlib.Path) -> None:
    """A panel a scene: AA against the timestep, one colour a level, trained solid, untrained dashed."""
    figure, axes = plt.subplots(
        1, len(results), figsize=(2.2 + 4.0 * len(results), 3.6), layout="constrained", squeeze=False
    )
    for (scene, result), panel in zip(results.items(), axes[0]):
        timesteps = result["settings"]["timesteps"]
        for (level, colour), net in [(pair, net) for pair in zip(result["trained"], COLOURS) for net in NETS]:
            values = 100 * np.array([result[net][level][str(t)]["aa"] for t in timesteps])
            deviations = [deviation(each) for each in values]
            style = {"color": colour, "linestyle": "-" if net == "trained" else "--", "capsize": 2, "marker": "o"}
            panel.errorbar(
                range(len(timesteps)), values.mean(1), deviations, label=f"{level}, {net}", markersize=3.5, **style
            )
        panel.set(xticks=range(len(timesteps)), xticklabels=timesteps, xlabel="timestep", ylabel="AA, %", title=scene)
        panel.grid(alpha=0.3)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def plot_branches(
    scene: str,
    vectors: Mapping[str, Float[np.ndarray, "n d"]],
    labels: Int[np.ndarray, " n"],
    classes: Sequence[LandCover],
    path: pathlib.Path,
) -> None:
    """A panel a branch: its features of test pixels by their two leading principal components, coloured by class."""
    figure, axes = plt.subplots(1, len(vectors), figsize=(3.6 * len(vectors), 3.9), layout="constrained", squeeze=False)
    for (branch, values), panel in zip(vectors.items(), axes[0]):
        components = PCA(2)
        places = components.fit_transform(values)
        for number in np.unique(labels):
            member, cover = labels == number, classes[number]
            panel.plot(*places[member].T, "o", color=cover.colour, markersize=2.5, alpha=0.6, label=cover.name)
        first, second = components.explained_variance_ratio_
        panel.set(title=f"{scene}, {branch}", xlabel=f"component 1 ({first:.0%})", ylabel=f"component 2 ({second:.0%})")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=7, markerscale=2)
    figure.savefig(path, dpi=160)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
