"""From the `scene` section of a configuration to a `Scene`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.contents import Contents, FileContents
from bdgf_jax.scenes.grids import Grid, short_crs
from bdgf_jax.scenes.labels import class_table, read_labels
from bdgf_jax.scenes.modalities import build_modality, check_options
from bdgf_jax.scenes.raster import Raster
from bdgf_jax.scenes.scene import UNLABELLED, Finding, Scene, SceneErrors, empty_masks
from bdgf_jax.scenes.splits import Blocks, Split, split_blocks, split_masks, split_per_class
from bdgf_jax.scenes.synthetic import synthetic_scene


def load_scene(config: Any, without: Sequence[str] = ()) -> Scene:
    """Reads or makes the scene that the `scene` section of a configuration describes, and splits its labels.

    Args:
      config: the `scene` section, an `ml_collections.ConfigDict`.
      without: modalities that are left out, as if there were nothing of them; files of theirs need not be there.

    Raises:
      InputError: for a file, field or value that cannot be used, with the likely fix.
    """
    if config.source == "synthetic":
        scene = synthetic_scene(**config.synthetic)
        contents = None
    else:
        contents = _contents(config, without)
        scene = _put_together(config, modality_fields(config, without), contents, without)
    left = {name: modality for name, modality in scene.modalities.items() if name not in without}
    scene = replace(scene, name=config.name, modalities=left, absent=tuple(without))
    if not (scene.labels != UNLABELLED).any():
        return scene
    errors: list[Finding] = []
    with _noting("split", errors):
        return _with_split(scene, _split(scene, config, contents), config)
    raise SceneErrors([*scene.findings, *errors])


def _contents(config: Any, without: Sequence[str]) -> Contents:
    if config.source == "files":
        return FileContents(config, without)
    if config.source == "prepared":
        # Imported here: TensorFlow Datasets is slow to import, and no other source needs it.
        from bdgf_jax.scenes.prepared import prepared_contents

        return prepared_contents(config)
    if config.source == "patches":
        from bdgf_jax.scenes.patch_sets import patch_mosaic

        return patch_mosaic(config)
    raise InputError(f"scene.source is '{config.source}', expected 'files', 'prepared', 'patches' or 'synthetic'.")


def modality_fields(config: Any, without: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """The fields of every modality but those that are left out.

    Raises:
      InputError: there are fewer than two modalities, those that are left out included; or none is left, or one is no
        set of fields.
    """
    for name, options in config.modalities.items():
        if not isinstance(options, ConfigDict):
            raise InputError(
                f'scene.modalities.{name} is {options!r}, expected fields such as {{"file": {options!r}}}.'
            )
    fields = {name: options.to_dict() for name, options in config.modalities.items() if name not in without}
    if len(fields) + len(without) < 2 or not fields:
        raise InputError(
            f"scene.modalities holds {list(config.modalities)}; a multimodal scene needs two modalities or more, each"
            " with a `file`."
        )
    return fields


def _put_together(config: Any, fields: dict[str, dict[str, Any]], contents: Contents, without: Sequence[str]) -> Scene:
    reference = reference_name(config, fields)
    findings: list[Finding] = []
    rasters = _read_rasters(contents, fields, reference, findings)
    if reference not in rasters:
        raise SceneErrors(findings)
    grid, found = reference_grid(reference, rasters)
    findings += found
    modalities, labelled = {}, None
    for name in [name for name in fields if name in rasters]:
        with _noting(name, findings):
            # Popped, so that one copy of a large image is held at a time.
            raster = rasters.pop(name)
            modalities[name], found = build_modality(name, raster, fields[name], grid, config.resampling)
            findings += found
    with _noting("labels", findings):
        labelled = _labels(config, contents, grid)
        findings += labelled[2]
    if labelled is None or any(finding.severity == "error" for finding in findings):
        raise SceneErrors(findings)
    labels, classes, _ = labelled
    return Scene(
        name=config.name,
        modalities=modalities,
        labels=labels,
        masks=empty_masks(grid.shape),
        classes=classes,
        georeference=grid.georeference,
        sources=contents.sources(),
        findings=tuple(findings),
        absent=tuple(without),
    )


def reference_name(config: Any, fields: Mapping[str, Any]) -> str:
    """The modality whose grid is the scene's.

    Raises:
      InputError: there is none of that name.
    """
    reference = config.reference or next(iter(fields))
    if reference not in fields:
        raise InputError(f"scene.reference is '{reference}', expected one of scene.modalities: {list(fields)}.")
    return reference


def _read_rasters(
    contents: Contents, fields: dict[str, Any], reference: str, findings: list[Finding]
) -> dict[str, Raster]:
    """The images that can be read, the reference first: of the others no more is read than its grid needs."""
    rasters: dict[str, Raster] = {}
    for name in sorted(fields, key=lambda name: name != reference):
        with _noting(name, findings):
            check_options(name, fields[name])
            onto = rasters.get(reference)
            rasters[name] = contents.image(name, fields[name], onto and Grid(onto.shape, onto.georeference))
    return rasters


@contextmanager
def _noting(subject: str, findings: list[Finding]) -> Iterator[None]:
    """Notes an error and goes on, so that a user hears of all mistakes at once."""
    try:
        yield
    except InputError as error:
        findings.append(Finding("error", subject, str(error)))


def reference_grid(reference: str, rasters: Mapping[str, Raster | Grid]) -> tuple[Grid, list[Finding]]:
    """The scene's grid, and where its place comes from if not from the reference modality itself."""
    chosen = rasters[reference]
    if chosen.georeference is not None:
        return Grid(chosen.shape, chosen.georeference), []
    for name, raster in rasters.items():
        if raster.georeference is not None and raster.shape == chosen.shape:
            finding = (
                f"has no geo-reference; that of '{name}' ({short_crs(raster.georeference.crs)}) is taken, same size."
            )
            return Grid(chosen.shape, raster.georeference), [Finding("note", reference, finding)]
    return Grid(chosen.shape, None), []


