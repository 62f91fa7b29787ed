"""The last stretches of the road: a map is scored, and all that the run left is shown in one page."""

import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from bdgf_jax import configuration, mapping, memory, networks, smoothing, voting
from bdgf_jax.diffusion.sampling import sample
from bdgf_jax.diffusion.schedule import noise_schedule
from bdgf_jax.evaluation.assessment import assess
from bdgf_jax.evaluation.literature_protocol import selected_on_test
from bdgf_jax.evaluation.maps import read_absent, read_map_of, read_shares
from bdgf_jax.evaluation.metrics import FIGURES, agreement
from bdgf_jax.evaluation.pictures import crop_centres
from bdgf_jax.evaluation.report import Drawings, write_report
from bdgf_jax.evaluation.significance import mcnemar
from bdgf_jax.run import Run, read_json, write_json
from bdgf_jax.scenes.patches import gather
from bdgf_jax.scenes.statistics import invert_band_transform


def evaluate(run: Run, map_file: pathlib.Path | None = None, predict_seconds: float | None = None) -> dict[str, Any]:
    """Scores a map on the test pixels and writes `metrics.json`.

    Args:
      run: its test pixels are the reference.
      map_file: the run's own map by default.
      predict_seconds: how long the prediction took, where it was just made.

    Raises:
      InputError: there is no such map, it does not fit the scene, or there is no test pixel.
    """
    prediction = read_map_of(run.scene, map_file or run.workdir / mapping.MAP)
    before = read_json(run.workdir / "metrics.json").get("seconds", {})
    seconds = {
        "pretrain": _training_seconds(run, "pretrain"),
        "features": read_json(run.workdir / "features" / "features.json").get("seconds"),
        "train": _training_seconds(run, "train"),
        "predict": before.get("predict") if predict_seconds is None else predict_seconds,
    }
    confidence, disagreement = read_certainty(run, map_file)
    metrics = assess(
        run.scene,
        prediction,
        patch=configuration.side_seen(run.config),
        block=run.config.scene.split.block,
        probability_sample=run.config.evaluate.probability_sample,
        confidence=confidence,
        disagreement=disagreement,
    )
    literature = run.config.evaluate.literature_protocol and map_file is None
    metrics["literature_protocol"] = selected_on_test(_read_log(run, "train")) if literature else None
    metrics["against_own_map"] = _against_own_map(run, prediction) if map_file else None
    metrics["members"] = None if map_file else (read_json(run.workdir / mapping.MEMBERS) or None)
    metrics["vote"] = None if map_file else (read_json(run.workdir / voting.FILE) or None)
    metrics["smoothing"] = None if map_file else (read_json(run.workdir / smoothing.FILE) or None)
    metrics["without"] = read_absent(map_file or run.workdir / mapping.MAP)
    metrics |= {"seed": run.config.train.seed, "seconds": seconds, "peak_bytes": read_json(run.workdir / memory.FILE)}
    write_json(run.workdir / "metrics.json", metrics)
    return metrics


def score_members(run: Run, guidance: tuple[np.ndarray, ...]) -> None:
    """Notes in `members.json` how each of the classifiers that were trained together does on the test pixels by itself.

    Nothing is noted of a single classifier, nor without test pixels.

    Args:
      run: its classifiers are trained.
      guidance: diffusion features of the scene, by level.
    """
    (run.workdir / mapping.MEMBERS).unlink(missing_ok=True)  # of an earlier prediction
    seeds, test = networks.seeds(run.config), run.scene.masks["test"]
    if len(seeds) == 1 or not test.any():
        return
    graph, parameters = networks.trained_classifier(run, guidance)
    data = jax.tree.map(jnp.asarray, {"images": run.images, "guidance": guidance})
    classify = mapping.classifier_function(run, graph, tuple(run.config.predict.branches) or None, alone=True)
    found = []
    for member in networks.separate(parameters, run.config):
        probabilities = mapping.probabilities(run, partial(classify, member, data), test)["fused"][test]
        found.append(agreement(run.scene.labels[test], probabilities))
    record = {figure: _spread([one[figure] for one in found]) for figure in FIGURES}
    write_json(run.workdir / mapping.MEMBERS, {"seeds": list(seeds), **record})


