"""The map of a scene that is read, mapped and written window by window: its size costs time and no memory."""

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from bdgf_jax import configuration, extraction, mapping, networks, smoothing, voting
from bdgf_jax.configuration import Config
from bdgf_jax.diffusion.features import Level, noise_field, standardise_features
from bdgf_jax.errors import InputError
from bdgf_jax.evaluation.map_picture import draw_map
from bdgf_jax.evaluation.maps import map_bands, map_layer, share_bands, share_layers, survey_map, write_legend
from bdgf_jax.evaluation.prediction import predict_scene
from bdgf_jax.evaluation.windowed_maps import WindowedMaps
from bdgf_jax.model import Model, read_model
from bdgf_jax.progress import progress
from bdgf_jax.run import check_workdir, seen_by_models, transformed, validity, write_json
from bdgf_jax.scenes.context import BLOCK, block_maps, map_count, surroundings
from bdgf_jax.scenes.drift import describe_drift, measure_drift
from bdgf_jax.scenes.readers import describe_source
from bdgf_jax.scenes.scene import Finding, check_absent, check_modalities
from bdgf_jax.scenes.windows import SceneWindows, mirrored, open_windows, read_reflected
from bdgf_jax.versions import versions

# Windows that are looked at to tell whether a scene lies far off the model's, along each side, and their side.
SAMPLES, SAMPLE_SIDE = 4, 128


@dataclasses.dataclass(frozen=True, eq=False)
class Predicted:
    """What is known of a window: probabilities by branch, and which pixels hold data."""

    predictions: Mapping[str, Float[np.ndarray, "h w k"]]
    valid: Bool[np.ndarray, "h w"]