def _labels(config: Any, contents: Contents, grid: Grid):
    """Class indices, the class table, and what was noticed."""
    found = contents.labels(grid)
    if found is None:
        table = class_table({int(value): name for value, name in config.labels.names.items()}, {})
        note = Finding("note", "labels", "no label file is given: the scene can be mapped, not trained on or scored.")
        return np.full(grid.shape, UNLABELLED, np.int32), table, [note]
    labels, classes, findings = read_labels(
        found.values,
        found.valid,
        ignore=tuple(config.labels.ignore),
        names=found.names,
        colours={str(value): colour for value, colour in config.labels.colours.items()},
        what=found.what,
    )
    return labels, classes, [*found.findings, *findings]


def _split(scene: Scene, config: Any, contents: Contents | None) -> Split:
    options = config.split
    blocks = Blocks(
        side=options.block,
        train_share=options.train_blocks,
        per_class=options.per_class,
        guard=options.guard,
        validation_share=options.validation_blocks,
        minimum_test_pixels=config.labels.minimum_test_pixels,
        seed=options.seed,
    )
    labels = np.where(scene.valid, scene.labels, UNLABELLED)
    if options.kind == "blocks":
        return split_blocks(labels, blocks)
    if options.kind == "per_class":
        return split_per_class(
            labels, per_class=blocks.per_class, validation_share=blocks.validation_share, seed=blocks.seed
        )
    if options.kind != "masks":
        raise InputError(f"scene.split.kind is '{options.kind}', expected 'blocks', 'per_class' or 'masks'.")
    grid = Grid(scene.shape, scene.georeference)
    train = contents and contents.mask("train", grid)
    if contents is None or train is None:
        raise InputError("scene.split.kind is 'masks', which needs scene.split.train_file (and test_file).")
    test = contents.mask("test", grid)
    trained = np.asarray(train != 0)
    return split_masks(labels, trained, ~trained if test is None else np.asarray(test != 0), blocks)


def _with_split(scene: Scene, split: Split, config: Any) -> Scene:
    """The scene with its masks. Classes that the split leaves out leave the class table, too."""
    kept = [k for k in range(len(scene.classes)) if k not in split.dropped]
    if not split.dropped:
        return replace(scene, masks=split.masks, split=split.description)
    renumbered = np.full(len(scene.classes) + 1, UNLABELLED, np.int32)
    renumbered[kept] = np.arange(len(kept), dtype=np.int32)
    findings = [
        Finding(
            "warning",
            "labels",
            f"class '{scene.classes[k].name}' has {int((scene.labels == k).sum())} labelled pixels, too few for"
            f" {config.labels.minimum_test_pixels} test pixels in this split: it is left out of the class table and"
            " of all masks.",
        )
        for k in split.dropped
    ]
    return replace(
        scene,
        labels=renumbered[scene.labels],
        classes=tuple(scene.classes[k] for k in kept),
        masks=split.masks,
        split=split.description,
        findings=(*scene.findings, *findings),
    )
