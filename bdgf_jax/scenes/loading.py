"""From the `scene` section of a configuration to a `Scene`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.grids import Grid, resample, short_crs
from bdgf_jax.scenes.labels import class_table, read_labels
from bdgf_jax.scenes.modalities import build_modality, check_options
from bdgf_jax.scenes.readers import ARRAY_SUFFIXES, Raster, describe_source, read_array, read_raster
from bdgf_jax.scenes.scene import UNLABELLED, Finding, LandCover, Scene, SceneErrors, Source, empty_masks
from bdgf_jax.scenes.splits import Blocks, Split, split_blocks, split_masks, split_per_class
from bdgf_jax.scenes.synthetic import synthetic_scene
from bdgf_jax.scenes.vector_labels import burn_polygons, is_vector

SIDE_FILES = (".hdr", ".dbf", ".prj")  # that belong to an ENVI image or a shapefile


def load_scene(config: Any) -> Scene:
    """Reads or makes the scene that the `scene` section of a configuration describes, and splits its labels.

    Args:
      config: the `scene` section, an `ml_collections.ConfigDict`.

    Raises:
      InputError: for a file, field or value that cannot be used, with the likely fix.
    """
    if config.source == "synthetic":
        scene = synthetic_scene(**config.synthetic)
    elif config.source == "files":
        scene = _read_files(config)
    else:
        raise InputError(f"scene.source is '{config.source}', expected 'synthetic' or 'files'.")
    scene = replace(scene, name=config.name)
    if not (scene.labels != UNLABELLED).any():
        return scene
    errors: list[Finding] = []
    with _noting("split", errors):
        return _with_split(scene, _split(scene, config), config)
    raise SceneErrors([*scene.findings, *errors])


def _read_files(config: Any) -> Scene:
    fields = {name: options.to_dict() for name, options in config.modalities.items()}
    if len(fields) < 2:
        raise InputError(
            f"scene.modalities holds {list(fields)}; a multimodal scene needs two modalities or more, each with a"
            " `file`."
        )
    reference = config.reference or next(iter(fields))
    if reference not in fields:
        raise InputError(f"scene.reference is '{reference}', expected one of scene.modalities: {list(fields)}.")
    findings: list[Finding] = []
    rasters = _read_rasters(config, fields, reference, findings)
    if reference not in rasters:
        raise SceneErrors(findings)
    grid, found = _reference_grid(reference, rasters)
    findings += found
    modalities, labelled = {}, None
    for name in [name for name in fields if name in rasters]:
        with _noting(name, findings):
            # Popped, so that one copy of a large image is held at a time.
            raster = rasters.pop(name)
            modalities[name], found = build_modality(name, raster, fields[name], grid, config.resampling)
            findings += found
    with _noting("labels", findings):
        labelled = _labels(config, grid)
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
        sources=_sources(config),
        findings=tuple(findings),
    )


def _read_rasters(config: Any, fields: dict[str, Any], reference: str, findings: list[Finding]) -> dict[str, Raster]:
    """The images that can be read, the reference first: of the others no more is read than its grid needs."""
    rasters: dict[str, Raster] = {}
    for name in sorted(fields, key=lambda name: name != reference):
        with _noting(name, findings):
            options = fields[name]
            check_options(name, options)
            onto = rasters.get(reference)
            rasters[name] = read_raster(
                _path(config, options["file"]),
                key=options.get("key", ""),
                bands=tuple(options.get("bands", ())),
                nodata=options.get("nodata"),
                onto=onto and Grid(onto.shape, onto.georeference),
            )
    return rasters


@contextmanager
def _noting(subject: str, findings: list[Finding]) -> Iterator[None]:
    """Notes an error and goes on, so that a user hears of all mistakes at once."""
    try:
        yield
    except InputError as error:
        findings.append(Finding("error", subject, str(error)))


def _reference_grid(reference: str, rasters: dict[str, Raster]) -> tuple[Grid, list[Finding]]:
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


def _labels(config: Any, grid: Grid) -> tuple[Int[np.ndarray, "h w"], tuple[LandCover, ...], list[Finding]]:
    options = config.labels
    names = dict(options.names)
    if options.file and is_vector(_path(config, options.file)):
        path = _path(config, options.file)
        values, valid, names, findings = burn_polygons(
            path, grid, attribute=options.attribute, layer=options.layer, names=names
        )
    elif options.file:
        path = _path(config, options.file)
        values, valid, findings = _on_grid(_read_codes(path, options.key, grid), grid, "the label image")
    elif config.split.kind == "masks" and config.split.train_file:
        values, valid, findings = _labels_from_masks(config, grid)
        path = _path(config, config.split.train_file)
    else:
        table = class_table({int(value): name for value, name in names.items()}, {})
        note = Finding("note", "labels", "no label file is given: the scene can be mapped, not trained on or scored.")
        return np.full(grid.shape, UNLABELLED, np.int32), table, [note]
    labels, classes, found = read_labels(
        values, valid, ignore=tuple(options.ignore), names=names, colours=dict(options.colours), what=path.name
    )
    return labels, classes, findings + found


def _labels_from_masks(config: Any, grid: Grid):
    """Some scenes come without a label image: their training and test images hold the classes themselves."""
    train = _mask_values(config, "train", grid)
    test = _mask_values(config, "test", grid) if config.split.test_file else np.zeros_like(train)
    values = np.where(train != 0, train, test)
    finding = Finding("note", "labels", "no label file is given: classes are those in the training and test images.")
    return values, np.ones(grid.shape, bool), [finding]


def _read_codes(path: Path, key: str, grid: Grid) -> Raster:
    """An image whose values are codes, of which neighbours have no mean."""
    return read_raster(path, key=key, onto=grid, overviews=False)


def _on_grid(raster: Raster, grid: Grid, what: str) -> tuple[Shaped[np.ndarray, "h w"], Bool[np.ndarray, "h w"], list]:
    if len(raster.bands) > 1:
        raise InputError(f"{raster.path}: {what} must have one band, it has {len(raster.bands)}.")
    values, valid = raster.values, raster.valid[..., 0]
    own = Grid(raster.shape, raster.georeference)
    findings = [Finding("note", "labels", remark) for remark in raster.remarks]
    if grid.holds(own):
        return values[..., 0], valid, findings
    values, valid = resample(values, valid, own, grid, "nearest", what=what)
    message = f"{what} resampled (nearest) from {own.describe()} to {grid.describe()}."
    return values[..., 0], valid, [*findings, Finding("note", "labels", message)]


def _split(scene: Scene, config: Any) -> Split:
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
    if not options.train_file:
        raise InputError("scene.split.kind is 'masks', which needs scene.split.train_file (and test_file).")
    grid = Grid(scene.shape, scene.georeference)
    train = _mask_values(config, "train", grid) != 0
    test = _mask_values(config, "test", grid) != 0 if options.test_file else ~train
    return split_masks(labels, train, test, blocks)


def _mask_values(config: Any, name: str, grid: Grid) -> Shaped[np.ndarray, "h w"]:
    """A mask from an image, or from a list of (row, column) pairs counted from 0."""
    file, key = config.split[f"{name}_file"], config.split[f"{name}_key"]
    path = _path(config, file)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        values = read_array(path, key=key)
        if values.ndim == 2 and values.shape[1] == 2 and values.shape != grid.shape:
            return _mask_of_indices(values, grid.shape, f"{path} ({name} mask)")
    values, valid, _ = _on_grid(_read_codes(path, key, grid), grid, f"the {name} mask")
    return np.where(valid, values, 0)


def _mask_of_indices(indices: Shaped[np.ndarray, "n 2"], shape: tuple[int, int], what: str) -> Bool[np.ndarray, "h w"]:
    mask = np.zeros(shape, bool)
    if not len(indices):
        raise InputError(f"{what} lists no pixel.")
    low, high = indices.min(axis=0), indices.max(axis=0)
    if (low < 0).any() or (high >= shape).any() or (indices != np.round(indices)).any():
        counted_from_one = (low >= 1).all() and (high <= shape).all()
        fix = "they seem to be counted from 1: subtract 1" if counted_from_one else "is it the right file?"
        raise InputError(
            f"{what} holds rows {low[0]:g} to {high[0]:g} and columns {low[1]:g} to {high[1]:g}; whole numbers inside"
            f" {shape[0]} × {shape[1]}, counted from 0, are expected: {fix}."
        )
    rows, columns = indices.astype(np.int64).T
    mask[rows, columns] = True
    return mask


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


def _path(config: Any, file: str) -> Path:
    return Path(config.folder).expanduser() / Path(file).expanduser()


def _sources(config: Any) -> tuple[Source, ...]:
    files = [options.file for options in config.modalities.values()] + [config.labels.file]
    if config.split.kind == "masks":
        files += [config.split.train_file, config.split.test_file]
    paths = []
    for path in (_path(config, file) for file in files if file):
        paths += [path, *(side for side in map(path.with_suffix, SIDE_FILES) if side.is_file() and side != path)]
    return tuple(describe_source(path) for path in dict.fromkeys(paths))
