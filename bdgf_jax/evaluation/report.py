"""The report of a run: one HTML file that needs no other, readable on a desk, on a phone, by day and by night."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.colors
import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup

import bdgf_jax
from bdgf_jax.evaluation import pictures
from bdgf_jax.evaluation.charts import curves, line_chart
from bdgf_jax.evaluation.metrics import users_accuracy
from bdgf_jax.evaluation.reliability_diagram import reliability_diagram
from bdgf_jax.evaluation.significance import told_p
from bdgf_jax.scenes.drawing import clearest
from bdgf_jax.scenes.rendering import render_modality
from bdgf_jax.scenes.scene import LandCover, Modality, Scene, class_counts

MOST_SAMPLES = 8
KINDS = {"sar": "SAR"}

Images = Mapping[str, Float[np.ndarray, "_ _ _ _"]]
"""Several images of each modality, in the sensors' units, all bands; the ith of all modalities show one place."""


@dataclasses.dataclass(frozen=True)
class Drawings:
    """What was drawn from the DDPM, and real crops beside it; nothing where none was trained.

    Attributes:
      crops: of the scene.
      samples: places that do not exist.
      seen: the modality of which the real crops were shown to the DDPM, for
      translated: what it drew of the others.
    """

    crops: Images = dataclasses.field(default_factory=dict)
    samples: Images = dataclasses.field(default_factory=dict)
    seen: str = ""
    translated: Images = dataclasses.field(default_factory=dict)


