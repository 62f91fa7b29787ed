"""From the values of a label image to class indices and a class table."""

from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Bool, Int, Shaped

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.scene import UNLABELLED, Finding, LandCover

# Twenty hues in an order in which neighbours differ in lightness too, led by Okabe and Ito's colour-blind-safe eight.
PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#56b4e9", "#d55e00", "#5a5a5a",
    "#332288", "#b8de6f", "#882255", "#44aa99", "#ddcc77", "#aa4499", "#117733", "#c9b8e8",
    "#661100", "#a6cee3", "#999933", "#f4a6a0",
)  # fmt: skip

# What maps of land cover are usually painted in; taken where a class bears such a name and the configuration no colour.
FAMILIAR_COLOURS = {
    "water": "#2f6fb5", "trees": "#1b6e3c", "tree": "#1b6e3c", "forest": "#1b6e3c", "woodland": "#1b6e3c",
    "flooded vegetation": "#5fb3a8", "crops": "#e6b422", "arable land": "#e6b422", "built": "#c0392b",
    "roof": "#c0392b",
    "bare": "#b8a58c", "soil": "#9c6b3f", "rangeland": "#c5d86d", "grass": "#8fc95b", "low vegetation": "#8fc95b",
    "pavement": "#6e6e78", "other": "#a569bd",
}  # fmt: skip


def read_labels(
    values: Shaped[np.ndarray, "h w"],
    valid: Bool[np.ndarray, "h w"],
    *,
    ignore: Collection[int] = (0,),
    names: Mapping[str, str] | None = None,
    colours: Mapping[str, str] | None = None,
    what: str = "scene.labels",
) -> tuple[Int[np.ndarray, "h w"], tuple[LandCover, ...], list[Finding]]:
    """Turns the values of a label image into class indices, in ascending order of value.

    What has only one reading is mapped and said: whole numbers stored as floats, one negative value or 255 for
    'unlabelled', values 0 … k - 1 where the names are numbered 1 … k. Anything else is an error.

    Args:
      values: what the file holds.
      valid: where the file declares no nodata.
      ignore: values that mean 'unlabelled'.
      names: from a value, as a string, to the class's name; empty names the classes by their values.
      colours: from a value, as a string, to "#rrggbb".
      what: the file or field that messages name.

    Raises:
      InputError: with the values found, where they have no reading or more than one, or name fewer than two classes.
    """
    findings: list[Finding] = []
    numbers = whole_numbers(values, valid, what)
    if not np.issubdtype(values.dtype, np.integer):
        findings.append(Finding("note", "labels", f"{what} is stored as {values.dtype}, all values are whole numbers."))
    named, coloured = _by_value(names, "names"), _by_value(colours, "colours")
    unlabelled = _unlabelled_values(numbers[valid], set(ignore), named, what, findings)
    labelled = valid & ~np.isin(numbers, list(unlabelled))
    found = [int(value) for value in np.unique(numbers[labelled])]
    if named and found and _is_off_by_one(found, named):
        shifted = f"{found[0] + 1} … {found[-1] + 1}"
        message = f"{what} holds {found[0]} … {found[-1]}; read as {shifted}, which the names say."
        findings.append(Finding("warning", "labels", message))
        numbers, found = numbers + 1, [value + 1 for value in found]
    unknown = [value for value in found if named and value not in named]
    if unknown:
        raise InputError(
            f"{what} holds the values {found}, but scene.labels.names has no name for {unknown}; name them, or list"
            " them in scene.labels.ignore if they mean unlabelled."
        )
    if len(found) < 2:
        raise InputError(
            f"{what} holds the classes {found} besides the unlabelled values {sorted(unlabelled)}; two or more are"
            " needed. Check the file, and scene.labels.ignore."
        )
    absent = [named[value] for value in named if value not in found]
    if absent:
        findings.append(Finding("note", "labels", f"no pixel of {', '.join(absent)}; left out of the class table."))
    labels = np.full(values.shape, UNLABELLED, np.int32)
    labels[labelled] = np.searchsorted(found, numbers[labelled]).astype(np.int32)
    return labels, class_table({value: named.get(value, f"class {value}") for value in found}, coloured), findings


