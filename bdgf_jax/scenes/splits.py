"""Which labelled pixels train, validate and test."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from scipy.ndimage import maximum_filter

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.scene import UNLABELLED, empty_masks

DRAWS = 1000


@dataclass(frozen=True)
class Blocks:
    """How a scene is split into blocks.

    Args:
      side: of a block, in pixels.
      train_share: share of the blocks that hold labels from which training pixels are drawn.
      per_class: at most so many training pixels of a class.
      guard: every test pixel lies more than so many pixels (Chebyshev distance) from every training pixel.
      validation_share: share of the training blocks that is set aside whole for validation.
      minimum_test_pixels: classes with fewer are left out of the split.
      seed: of every draw.
    """

    side: int = 16
    train_share: float = 0.35
    per_class: int = 60
    guard: int = 10
    validation_share: float = 0.0
    minimum_test_pixels: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.side < 1 or self.per_class < 1 or self.guard < 0:
            raise InputError(
                f"scene.split: block {self.side}, per_class {self.per_class} and guard {self.guard} must be at least 1,"
                " 1 and 0."
            )
        if not 0 < self.train_share < 1 or not 0 <= self.validation_share < 1:
            raise InputError(
                f"scene.split: train_blocks {self.train_share} and validation_blocks {self.validation_share} are"
                " shares; the first must lie between 0 and 1, the second may be 0."
            )


@dataclass(frozen=True, eq=False)
class Split:
    """Disjoint masks, the classes that they leave out, and how they were made."""

    masks: dict[str, Bool[np.ndarray, "h w"]]
    dropped: tuple[int, ...]
    description: str


def split_blocks(labels: Int[np.ndarray, "h w"], blocks: Blocks) -> Split:
    """Spatially disjoint blocks with a guard band: no test patch shares what a training patch has seen.

    Blocks are drawn until every class has a training pixel (and a validation block leaves it one). Training pixels are
    drawn from the training blocks, at most `per_class` of each class; validation pixels are all labelled pixels of the
    blocks set aside, test pixels all those of the other blocks, both farther than `guard` from every training pixel.

    Raises:
      InputError: where no draw gives every class a training pixel, or nothing is left to test on.
    """
    present = np.unique(labels[labels != UNLABELLED])
    counts = np.bincount(labels[labels != UNLABELLED], minlength=int(present.max(initial=0)) + 1)
    dropped = [int(k) for k in present if counts[k] <= blocks.minimum_test_pixels]
    block_of = block_index(labels.shape, blocks.side)
    while True:
        kept = np.where(np.isin(labels, dropped), UNLABELLED, labels)
        masks = _draw_blocks(kept, block_of, blocks)
        tested = np.bincount(kept[masks["test"]], minlength=len(counts))
        scarce = [int(k) for k in present if k not in dropped and tested[k] < blocks.minimum_test_pixels]
        if not scarce:
            break
        # Drawn again without them, since their training pixels no longer keep test pixels at a distance.
        dropped += scarce
    if not masks["test"].any():
        raise InputError(
            f"with blocks of {blocks.side} pixels and a guard of {blocks.guard} no test pixel is left; use larger"
            " blocks or a smaller guard (scene.split.block, scene.split.guard)."
        )
    description = (
        f"spatially disjoint blocks of {blocks.side} × {blocks.side} pixels, {blocks.train_share:.0%} of them for"
        f" training, at most {blocks.per_class} training pixels a class, test pixels more than {blocks.guard} pixels"
        f" from every training pixel, {_validation_in_words(blocks.validation_share)}, seed {blocks.seed}"
    )
    return Split(masks, tuple(sorted(dropped)), description)


def split_per_class(labels: Int[np.ndarray, "h w"], *, per_class: int, validation_share: float, seed: int) -> Split:
    """Random pixels of every class, all others for the test.

    Patches round test pixels overlap those round training pixels, so that scores come out 8 to 20 points too high: for
    comparison with figures that were made so, never for choosing between methods.
    """
    random = np.random.default_rng(seed)
    masks = empty_masks(labels.shape)
    for k, pixels in _pixels_by_class(labels):
        if len(pixels) < 2:
            raise InputError(f"class {k} has one labelled pixel, which cannot both train and test.")
        drawn = random.permutation(pixels)
        training = min(per_class, len(pixels) // 2)
        validating = min(round(validation_share * training), training - 1)
        masks["validation"].flat[drawn[:validating]] = True
        masks["train"].flat[drawn[validating:training]] = True
        masks["test"].flat[drawn[training:]] = True
    description = (
        f"at most {per_class} random pixels a class for training, seed {seed}: test patches overlap training patches,"
        " so that scores are too high"
    )
    return Split(masks, (), description)


def split_masks(
    labels: Int[np.ndarray, "h w"],
    train: Bool[np.ndarray, "h w"],
    test: Bool[np.ndarray, "h w"],
    blocks: Blocks,
) -> Split:
    """Masks as they were given; validation, where it is wanted, takes whole blocks out of the training mask.

    Raises:
      InputError: where the masks overlap, a class that is tested has no training pixel, or one mask is empty.
    """
    overlap = train & test
    if overlap.any():
        row, column = (int(i) for i in np.argwhere(overlap)[0])
        raise InputError(
            f"the training and the test mask share {int(overlap.sum())} pixels, the first at row {row}, column"
            f" {column}; take them out of one of the two files."
        )
    labelled = labels != UNLABELLED
    masks = {**empty_masks(labels.shape), "train": train & labelled, "test": test & labelled}
    for name in ("train", "test"):
        if not masks[name].any():
            raise InputError(
                f"the {name} mask holds no labelled pixel; check scene.split.{name}_file and scene.labels."
            )
    untrained = np.setdiff1d(labels[masks["test"]], labels[masks["train"]])
    if len(untrained):
        raise InputError(
            f"classes {[int(k) for k in untrained]} (counted from 0) have test pixels and no training pixel; add some,"
            " or list their values in scene.labels.ignore."
        )
    if blocks.validation_share:
        block_of = block_index(labels.shape, blocks.side)
        trained = np.where(masks["train"], labels, UNLABELLED)
        candidates = np.unique(block_of[masks["train"]])
        random = np.random.default_rng(blocks.seed)
        aside = _set_aside(random, _counts_by_block(trained, block_of), candidates, blocks.validation_share)
        masks["validation"] = masks["train"] & np.isin(block_of, aside)
        masks["train"] = masks["train"] & ~masks["validation"]
    return Split(masks, (), f"the masks given with the scene, {_validation_in_words(blocks.validation_share)}")


def block_index(shape: tuple[int, ...], side: int) -> Int[np.ndarray, "h w"]:
    """Number of the block in which each pixel lies."""
    height, width = shape
    rows, columns = np.arange(height) // side, np.arange(width) // side
    return rows[:, None] * (columns[-1] + 1) + columns[None, :]


def within_reach(mask: Bool[np.ndarray, "h w"], reach: int) -> Bool[np.ndarray, "h w"]:
    """Pixels at a Chebyshev distance of at most `reach` from the mask."""
    return maximum_filter(mask, size=2 * reach + 1, mode="constant", cval=False)


def _draw_blocks(labels, block_of, blocks: Blocks) -> dict[str, Bool[np.ndarray, "h w"]]:
    random = np.random.default_rng(blocks.seed)
    labelled = labels != UNLABELLED
    if len(np.unique(labels[labelled])) < 2:
        raise InputError(
            f"after leaving out classes with fewer than {blocks.minimum_test_pixels} test pixels"
            " (scene.labels.minimum_test_pixels) less than two classes remain to be split; the scene is too small for"
            f" blocks of {blocks.side} pixels with a guard of {blocks.guard}."
        )
    counts = _counts_by_block(labels, block_of)
    candidates = np.unique(block_of[labelled])
    drawn = max(1, round(blocks.train_share * len(candidates)))
    chosen = _training_blocks(random, counts, candidates, drawn, blocks)
    aside = _set_aside(random, counts, chosen, blocks.validation_share)
    training = np.setdiff1d(chosen, aside)
    masks = empty_masks(labels.shape)
    drawable = np.where(np.isin(block_of, training), labels, UNLABELLED)
    for _, pixels in _pixels_by_class(drawable):
        masks["train"].flat[random.permutation(pixels)[: blocks.per_class]] = True
    near = within_reach(masks["train"], blocks.guard)
    masks["validation"] = labelled & np.isin(block_of, aside) & ~near
    masks["test"] = labelled & ~np.isin(block_of, chosen) & ~near
    return masks


def _training_blocks(random, counts, candidates: Int[np.ndarray, " b"], drawn: int, blocks: Blocks):
    """Blocks that together hold every class."""
    lacking = np.arange(0)
    for _ in range(DRAWS):
        chosen = random.permutation(candidates)[:drawn]
        lacking = np.flatnonzero((counts.sum(axis=0) > 0) & (counts[chosen].sum(axis=0) == 0))
        if not len(lacking):
            return chosen
    raise InputError(
        f"no draw of {drawn} of {len(candidates)} blocks of {blocks.side} pixels holds every class (the last one lacks"
        f" {lacking.tolist()}, counted from 0); use smaller blocks, or more of them: scene.split.block,"
        " scene.split.train_blocks."
    )


def _set_aside(random, counts, chosen: Int[np.ndarray, " b"], share: float) -> Int[np.ndarray, " a"]:
    """Blocks for validation: whole ones, and such that every class keeps a training pixel."""
    wanted = round(share * len(chosen))
    if share > 0:
        wanted = min(max(1, wanted), len(chosen) - 1)
    classes = counts[chosen].sum(axis=0) > 0
    for _ in range(DRAWS if wanted else 0):
        aside = random.permutation(chosen)[:wanted]
        if (counts[np.setdiff1d(chosen, aside)].sum(axis=0) > 0)[classes].all():
            return aside
    if wanted:
        raise InputError(
            f"no draw of {wanted} of {len(chosen)} training blocks for validation leaves every class a training pixel;"
            " lower scene.split.validation_blocks, or use smaller blocks."
        )
    return chosen[:0]


def _counts_by_block(labels, block_of) -> Int[np.ndarray, "b k"]:
    labelled = labels != UNLABELLED
    classes = int(labels.max(initial=0)) + 1
    cells = block_of[labelled] * classes + labels[labelled]
    return np.bincount(cells, minlength=(int(block_of.max()) + 1) * classes).reshape(-1, classes)


def _pixels_by_class(labels) -> Iterator[tuple[int, Int[np.ndarray, " n"]]]:
    for k in np.unique(labels[labels != UNLABELLED]):
        yield int(k), np.flatnonzero(labels == k)


def _validation_in_words(share: float) -> str:
    return f"{share:.0%} of the training blocks set aside for validation" if share else "no validation pixels"