class TileCache:
    """Levels of guidance that are computed by tiles of a fixed grid; those that the next window needs too are kept.

    Args:
      side: of the tiles.
    """

    def __init__(self, side: int):
        self._side = side
        self._tiles: dict[tuple[int, int], tuple[Level, ...]] = {}

    def cut(
        self,
        corner: tuple[int, int],
        side: int,
        reach: int,
        size: tuple[int, int],
        compute: Callable[[int, int], tuple[Level, ...]],
    ) -> tuple[jax.Array, ...]:
        """Every level of a window and of the pixels round it, mirrored beyond the border of the scene.

        Args:
          corner: row and column of the window's upper left pixel.
          side: of the window.
          reach: how many pixels round it.
          size: rows and columns of the scene.
          compute: (row, column of a tile's upper left pixel) -> its levels; beyond the scene's border they may end.
        """
        ends = [(max(0, at - reach), min(n, at + side + reach)) for at, n in zip(corner, size)]
        rows, columns = [range(first // self._side, -(-last // self._side)) for first, last in ends]
        known = {(i, j): tile for (i, j), tile in self._tiles.items() if i in rows and j in columns}
        self._tiles = known | {
            (i, j): compute(i * self._side, j * self._side)
            for i, j in itertools.product(rows, columns)
            if (i, j) not in known
        }
        around = [np.arange(start - reach, start + side + reach) for start in corner]
        inside = [mirrored(at, n) - on.start * self._side for at, n, on in zip(around, size, (rows, columns))]
        parts = zip(*(self._tiles[i, j] for i, j in itertools.product(rows, columns)), strict=True)
        mosaics = ([level[n : n + len(columns)] for n in range(0, len(level), len(columns))] for level in parts)
        return tuple(jnp.asarray(_mosaic(tiles)[np.ix_(*inside)]) for tiles in mosaics)


class WindowMapper:
    """Maps windows of scenes with one model.

    A window comes out as it would in one piece: it is read with as much of its surroundings as its pixels can see,
    features are computed on the same tiles as ever, noise goes by a pixel's place in the scene, and beyond the scene's
    border lies its mirror image. All windows have one shape, so that every program is compiled once.

    Args:
      model: a trained one.

    Raises:
      InputError: it is not trained yet, `predict.tile` is no multiple of `features.tile`, only labelled pixels are
        wanted, a vote of what these teach or a smoothing that they choose, or it knows no modality that it is to do
        without.
    """

    def __init__(self, model: Model):
        self.model, config = model, model.config
        check_absent(config.predict.without, model.transforms)
        self.side = config.predict.tile
        if config.predict.labelled_only:
            raise InputError("predict.labelled_only does not go with windows, which see no labels; leave it out.")
        if config.predict.average_with_vote:
            raise InputError("predict.average_with_vote does not go with windows, which see no labels; leave it out.")
        self.radius, *others = smoothing.radii(config) or (0,)
        if others:
            raise InputError(
                f"predict.smoothing is {(self.radius, *others)}, of which validation pixels choose, and windows see no"
                " labels: give one radius."
            )
        # How far beyond a window pixels are predicted, since its own are smoothed with them.
        self._margin = smoothing.reach(self.radius)
        # How far from a pixel lies what it is mapped by, beside what its features have seen.
        self._reach = configuration.side_seen(config) // 2 + self._margin
        self._halo, guidance, weights = self._reach, (), []
        self._guided = config.features.source != "none"
        if self._guided:
            tile = config.features.tile
            if self.side % tile:
                raise InputError(
                    f"predict.tile must be a multiple of features.tile, the side of the tiles that features are"
                    f" computed on, got {self.side} and {tile}; {-(-self.side // tile) * tile} would do."
                )
            self._halo = -(-self._reach // tile) * tile + config.features.margin
            graph, self._denoiser = networks.denoiser(model)
            self._activations = extraction.feature_program(config, graph, tile)
            self._statistics = extraction.load_feature_statistics(model)
            guidance = tuple(np.empty((0, 0, *mean.shape), np.float32) for mean in self._statistics.mean)
            weights = [self._denoiser, *self._statistics]
        self._context = config.features.context
        if self._context.components:
            guidance += (np.empty((0, 0, 1, map_count(model.channels, **self._context)), np.float32),)
        graph, self._classifier = networks.trained_classifier(model, guidance)
        self._classify = mapping.classifier_function(model, graph, tuple(config.predict.branches) or None)
        transforms = [repr(transform.to_dict()) for transform in model.transforms.values()]
        sections = [config[name].to_dict() for name in ("diffusion", "features", "classifier", "predict")]
        self.fingerprint = extraction.fingerprint(repr((sections, transforms)), weights, self._classifier)

    def predict(
        self, scene: SceneWindows, done: Collection[tuple[int, int]] = ()
    ) -> Iterator[tuple[int, int, Predicted | None]]:
        """Row and column of the upper left pixel of each window, and what it shows; None where it holds no data.

        Args:
          scene: that is mapped.
          done: windows that are left out.
        """
        check_modalities(self.model.transforms, [*scene.names, *self.model.config.predict.without])
        tiles, blocks = TileCache(self.model.config.features.tile), TileCache(BLOCK)
        for row, column in window_corners(scene.grid.shape, self.side):
            if (row, column) not in done:
                yield row, column, self._predict(scene, row, column, tiles, blocks)

    def _predict(
        self, scene: SceneWindows, row: int, column: int, tiles: TileCache, blocks: TileCache
    ) -> Predicted | None:
        side, halo, reach, corner, size = self.side, self._halo, self._reach, (row, column), scene.grid.shape
        seen = read_reflected(scene, *(np.arange(start - halo, start + side + halo) for start in corner))
        # Spans of rows and of columns: those of the window, and of what is predicted, as far as the scene goes.
        window = [(start, min(length, start + side)) for start, length in zip(corner, size)]
        margin, read_from = self._margin, [start - halo for start in corner]
        extended = [(max(0, begin - margin), min(length, end + margin)) for (begin, end), length in zip(window, size)]
        predicted, mapped = _slices(extended, read_from), _slices(window, read_from)
        valid = validity(self.model.transforms, seen)
        holding = np.any([*valid.values()], axis=0)
        if not holding[mapped].any():
            return None
        images = seen_by_models(self.model.transforms, seen)
        inner = (slice(halo - reach, halo + side + reach),) * 2
        data = {
            "images": {name: jnp.asarray(image[inner]) for name, image in images.items()},
            "guidance": (
                *(self._diffusion_levels(scene, corner, images, valid, tiles) if self._guided else ()),
                *(self._context_level(scene, corner, blocks) if self._context.components else ()),
            ),
        }
        # What the classifier predicts at once may reach over an edge. The frame begins where one of its strides does,
        # so that these centres lie where they would lie in one piece.
        stride, centre = mapping.map_stride(self.model.config), self.model.config.classifier.centre
        first = [max(0, begin - centre) // stride * stride for begin, _ in extended]
        last = [min(length, end + centre) for (_, end), length in zip(extended, size)]
        wanted = np.zeros([stop - start for start, stop in zip(first, last)], bool)
        in_frame = _slices(extended, first)
        wanted[in_frame] = holding[predicted]
        shift = jnp.array([[begun - (start - reach) for start, begun in zip(corner, first)]], jnp.int32)
        found = predict_scene(
            lambda centres: self._classify(self._classifier, data, centres + shift),
            wanted.shape,
            stride=stride,
            batch_size=self.model.config.predict.batch_size,
            where=wanted,
        )
        found = {name: probabilities[in_frame] for name, probabilities in found.items()}
        guides = {name: image[predicted] for name, image in images.items()}
        found["fused"] = smoothing.smooth(guides, found["fused"], self.radius)
        shown = _slices(window, [begin for begin, _ in extended])
        return Predicted({name: probabilities[shown] for name, probabilities in found.items()}, holding[mapped])

    def _diffusion_levels(
        self, scene: SceneWindows, corner: tuple[int, int], images: Mapping, valid: Mapping, tiles: TileCache
    ) -> tuple[jax.Array, ...]:
        """Features of a window and as far as it reaches, by level."""
        config, size = self.model.config.features, scene.grid.shape
        seen = [np.arange(start - self._halo, start + self.side + self._halo) for start in corner]
        places = [mirrored(index, length) for index, length in zip(seen, size)]
        noise = noise_field(self.model.channels, config.seed, config.draws, *places, width=size[1])
        arrays = jax.tree.map(jnp.asarray, {"images": images, "valid": valid, "noise": noise})

        def features(row: int, column: int) -> tuple[Level, ...]:
            starts = [at - (start - self._halo) for at, start in zip((row, column), corner)]
            centre = jnp.array([start + config.tile // 2 for start in starts], jnp.int32)
            levels = [np.asarray(level) for level in self._activations(self._denoiser, arrays, centre)]
            return standardise_features(levels, self._statistics)

        return tiles.cut(corner, self.side, self._reach, size, features)

    def _context_level(self, scene: SceneWindows, corner: tuple[int, int], blocks: TileCache) -> tuple[jax.Array, ...]:
        """The classical context of a window and as far as it reaches; profiles see further than features do."""

        def context(row: int, column: int) -> tuple[Level, ...]:
            seen, inside = surroundings((row, column), scene.grid.shape)
            read = scene.read(*seen)
            images = seen_by_models(self.model.transforms, read)
            return (extraction.as_level(block_maps(images, inside, **self._context)),)

        return blocks.cut(corner, self.side, self._reach, scene.grid.shape, context)


def window_corners(shape: tuple[int, int], side: int) -> list[tuple[int, int]]:
    """Row and column of the upper left pixel of each window of a scene."""
    return list(itertools.product(range(0, shape[0], side), range(0, shape[1], side)))


def map_scene(
    mapper: WindowMapper, scene: SceneWindows, folder: pathlib.Path, on_window: Callable[[int], None] | None = None
) -> bool:
    """Writes the maps of a scene: those of `mapping.write_maps`, window by window; False where that was done already.

    What an earlier call has written before it was broken off is kept, if model, scene and settings are the same. Where
    the model lies elsewhere, `config.json` and `scene.json` are written beside the maps.

    Args:
      mapper: of the model.
      scene: that is mapped.
      folder: that takes the maps; made if need be.
      on_window: told 1 after each window, in place of a progress bar.
    """
    config, classes, grid = mapper.model.config, mapper.model.classes, scene.grid
    files = {mapping.MAP: map_bands(classes, config.predict.without)} | {
        name: share_bands(descriptions) for name, descriptions in mapping.described_shares(config, classes).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    maps = WindowedMaps(folder, files, grid.shape, grid.georeference, fingerprint(mapper, scene))
    corners, picture = window_corners(grid.shape, mapper.side), folder / "map.png"
    if len(maps.done) == len(corners) and maps.finished and picture.is_file():
        return False
    picture.unlink(missing_ok=True)
    findings = find_drift(mapper, scene)
    if folder.resolve() != mapper.model.weights.resolve():
        describe(mapper.model, scene, findings, folder)
    with progress("Mapping", len(corners), unit="tile", start=len(maps.done), shown=on_window is None) as bar:
        for row, column, found in mapper.predict(scene, maps.done):
            maps.write(row, column, found and window_layers(mapper, found))
            (on_window or bar.advance)(1)
    for name in (mapping.MEMBERS, voting.FILE, smoothing.FILE):  # of an earlier prediction in one piece
        (folder / name).unlink(missing_ok=True)
    if mapper.radius:
        write_json(folder / smoothing.FILE, {"radius": mapper.radius, "validation_aa": {}, "without": None})
    if mapping.UNCERTAINTY not in files:  # there may be one of an earlier prediction, by more branches
        (folder / mapping.UNCERTAINTY).unlink(missing_ok=True)
    write_legend(folder / mapping.MAP, classes)
    maps.finish()
    draw_map(picture, scene.name, grid, classes, *survey_map(folder / mapping.MAP, len(classes)))
    return True


def map_by_windows(
    folder: pathlib.Path | None, config: Config, workdir: pathlib.Path, *, force: bool = False
) -> pathlib.Path:
    """Maps the scene of a configuration by windows of `predict.tile`; where the map lies.

    Args:
      folder: of the model; the workdir by default.
      config: its `scene` and `predict` sections count, all else is the model's.
      workdir: that takes the maps.
      force: go on in a workdir of another configuration.

    Raises:
      InputError: there is no such model, or the scene cannot be used.
    """
    model = read_model(folder or workdir, config)
    check_workdir(model.config if folder else config, workdir, force=force)
    map_scene(WindowMapper(model), open_windows(config.scene, config.predict.without), workdir)
    return workdir / mapping.MAP


def describe(model: Model, scene: SceneWindows, findings: list[Finding], folder: pathlib.Path) -> None:
    """Writes `config.json` and `scene.json` beside a map; of the scene, what is known without reading it whole."""
    corner = scene.read(slice(0, 1), slice(0, 1))
    record = {
        "name": scene.name,
        "shape": list(scene.grid.shape),
        "georeference": dataclasses.asdict(scene.grid.georeference) if scene.grid.georeference else None,
        "sources": [dataclasses.asdict(describe_source(path)) for path in scene.files],
        "modalities": {
            name: {"bands": list(transform.bands), "statistics": transform.to_dict()}
            | ({"kind": corner[name].kind} if name in corner else {"absent": True})
            for name, transform in model.transforms.items()
        },
        "classes": [dataclasses.asdict(cover) for cover in model.classes],
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }
    write_json(folder / "config.json", {"config": model.config.to_dict(), "versions": versions()})
    write_json(folder / "scene.json", record)


def window_layers(mapper: WindowMapper, found: Predicted) -> dict[str, np.ndarray]:
    """What the files hold of a window."""
    classes = np.where(found.valid, found.predictions["fused"].argmax(-1), -1).astype(np.int32)
    shares = mapping.shares(mapper.model.config, found.predictions)
    return {mapping.MAP: map_layer(classes)} | {name: share_layers(of, found.valid) for name, of in shares.items()}


def fingerprint(mapper: WindowMapper, scene: SceneWindows) -> str:
    """Of all that a map depends on: of the files of the scene by their size and the time that they were changed."""
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in scene.files]
    return extraction.fingerprint(repr((mapper.fingerprint, mapper.model.config.scene.to_dict(), files)))


def find_drift(mapper: WindowMapper, scene: SceneWindows) -> list[Finding]:
    """Says where a scene lies far off the one that the model was trained on, as a sample of it shows; what was said."""
    side = min(SAMPLE_SIDE, *scene.grid.shape)
    starts = [np.unique(np.linspace(0, n - side, SAMPLES).astype(int)).tolist() for n in scene.grid.shape]
    parts = [scene.read(slice(i, i + side), slice(j, j + side)) for i, j in itertools.product(*starts)]
    findings = []
    present = {name: fit for name, fit in mapper.model.transforms.items() if name in scene.names}
    for name, transform in present.items():
        image = np.concatenate([transformed(name, transform, part[name]) for part in parts])
        valid = np.concatenate([part[name].valid for part in parts])
        if valid.any() and (found := describe_drift(name, measure_drift(image, valid, transform.explained))):
            print(f"{scene.name}: {found.subject} {found.message}", file=sys.stderr, flush=True)
            findings.append(found)
    return findings


def _mosaic(tiles: Sequence[Sequence[Float[np.ndarray, "_ _ _ _"]]]) -> Float[np.ndarray, "H W t c"]:
    return np.concatenate([np.concatenate(row, axis=1) for row in tiles], axis=0)


def _slices(spans: Iterable[tuple[int, int]], origin: Sequence[int]) -> tuple[slice, ...]:
    """Spans of the scene, as they lie in an array that begins at the origin."""
    return tuple(slice(begin - zero, end - zero) for (begin, end), zero in zip(spans, origin))