def whole_numbers(
    values: Shaped[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"], what: str
) -> Int[np.ndarray, "h w"]:
    """The values as integers, 0 where they do not hold.

    Raises:
      InputError: where they are fractions, or no numbers at all.
    """
    if values.dtype == bool or np.issubdtype(values.dtype, np.integer):
        return np.where(valid, values, 0).astype(np.int64)
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"{what} holds {values.dtype} values, whole numbers are expected.")
    inside = values[valid]
    fractional = inside[inside != np.round(inside)]
    if len(fractional):
        examples = ", ".join(f"{value:g}" for value in np.unique(fractional)[:5])
        raise InputError(
            f"{what} holds fractions such as {examples}; whole numbers are expected. It may have been resampled with"
            " another method than nearest neighbour, or be the wrong file."
        )
    return np.where(valid, values, 0).astype(np.int64)


def class_table(names: Mapping[int, str], colours: Mapping[int, str]) -> tuple[LandCover, ...]:
    """Classes in ascending order of value, each with a colour of its own."""
    table: list[LandCover] = []
    for value in sorted(names):
        familiar = FAMILIAR_COLOURS.get(names[value].lower())
        taken = {entry.colour for entry in table} | {colour.lower() for colour in colours.values()}
        spare = [colour for colour in PALETTE if colour not in taken] or list(PALETTE)
        default = familiar if familiar and familiar not in taken else spare[0]
        table.append(LandCover(names[value], checked_colour(colours.get(value, default), names[value])))
    return tuple(table)


def checked_colour(colour: str, name: str) -> str:
    """The colour in lower case.

    Raises:
      InputError: unless it is written "#rrggbb".
    """
    digits = colour.lower().removeprefix("#")
    if not colour.startswith("#") or len(digits) != 6 or set(digits) - set("0123456789abcdef"):
        raise InputError(f"scene.labels.colours: the colour of '{name}' is '{colour}', expected '#rrggbb'.")
    return colour.lower()


def _unlabelled_values(inside, ignore: set[int], names: Mapping[int, str], what: str, findings) -> set[int]:
    found = set(np.unique(inside).tolist())
    clash = sorted(ignore & set(names) & found)
    if clash:
        raise InputError(
            f"scene.labels.ignore and scene.labels.names both list {clash}: a value is either unlabelled or a class."
        )
    negative = sorted(value for value in found - ignore if value < 0)
    if len(negative) > 1:
        raise InputError(
            f"{what} holds the negative values {negative}; list those that mean unlabelled in scene.labels.ignore."
        )
    if negative and 0 in found & ignore:
        raise InputError(
            f"{what} holds {negative[0]} and 0, and scene.labels.ignore lists 0: is 0 a class? Write ignore ="
            f" ({negative[0]},) if it is, ({negative[0]}, 0) if both mean unlabelled."
        )
    unlabelled = ignore | set(negative)
    if 255 in found - ignore and 255 not in names:
        unlabelled.add(255)
    for value in sorted(unlabelled - ignore):
        count = int((inside == value).sum())
        findings.append(
            Finding("warning", "labels", f"{what}: {count} pixels of value {value} are taken as unlabelled.")
        )
    return unlabelled


def _is_off_by_one(found: list[int], names: Mapping[int, str]) -> bool:
    expected = sorted(names)
    return found == [value - 1 for value in expected] and expected == list(
        range(expected[0], expected[0] + len(expected))
    )


def _by_value(mapping: Mapping[str, str] | None, field: str) -> dict[int, str]:
    try:
        return {int(value): text for value, text in (mapping or {}).items()}
    except ValueError as error:
        raise InputError(
            f"scene.labels.{field}: keys are the values in the label file, written as strings; {error}."
        ) from error