def write_report(
    path: Path,
    *,
    scene: Scene,
    prediction: Int[np.ndarray, "h w"],
    confidence: Float[np.ndarray, "h w"] | None,
    disagreement: Float[np.ndarray, "h w"] | None,
    metrics: Mapping[str, Any],
    pretrain_log: Sequence[Mapping[str, Any]],
    train_log: Sequence[Mapping[str, Any]],
    drawings: Drawings,
    config: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> None:
    """Writes the report of a run.

    Args:
      path: the HTML file.
      scene: what was mapped.
      prediction: class of each pixel, -1 for nodata.
      confidence: probability of that class, None where it is not known.
      disagreement: of the branches, None where it is not known.
      metrics: what `metrics.json` holds.
      pretrain_log: lines of the pre-training log; of their terms "loss/…", "masking/…" and "skill/…" are drawn.
      train_log: lines of the classifier's log; "loss/…" and "validation/…" are drawn.
      drawings: images drawn from the DDPM, and real ones; none if it was not trained.
      config: the resolved configuration.
      notes: remarks for the reader, shown before those that were found while the scene was read.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "count": count, "duration": duration, "size": size}
    environment.filters |= {"sentence": sentence, "told_p": told_p}
    maps = _maps(scene, prediction, confidence, disagreement)
    drawn = {name: _rendering(modality) for name, modality in scene.modalities.items()}
    modalities = {
        name: _modality(index, name, modality, drawn[name])
        for index, (name, modality) in enumerate(scene.modalities.items())
    }
    text = environment.get_template("report.html.j2").render(
        version=bdgf_jax.__version__,
        scene=scene,
        metrics=metrics,
        headline=_headline(metrics),
        aspect=scene.shape[1] / scene.shape[0],
        legend=_legend(scene.classes, confidence, disagreement),
        layers=[*modalities.values(), *maps],
        ground=modalities[clearest(scene, drawn)]["uri"],
        maps=maps,
        modalities=list(modalities.values()),
        classes=_class_rows(scene, metrics),
        areas=metrics["area_adjusted"] and _areas(scene.classes, metrics["area_adjusted"]),
        confusion=_confusion_rows(scene.classes, np.array(metrics["confusion"])),
        reliability=metrics["confidence"] and Markup(reliability_diagram(metrics["confidence"]["reliability"])),
        split=_split(scene),
        pretraining=[
            _chart(pretrain_log, "loss", "Loss of each modality"),
            _chart(pretrain_log, "masking", "Share of each modality that is hidden"),
            _chart(pretrain_log, "skill", "Skill: variance of each modality that the denoiser explains"),
        ],
        training=[
            _chart(train_log, "loss", "Loss of each branch and of their agreement"),
            _chart(train_log, "validation", "Accuracy on validation pixels"),
        ],
        samples=_strips(scene, drawings.crops, drawings.samples),
        seen=drawings.seen,
        translated=_strips(scene, drawings.crops, drawings.translated),
        seconds=_stretches(metrics["seconds"], metrics["peak_bytes"]),
        config="\n".join(_config_lines(config)),
        remarks=[*notes, *(f"{finding.subject}: {finding.message}" for finding in scene.findings)],
    )
    path.write_text(text, encoding="utf-8")


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction in per cent, without the sign; a dash where it is undefined."""
    return "–" if fraction is None or math.isnan(fraction) else f"{100 * fraction:.{digits}f}"


def size(number: int) -> str:
    """Bytes, as in 512 MB or 1.5 GB."""
    return f"{number / 1e6:.0f} MB" if number < 1e9 else f"{number / 1e9:.1f} GB"


def count(number: int) -> str:
    """A number with its thousands apart."""
    return f"{number:,}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """Seconds as a reader would say them."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def sentence(text: str) -> str:
    """The text with a capital in front and a full stop behind."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _headline(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    interval = metrics["oa_interval"]
    within = f"95 % interval {percent(interval[0])}–{percent(interval[1])}" if interval else ""
    figures = (
        ("oa", "Overall accuracy", "OA", "%", within),
        ("aa", "Average accuracy", "AA", "%", ""),
        ("kappa", "Cohen’s kappa", "κ", "× 100", ""),
    )
    return [
        {"key": key, "name": name, "symbol": symbol, "value": percent(metrics[key]), "unit": unit, "note": note}
        for key, name, symbol, unit, note in figures
    ]


def _legend(
    classes: Sequence[LandCover],
    confidence: Float[np.ndarray, "h w"] | None,
    disagreement: Float[np.ndarray, "h w"] | None,
) -> dict[str, Any]:
    ramps = []
    if confidence is not None:
        ends = f"{percent(1 / len(classes), 0)} % (chance)", "100 %"
        ramps.append(("Confidence", _scale(pictures.CONFIDENCE_COLOURS), ends))
    if disagreement is not None:
        ends = "0 %", f"{percent(_top(disagreement))} % or more"
        ramps.append(("Disagreement of the branches", _scale(pictures.DISAGREEMENT_COLOURS), ends))
    return {
        "classes": [{"name": cover.name, "colour": _colour(cover)} for cover in classes],
        "errors": {"right": pictures.RIGHT, "wrong": pictures.WRONG, "training pixel": pictures.TRAINING},
        "ramps": ramps,
    }


def _top(disagreement: Float[np.ndarray, "h w"]) -> float:
    """Where its colours end: branches rarely disagree by much, and a scale up to 1 would show nothing."""
    return max(float(np.percentile(disagreement[disagreement >= 0], 99)), 1e-3)


def _scale(colours: matplotlib.colors.Colormap) -> str:
    return ", ".join(matplotlib.colors.to_hex(colours(level)) for level in np.linspace(0, 1, 9))


def _maps(
    scene: Scene,
    prediction: Int[np.ndarray, "h w"],
    confidence: Float[np.ndarray, "h w"] | None,
    disagreement: Float[np.ndarray, "h w"] | None,
) -> list[dict[str, str]]:
    drawn = {
        "Reference": ("labels as given", pictures.class_picture(scene.labels, scene.classes)),
        "Map": ("most probable class", pictures.class_picture(prediction, scene.classes)),
        "Errors": ("test pixels, right or wrong", pictures.error_picture(scene, prediction)),
    }
    if confidence is not None:
        picture = pictures.confidence_picture(confidence, prediction >= 0, 1.0 / len(scene.classes))
        drawn["Confidence"] = "probability of the class shown", picture
    if disagreement is not None:
        picture = pictures.disagreement_picture(disagreement, prediction >= 0, _top(disagreement))
        drawn["Disagreement"] = "of the branches", picture
    return [
        {
            "id": title.lower(),
            "title": title,
            "caption": caption,
            "uri": pictures.data_uri(pictures.thinned(picture)),
        }
        for title, (caption, picture) in drawn.items()
    ]


def _rendering(modality: Modality) -> Float[np.ndarray, "_ _ 4"]:
    small = dataclasses.replace(
        modality, image=pictures.thinned(modality.image), valid=pictures.thinned(modality.valid)
    )
    return np.concatenate([render_modality(small), small.valid[..., None]], axis=-1, dtype=np.float32)


def _modality(index: int, name: str, modality: Modality, picture: Float[np.ndarray, "_ _ 4"]) -> dict[str, Any]:
    measured, bands = modality.image[modality.valid], len(modality.bands)
    return {
        "id": f"sensor-{index}",
        "title": name,
        "caption": f"{KINDS.get(modality.kind, modality.kind)}, {bands} band{'s' if bands > 1 else ''}",
        "wavelengths": modality.wavelengths and (min(modality.wavelengths), max(modality.wavelengths)),
        "range": tuple(f"{value:.4g}".replace("-", "−") for value in np.percentile(measured, (1, 99)))
        if measured.size
        else None,
        "valid": modality.valid.mean(),
        "uri": pictures.data_uri(picture),
    }


def _class_rows(scene: Scene, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    confusion = np.array(metrics["confusion"])
    training = class_counts(scene.labels, scene.masks["train"], len(scene.classes))
    rows = zip(scene.classes, training, confusion.sum(axis=1), users_accuracy(confusion))
    return [
        {
            "name": cover.name,
            "colour": _colour(cover),
            "train": int(train),
            "test": int(test),
            "accuracy": metrics["per_class"][cover.name],
            "precision": float(precision),
        }
        for cover, train, test, precision in rows
    ]


def _areas(classes: Sequence[LandCover], areas: Mapping[str, Any]) -> dict[str, Any]:
    hectares = areas["hectares_per_pixel"] and areas["hectares_per_pixel"] * areas["pixels"]
    rows = []
    for cover in classes:
        one = areas["per_class"][cover.name]
        cells = [percent(one["mapped"]), _with_margin(one["area"])]
        if hectares:
            estimate, margin = (hectares * one["area"][part] for part in ("estimate", "margin"))
            cells.append(
                f"{count(round(estimate))} ± {count(round(margin))}"
                if hectares > 1e4
                else f"{estimate:.1f} ± {margin:.1f}"
            )
        cells += [_with_margin(one["producers"]), _with_margin(one["users"])]
        rows.append({"name": cover.name, "colour": _colour(cover), "cells": cells})
    return {"oa": _with_margin(areas["oa"]), "hectares": bool(hectares), "rows": rows}


def _with_margin(estimate: Mapping[str, float | None]) -> str:
    known = estimate["estimate"] is not None
    return f"{percent(estimate['estimate'])} ± {percent(estimate['margin'])}" if known else percent(None)


def _confusion_rows(classes: Sequence[LandCover], confusion: Int[np.ndarray, "k k"]) -> list[dict[str, Any]]:
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return [
        {
            "name": cover.name,
            "colour": _colour(cover),
            "cells": [
                {"count": int(n), "share": float(share), "hit": column == row}
                for column, (n, share) in enumerate(zip(counts, row_shares))
            ],
        }
        for row, (cover, counts, row_shares) in enumerate(zip(classes, confusion, shares))
    ]


def _split(scene: Scene) -> dict[str, Any]:
    return {
        "picture": pictures.data_uri(pictures.thinned(pictures.split_picture(scene))),
        "parts": [
            {"name": title, "colour": pictures.SPLIT_COLOURS[name], "pixels": int(scene.masks[name].sum())}
            for name, title in (("train", "Training"), ("validation", "Validation"), ("test", "Test"))
        ],
    }


def _chart(log: Sequence[Mapping[str, Any]], prefix: str, title: str) -> dict[str, Any] | None:
    lines = curves(log, prefix)
    if not lines:
        return None
    return {
        "title": title,
        "lines": [{"name": line.name, "last": f"{line.trend[-1]:.3g}"} for line in lines],
        "svg": Markup(line_chart(lines, description=f"{title}, over steps")),
    }


def _strips(scene: Scene, crops: Images, drawn: Images) -> list[dict[str, Any]]:
    """For each modality that was drawn, real crops and what was drawn, as pictures."""
    rows = []
    for name, images in drawn.items():
        both = pictures.sample_pictures(scene.modalities[name], crops[name][:MOST_SAMPLES], images[:MOST_SAMPLES])
        real, drawn_pictures = (list(map(pictures.data_uri, each)) for each in both)
        rows.append({"name": name, "real": real, "drawn": drawn_pictures})
    return rows


def _stretches(seconds: Mapping[str, float | None], peaks: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    taken = {name: value for name, value in seconds.items() if value is not None}
    longest = max(taken.values(), default=0.0) or 1.0
    return [
        {"name": name, "seconds": value, "share": value / longest, "peaks": peaks.get(name, {})}
        for name, value in taken.items()
    ]


def _config_lines(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _config_lines(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name} = {value!r}"


def _colour(cover: LandCover) -> str:
    """The colour in the one spelling that is safe inside a style."""
    return matplotlib.colors.to_hex(cover.colour)