def score_vote(run: Run, predictions: Mapping[str, Float[np.ndarray, "h w k"]]) -> None:
    """Notes in `vote.json` how network and vote do on the test pixels, each by itself, where a map is their mean.

    Args:
      run: its workdir takes the file.
      predictions: what `mapping.predict` gave.
    """
    (run.workdir / voting.FILE).unlink(missing_ok=True)  # of an earlier prediction
    test = run.scene.masks["test"]
    if "vote" not in predictions or not test.any():
        return
    write_json(run.workdir / voting.FILE, {name: _figures(run, predictions[name]) for name in ("network", "vote")})


def score_smoothing(run: Run, predictions: Mapping[str, Float[np.ndarray, "h w k"]]) -> None:
    """Notes in `smoothing.json` which radius a map was smoothed with, and how it does on the test pixels without.

    Args:
      run: its workdir takes the file.
      predictions: what `mapping.predict` gave.
    """
    (run.workdir / smoothing.FILE).unlink(missing_ok=True)  # of an earlier prediction
    test = run.scene.masks["test"]
    if "rough" not in predictions or not test.any():
        return
    radius, reached = smoothing.choose_radius(run, predictions["rough"])
    without = _figures(run, predictions["rough"])
    write_json(run.workdir / smoothing.FILE, {"radius": radius, "validation_aa": reached, "without": without})


def _figures(run: Run, probabilities: Float[np.ndarray, "h w k"]) -> dict[str, float]:
    """OA, AA and κ on the test pixels."""
    test = run.scene.masks["test"]
    found = agreement(run.scene.labels[test], probabilities[test])
    return {figure: found[figure] for figure in FIGURES}


def _spread(values: list[float]) -> dict[str, Any]:
    """Each value, their mean and the standard deviation of the sample; None where a value is undefined."""
    defined = [None if math.isnan(value) else value for value in values]
    known = None not in defined
    return {
        "mean": float(np.mean(values)) if known else None,
        "deviation": float(np.std(values, ddof=1)) if known else None,
        "values": defined,
    }


def _against_own_map(run: Run, other: Int[np.ndarray, "h w"]) -> dict[str, Any] | None:
    """McNemar's test of another map and the run's own at the test pixels; None where the run has none yet."""
    if not (run.workdir / mapping.MAP).is_file():
        return None
    maps = (run.scene.labels, other, read_map_of(run.scene, run.workdir / mapping.MAP))
    return mcnemar(*(values[run.scene.masks["test"]] for values in maps))


def read_certainty(run: Run, map_file: pathlib.Path | None) -> list[Float[np.ndarray, "h w"] | None]:
    """Confidence, and disagreement of the branches; None where not known, as of any map but the run's own."""
    own = map_file is None or map_file.resolve() == (run.workdir / mapping.MAP).resolve()
    files = [run.workdir / mapping.CONFIDENCE, run.workdir / mapping.UNCERTAINTY]
    return [read_shares(path)[..., 0] if own and path.is_file() else None for path in files]


def report(run: Run, metrics: dict[str, Any], map_file: pathlib.Path | None = None) -> pathlib.Path:
    """Writes `report.html`, everything that the run left in one page; where it lies.

    Args:
      run: with its maps written.
      metrics: of the map that is shown.
      map_file: the run's own map by default; another one's confidence is not known.
    """
    prediction = read_map_of(run.scene, map_file or run.workdir / mapping.MAP)
    confidence, disagreement = read_certainty(run, map_file)
    drawings = _drawings(run) if run.config.features.source == "ddpm" else Drawings()
    path = run.workdir / "report.html"
    write_report(
        path,
        scene=run.scene,
        prediction=prediction,
        confidence=confidence,
        disagreement=disagreement,
        metrics=metrics,
        pretrain_log=_read_log(run, "pretrain"),
        train_log=_read_log(run, "train"),
        drawings=drawings,
        config=run.config.to_dict(),
        notes=[tell(metrics[about]) for about, tell in NOTES.items() if metrics[about]],
    )
    return path


