"""What a map is worth with a sensor missing: three ways of training, and a random forest that fills in means.

    python experiments/missing_sensors.py --config demo --seeds 3 --out experiments/results/missing_sensors.json

All are trained on all modalities and asked for a map without each of them in turn (`bdgf predict --without`):

- `masking_dropout`: the DDPM is pre-trained with the config's masking, and the classifier with modality dropout;
- `masking`: the same DDPM, and a classifier that has always seen everything;
- `no_masking`: `masking.rule` is none, and the classifier has always seen everything;
- `random_forest`: on bands, profiles and window statistics, those of the missing sensor filled in with the means of the
  training pixels.

Each seed draws its own split, which all methods share; a DDPM is pre-trained once, without labels. Seeds that FILE.json
holds are not run again. `--quick` is a trial of the program on the config's tiny size, which says nothing about worth.
"""

import argparse
import pathlib
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from sklearn.impute import SimpleImputer

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # so that it runs by its path as by its name

from bdgf_jax import configuration, extraction, mapping, networks
from bdgf_jax.caching import use_compilation_cache
from bdgf_jax.configuration import Config
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.metrics import FIGURES, agreement, confusion_matrix, scores
from bdgf_jax.fitting import pretrain, train
from bdgf_jax.pretrained import open_guided
from bdgf_jax.run import Run, open_run, read_json, without, write_json
from bdgf_jax.scenes.scene import Scene
from bdgf_jax.voting import voters
from experiments.baselines import BaselineFeatures, baseline_features
from experiments.real_scenes import configured, portable, spread

DROPOUT = 0.5
NOTHING = "nothing"  # is missing
# Name of the method -> fields that differ from the config's, of the DDPM and of the classifier.
METHODS: dict[str, tuple[dict, dict]] = {
    "masking_dropout": ({}, {"train__modality_dropout": DROPOUT}),
    "masking": ({}, {}),
    "no_masking": ({"masking__rule": "none"}, {}),
}
FOREST = "random_forest"
QUICK = (
    "diffusion.multipliers=(1,)",
    "features.levels=(0,)",
    "features.context.radii=(2,)",
    "features.context.windows=(3,)",
    "pretrain.steps=2",
    "classifier.branches=('cnn',)",
    "classifier.patch=3",
    "classifier.stages=2",
    "classifier.direct.landmarks=64",
    "train.steps=2",
    "train.evaluate_every=0",
)


def main(arguments: list[str] | None = None) -> int:
    """Runs the seeds that are missing and prints the table; 2 where the user can put something right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="NAME_OR_FILE")
    parser.add_argument("--seeds", type=int, default=3, help="number of splits (3)")
    parser.add_argument("--quick", action="store_true", help="one seed of the tiny configuration, a few steps")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.json")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/missing_sensors"), metavar="DIR")
    options, overrides = parser.parse_known_args(arguments)
    use_compilation_cache()
    try:
        name = f"{options.config}:tiny" if options.quick else options.config
        quick = [f"--config.{override}" for override in QUICK] if options.quick else []
        config = configuration.load(name, [*quick, *overrides])
        record = compare(config, range(1 if options.quick else options.seeds), options.workdir, options.out)
    except InputError as error:
        print(f"missing_sensors: {error}", file=sys.stderr)
        return 2
    print(table(record))
    return 0


def compare(config: Config, seeds: range, workdir: pathlib.Path, out: pathlib.Path) -> dict:
    """Scores of every method with nothing and with each sensor missing, written to `out` after each seed.

    Args:
      config: of the scene; its split and training seeds are replaced.
      seeds: of the splits.
      workdir: of the runs.
      out: results so far, and from now on.
    """
    record = read_json(out) or {"config": portable(config), "dropout": DROPOUT, "seeds": [], "methods": {}}
    for seed in [seed for seed in seeds if seed not in record["seeds"]]:
        found = {}
        for method, (of_ddpm, of_classifier) in METHODS.items():
            changed = configured(config, **of_ddpm, **of_classifier, scene__split__seed=seed, train__seed=seed)
            guided = configured(changed, features__checkpoint=str(pretrained(config, of_ddpm, workdir)))
            run = open_guided(guided, workdir / method / f"seed_{seed}")
            train(run, extraction.features(run))
            found[method] = by_sensor(run)
            found[FOREST] = found.get(FOREST) or forest(run.scene, seed)
        record["seeds"].append(seed)
        for method, by_missing in found.items():
            for missing, figures in by_missing.items():
                kept = record["methods"].setdefault(method, {}).setdefault(missing, {name: [] for name in FIGURES})
                for name in FIGURES:
                    kept[name].append(round(figures[name], 6))
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, record)
        print(table(record), flush=True)
    return record


def pretrained(config: Config, changes: dict, workdir: pathlib.Path) -> pathlib.Path:
    """The workdir of the DDPM of a config with these changes, pre-trained now where that was never done."""
    folder = workdir / ("pretrained" + "".join(f"_{value}" for value in changes.values()))
    pretrain(open_run(configured(config, **changes), folder))
    return folder


def by_sensor(run: Run) -> dict[str, dict[str, float]]:
    """Accuracies of a trained run on the test pixels, with nothing and with each sensor missing."""
    graph, parameters = networks.trained_classifier(run, extraction.features(run))
    classify, test, found = mapping.classifier_function(run, graph), run.scene.masks["test"], {}
    for missing in (NOTHING, *run.images):
        seen = run if missing == NOTHING else without(run, [missing])
        data = jax.tree.map(jnp.asarray, {"images": seen.images, "guidance": extraction.features(seen)})
        probabilities = mapping.probabilities(run, partial(classify, parameters, data), test)["fused"][test]
        found[missing] = agreement(run.scene.labels[test], probabilities)
    return found


def forest(scene: Scene, seed: int) -> dict[str, dict[str, float]]:
    """Accuracies of a random forest, with nothing and with each sensor missing from the test pixels."""
    features = baseline_features(scene)
    train, test = (features.rows[scene.masks[name]] for name in ("train", "test"))
    means = SimpleImputer(strategy="mean").fit(features.columns[train])
    model = voters(seed)["rf"]
    model.fit(features.columns[train], scene.labels[scene.masks["train"]])
    found = {}
    for number, missing in enumerate((NOTHING, *scene.modalities), start=-1):
        predicted = model.predict(means.transform(lacking(features, number)[test])).astype(np.int32)
        truth = scene.labels[scene.masks["test"]]
        found[missing] = scores(confusion_matrix(truth, predicted, len(scene.classes)))
    return found


def lacking(features: BaselineFeatures, number: int) -> Float[np.ndarray, "n f"]:
    """The columns, undefined where they are of the modality of this number; -1 for none."""
    return np.where(features.modality == number, np.float32(np.nan), features.columns)


def table(record: dict) -> str:
    """Mean ± standard deviation of the overall accuracy in per cent, a row a method, as Markdown."""
    columns = list(next(iter(record["methods"].values())))
    lines = [
        f"| OA, {len(record['seeds'])} seeds, missing: | {' | '.join(columns)} |",
        f"| --- {'| --- ' * len(columns)}|",
    ]
    for method, by_missing in record["methods"].items():
        lines.append(f"| {method} | {' | '.join(spread(by_missing[missing]['oa']) for missing in columns)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
