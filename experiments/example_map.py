"""Draws what a finished run of `real_scenes` made of its scene: sensors, reference, map and errors side by side.

    python experiments/example_map.py --config sentinel_lulc --config.scene.folder=DIR --out FILE.png

Takes the same --workdir as `real_scenes`, and the seed of one of its runs.
"""

import argparse
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # so that it runs by its path as by its name

from bdgf_jax import configuration, extraction, mapping
from bdgf_jax.caching import use_compilation_cache
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.metrics import confusion_matrix, scores
from bdgf_jax.evaluation.pictures import class_picture, error_picture
from bdgf_jax.run import open_run
from bdgf_jax.scenes.rendering import render_modality
from bdgf_jax.scenes.scene import Scene
from experiments.real_scenes import of_split


def main() -> int:
    """Predicts the whole scene and draws it; 2 where the user can put something right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="NAME_OR_FILE")
    parser.add_argument("--seed", type=int, default=0, help="of the run that is drawn (0)")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/real_scenes"), metavar="DIR")
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE.png")
    options, overrides = parser.parse_known_args()
    use_compilation_cache()
    try:
        config = configuration.load(options.config, overrides)
        workdir = options.workdir / (pathlib.Path(config.scene.folder).name or config.scene.name)
        guidance = extraction.features(open_run(config, workdir / "scene"))
        split = of_split(config, options.seed)
        run = open_run(split, workdir / f"seed_{options.seed}")
        probabilities = mapping.predict(run, guidance)["fused"]
    except InputError as error:
        print(f"example_map: {error}", file=sys.stderr)
        return 2
    draw(run.scene, np.where(run.scene.valid, probabilities.argmax(-1), -1).astype(np.int32), options.out)
    print(options.out)
    return 0


def draw(scene: Scene, prediction: np.ndarray, path: pathlib.Path) -> None:
    """One row of pictures with a legend of the classes and of right and wrong."""
    test = scene.masks["test"]
    figures = scores(confusion_matrix(scene.labels[test], prediction[test], len(scene.classes)))
    pictures = {name: render_modality(modality) for name, modality in scene.modalities.items()}
    pictures["reference"] = class_picture(scene.labels, scene.classes)
    pictures["map"] = class_picture(prediction, scene.classes)
    errors = f"test pixels, OA {figures['oa']:.1%}, AA {figures['aa']:.1%}"
    pictures[errors] = error_picture(scene, prediction)
    aspect = scene.shape[1] / scene.shape[0]
    figure, axes = plt.subplots(1, len(pictures), figsize=(2.6 * aspect * len(pictures), 3.2), layout="constrained")
    for axis, (title, picture) in zip(axes, pictures.items()):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    patches = [Patch(color=cover.colour, label=cover.name) for cover in scene.classes]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=9, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, facecolor="white", bbox_inches="tight", pad_inches=0.1)


if __name__ == "__main__":
    sys.exit(main())