def told_absent(names: Sequence[str]) -> str:
    """That a map was made without these modalities."""
    return f"The map was made without {', '.join(names)}: hidden from the diffusion model, and 0 to the classifier."


def told_vote(figures: Mapping[str, Mapping[str, float]]) -> str:
    """That a map is a mean with a vote, and how accurate either is by itself."""
    of = lambda name: f"{figures[name]['oa']:.1%} (average {figures[name]['aa']:.1%}, κ {figures[name]['kappa']:.3f})"
    return (
        "The map is the mean of the network, which alone has an overall accuracy of"
        f" {of('network')}, and of a vote of a linear discriminant, a random forest and boosting on the context, which"
        f" is no part of BDGF and alone has {of('vote')}."
    )


def told_smoothing(found: Mapping[str, Any]) -> str:
    """With which radius a map was smoothed, why that one, and how accurate it is without."""
    reached, rough = found["validation_aa"], found["without"]
    listed = ", ".join(f"{radius} {aa:.1%}" for radius, aa in reached.items())
    if not found["radius"]:
        better = f": no radius did better on the validation pixels (average accuracy: {listed})" if reached else ""
        return f"The map was not smoothed{better}."
    chosen = f", the best by its average accuracy on the validation pixels ({listed})" if reached else ""
    smoothed = (
        f"The map's probabilities were smoothed along the images' edges with a radius of {found['radius']}{chosen}."
    )
    if not rough:  # by windows, which see no labels
        return smoothed
    return (
        f"{smoothed} Without that its overall accuracy is {rough['oa']:.1%} (average {rough['aa']:.1%},"
        f" κ {rough['kappa']:.3f})."
    )


NOTES: dict[str, Callable[[Any], str]] = {"without": told_absent, "vote": told_vote, "smoothing": told_smoothing}
"""What a report says of how a map was made, by the metric that knows it."""


def _drawings(run: Run) -> Drawings:
    """Draws from the DDPM: places that do not exist, and, where there are several modalities, what all but the second
    look like at real places of which the DDPM sees the second alone."""
    config, count, side = run.config, run.config.report.samples, run.config.pretrain.crop
    graph, parameters = networks.denoiser(run)
    settings = {
        "target": config.diffusion.target,
        "shape": (count, side, side),
        "channels": run.channels,
        "steps": config.report.sampling_steps,
    }

    @jax.jit
    def draw(parameters, key, given):
        schedule = noise_schedule(config.diffusion.schedule, config.diffusion.timesteps)
        return sample(nnx.merge(graph, parameters), schedule, key=key, given=given, **settings)

    centres = jnp.asarray(crop_centres(run.scene.valid, side=side, count=count))
    real = gather(jax.tree.map(jnp.asarray, run.images), centres, side)
    key = jax.random.key(config.pretrain.seed)
    units = lambda images: {
        name: invert_band_transform(run.transforms[name], np.asarray(images[name])) for name in run.scene.modalities
    }
    crops, samples = units(real), units(draw(parameters, key, {}))
    if len(crops) < 2:
        return Drawings(crops, samples)
    seen = list(crops)[1]
    translated = units(draw(parameters, key, {seen: real[seen]}))
    return Drawings(crops, samples, seen, {name: image for name, image in translated.items() if name != seen})


def _read_log(run: Run, stretch: str) -> list[dict[str, Any]]:
    path = run.workdir / stretch / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _training_seconds(run: Run, stretch: str) -> float | None:
    log = _read_log(run, stretch)
    return log[-1]["seconds"] if log else None
