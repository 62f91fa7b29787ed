"""What a person should know of a scene before training on it."""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Bool
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bdgf_jax.scenes.grids import Grid
from bdgf_jax.scenes.rendering import is_linear_power
from bdgf_jax.scenes.scene import MASK_NAMES, UNLABELLED, Finding, Modality, Scene, SceneErrors, class_counts
from bdgf_jax.scenes.splits import within_reach

SENTINELS = (-32768.0, -9999.0, -999.0, -99.0, 32767.0, 65535.0)
SEVERITIES = {"error": "bold red", "warning": "yellow", "note": "cyan"}
FEW_TRAINING_PIXELS = 10
MUCH_NODATA = 0.2


def inspect_scene(scene: Scene, *, patch: int = 11) -> list[Finding]:
    """Everything worth saying about a scene, the gravest first; what was found while it was read comes with it.

    Args:
      scene: the scene.
      patch: side of the square that a pixel's prediction may see; two of them overlap where their centres are less than
        this apart.
    """
    findings = list(scene.findings)
    for name, modality in scene.modalities.items():
        findings += [Finding(severity, name, message) for severity, message in _of_modality(modality)]
    findings += [Finding(severity, "grid", message) for severity, message in _of_coverage(scene)]
    findings += [Finding(severity, "labels", message) for severity, message in _of_labels(scene)]
    findings += [Finding(severity, "split", message) for severity, message in _of_split(scene, patch)]
    return _gravest_first(findings)


def refuse_errors(findings: Iterable[Finding]) -> None:
    """Raises SceneErrors where one of the findings is an error; such a scene is not trained on."""
    if any(finding.severity == "error" for finding in findings):
        raise SceneErrors(findings)


def overlapping_test_pixels(scene: Scene, patch: int) -> Bool[np.ndarray, "h w"]:
    """Test pixels whose patch shares pixels with the patch of a training pixel."""
    return scene.masks["test"] & within_reach(scene.masks["train"], patch - 1)


def print_inspection(scene: Scene, console: Console | None = None, *, patch: int = 11) -> list[Finding]:
    """Prints a scene's modalities, classes and findings as tables; the findings."""
    console = console or Console()
    grid = Grid(scene.shape, scene.georeference)
    console.print(f"\n[bold]{scene.name}[/bold]  {grid.describe()}, {len(scene.sources)} files")
    console.print(_modality_table(scene))
    if (scene.labels != UNLABELLED).any():
        console.print(_class_table(scene))
        console.print(f"split: {scene.split}\n", style="dim")
    findings = inspect_scene(scene, patch=patch)
    print_findings(findings, console)
    return findings


def print_findings(findings: Iterable[Finding], console: Console) -> None:
    """Prints findings as a table, the gravest first."""
    table = Table(title="findings", title_justify="left", header_style="bold", show_lines=False)
    for column in ("severity", "of", "finding"):
        table.add_column(column)
    for finding in _gravest_first(findings):
        severity = Text(finding.severity, style=SEVERITIES[finding.severity])
        table.add_row(severity, Text(finding.subject, style="bold"), Text(finding.message))
    console.print(table)


def _gravest_first(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: list(SEVERITIES).index(finding.severity))


def _of_modality(modality: Modality) -> Iterator[tuple[str, str]]:
    if not modality.valid.any():
        yield "error", "no valid pixel."
        return
    pixels = modality.image[modality.valid]
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    missing = int((~modality.valid).sum())
    if missing:
        share = missing / modality.valid.size
        yield "warning" if share > MUCH_NODATA else "note", f"{missing} pixels ({share:.2%}) are nodata."
    constant = [band for band, same in zip(modality.bands, low == high) if same]
    if len(constant) == len(modality.bands):
        yield "error", f"{_some(constant)} constant ({low[0]:g}), and nothing else; leave this modality out."
    elif constant:
        yield "warning", f"{_some(constant)} constant; whitening drops what does not vary."
    for value in SENTINELS:
        # What stands apart is the lowest or the highest value, which spares most bands a second look.
        extreme = np.flatnonzero((low == value) | (high == value))
        marked = [modality.bands[i] for i in extreme if _is_sentinel(pixels[:, i], value)]
        if marked:
            yield "warning", f"{value:g} stands apart from all other values in {_some(marked)}; set `nodata` to it?"
    empty = int((pixels == 0).all(axis=1).sum())
    if empty and pixels.shape[1] > 1:
        yield "warning", f"{empty} pixels are 0 in every band; set `nodata` to 0 if those were never measured."
    if modality.kind == "optical":
        top = float(np.percentile(pixels, 98))
        if 200 < top < 20_000:
            yield "note", f"values up to {top:.0f} look like reflectance × 10⁴; `scale` = 1e-4 makes it reflectance."
        negative = int((pixels < 0).any(axis=1).sum())
        if negative:
            yield "note", f"{negative} pixels have negative values, which noise and over-corrected atmospheres leave."
    if modality.kind == "sar" and is_linear_power(modality):
        yield "warning", "no value is negative, so a few bright pixels rule its linear power; set `scale` to 'db'."
    elif modality.kind == "sar" and np.abs(pixels).max() > 100:
        yield (
            "warning",
            f"values from {low.min():g} to {high.max():g} are no backscatter in dB; check `scale` and `nodata`.",
        )
    elif modality.kind == "sar":
        yield "note", f"values from {low.min():.1f} to {high.max():.1f} are taken as decibels."
    if modality.kind == "height":
        yield "note", f"values from {low.min():g} to {high.max():g}; the statistics take the offset of the datum off."


def _is_sentinel(values, value: float) -> bool:
    marked = values == value
    if not marked.any() or marked.all():
        return False
    others = values[~marked]
    spread = others.max() - others.min()
    return bool(value < others.min() - spread / 2 or value > others.max() + spread / 2)


def _of_coverage(scene: Scene) -> Iterator[tuple[str, str]]:
    count = np.sum([modality.valid for modality in scene.modalities.values()], axis=0)
    partial = int(((count > 0) & (count < len(scene.modalities))).sum())
    if partial:
        yield "note", f"{partial} pixels are seen by some of the modalities only; they are mapped from those."
    unseen = int((count == 0).sum())
    if unseen:
        yield "note", f"{unseen} pixels are seen by no modality; they are nodata in the map."
    if scene.georeference is None:
        yield "note", "no geo-reference: maps will lie at pixel coordinates."


def _of_labels(scene: Scene) -> Iterator[tuple[str, str]]:
    labelled = scene.labels != UNLABELLED
    if not labelled.any():
        return
    blind = int((labelled & ~scene.valid).sum())
    if blind:
        yield "warning", f"{blind} labelled pixels are seen by no modality and are left out."
    counts = class_counts(scene.labels, labelled, len(scene.classes))
    yield "note", f"{labelled.mean():.1%} of the pixels are labelled, {len(scene.classes)} classes."
    rarest, commonest = int(counts.argmin()), int(counts.argmax())
    if counts[commonest] > 20 * counts[rarest]:
        yield (
            "note",
            f"'{scene.classes[commonest].name}' has {counts[commonest] / max(1, counts[rarest]):.0f} times the pixels"
            " of"
            f" '{scene.classes[rarest].name}': overall and average accuracy will differ.",
        )


def _of_split(scene: Scene, patch: int) -> Iterator[tuple[str, str]]:
    if not (scene.labels != UNLABELLED).any():
        return
    counts = {name: class_counts(scene.labels, scene.masks[name], len(scene.classes)) for name in MASK_NAMES}
    sizes = ", ".join(f"{int(counts[name].sum())} {name}" for name in MASK_NAMES)
    yield "note", f"{sizes} pixels."
    for k, entry in enumerate(scene.classes):
        if counts["train"][k] == 0:
            yield "error", f"'{entry.name}' has no training pixel."
        elif counts["train"][k] < FEW_TRAINING_PIXELS:
            yield "warning", f"'{entry.name}' has {counts['train'][k]} training pixels."
        if counts["test"][k] == 0:
            yield "warning", f"'{entry.name}' has no test pixel, and takes no part in the average accuracy."
    near = int(overlapping_test_pixels(scene, patch).sum())
    if near:
        share = near / int(counts["test"].sum())
        yield (
            "warning" if share > 0.01 else "note",
            f"the {patch} × {patch} patches of {near} test pixels ({share:.1%}) overlap those of training pixels:"
            " scores come out too high there.",
        )


def _modality_table(scene: Scene) -> Table:
    table = Table(title="modalities", title_justify="left", header_style="bold")
    for column in ("name", "kind", "bands", "wavelengths", "lowest", "2 %", "median", "98 %", "highest", "nodata"):
        table.add_column(column, justify="left" if column in ("name", "kind") else "right")
    for name, modality in scene.modalities.items():
        pixels = modality.image[modality.valid]
        figures = np.percentile(pixels, (0, 2, 50, 98, 100)) if len(pixels) else np.full(5, np.nan)
        table.add_row(
            name,
            modality.kind,
            str(len(modality.bands)),
            _wavelength_range(modality),
            *(f"{figure:.4g}" for figure in figures),
            f"{1 - modality.valid.mean():.1%}",
        )
    return table


def _class_table(scene: Scene) -> Table:
    table = Table(title="classes", title_justify="left", header_style="bold")
    table.add_column("")
    table.add_column("name")
    for column in ("labelled", *MASK_NAMES):
        table.add_column(column, justify="right")
    masks = [scene.labels != UNLABELLED, *(scene.masks[name] for name in MASK_NAMES)]
    counts = [class_counts(scene.labels, mask, len(scene.classes)) for mask in masks]
    for k, entry in enumerate(scene.classes):
        table.add_row(Text("██", style=entry.colour), entry.name, *(f"{column[k]:,}" for column in counts))
    table.add_section()
    table.add_row("", "all", *(f"{column.sum():,}" for column in counts), style="bold")
    return table


def _wavelength_range(modality: Modality) -> str:
    if modality.wavelengths is None:
        return ""
    return f"{min(modality.wavelengths):.0f}–{max(modality.wavelengths):.0f} nm"


def _some(bands: list[str]) -> str:
    shown = ", ".join(f"'{band}'" for band in bands[:4])
    return f"{'band' if len(bands) == 1 else f'{len(bands)} bands'} {shown}{' …' if len(bands) > 4 else ''}"
