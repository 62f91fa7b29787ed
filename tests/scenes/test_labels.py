import numpy as np
import pytest

from bdgf_jax.errors import InputError
from bdgf_jax.scenes.labels import PALETTE, class_table, read_labels

NAMES = {"1": "water", "2": "trees", "3": "built"}


def read(values, **options):
    values = np.asarray(values)
    return read_labels(values, np.ones(values.shape, bool), **options)


def said(findings):
    return " ".join(finding.message for finding in findings)


def test_values_become_indices_in_ascending_order():
    labels, classes, _ = read([[0, 9, 1], [2, 2, 9]], names={"9": "rangeland", "1": "water", "2": "trees"})
    assert labels.tolist() == [[-1, 2, 0], [1, 1, 2]]
    assert [entry.name for entry in classes] == ["water", "trees", "rangeland"]
    assert labels.dtype == np.int32


def test_nodata_is_unlabelled():
    valid = np.array([[True, False, True]])
    labels, _, _ = read_labels(np.array([[1, 2, 3]]), valid)
    assert labels.tolist() == [[0, -1, 1]]


def test_whole_numbers_in_a_float_file_are_taken_and_said():
    labels, _, findings = read(np.array([[1.0, 2.0, 0.0]]), names=NAMES)
    assert labels.tolist() == [[0, 1, -1]]
    assert "stored as float64" in said(findings)


def test_fractions_are_refused_with_examples():
    with pytest.raises(InputError, match=r"fractions such as 1.5, 2.25"):
        read(np.array([[1.0, 1.5, 2.25]]))


def test_one_negative_value_is_unlabelled_and_said():
    labels, _, findings = read([[-9999, 1, 2]])
    assert labels.tolist() == [[-1, 0, 1]]
    assert "1 pixels of value -9999 are taken as unlabelled" in said(findings)


def test_two_negative_values_have_no_reading():
    with pytest.raises(InputError, match=r"negative values \[-9999, -1\]"):
        read([[-9999, -1, 1, 2]])


def test_minus_one_beside_zero_is_ambiguous_until_the_user_says():
    with pytest.raises(InputError, match=r"is 0 a class\? Write ignore = \(-1,\)"):
        read([[-1, 0, 1]])
    labels, _, _ = read([[-1, 0, 1]], ignore=(-1,))
    assert labels.tolist() == [[-1, 0, 1]]


def test_255_is_unlabelled_unless_it_is_named():
    labels, _, findings = read([[255, 1, 2]])
    assert labels.tolist() == [[-1, 0, 1]]
    assert "value 255" in said(findings)
    labels, _, _ = read([[255, 1, 2]], names={"1": "a", "2": "b", "255": "snow"})
    assert labels.tolist() == [[2, 0, 1]]


def test_labels_one_lower_than_their_names_are_shifted_and_said():
    labels, classes, findings = read([[0, 1, 2]], ignore=(), names=NAMES)
    assert labels.tolist() == [[0, 1, 2]]
    assert classes[0].name == "water"
    assert "holds 0 … 2; read as 1 … 3" in said(findings)


def test_a_value_without_a_name_is_refused_with_all_values():
    with pytest.raises(InputError, match=r"holds the values \[1, 2, 7\].*no name for \[7\]"):
        read([[1, 2, 7]], names=NAMES)


def test_a_value_both_named_and_ignored_is_refused():
    with pytest.raises(InputError, match=r"both list \[1\]"):
        read([[1, 2, 3]], ignore=(1,), names=NAMES)


def test_fewer_than_two_classes_are_refused():
    with pytest.raises(InputError, match=r"holds the classes \[1\]"):
        read([[0, 1, 1]])


def test_named_classes_without_a_pixel_leave_the_table_and_are_said():
    _, classes, findings = read([[1, 3]], names=NAMES)
    assert [entry.name for entry in classes] == ["water", "built"]
    assert "no pixel of trees" in said(findings)


def test_names_that_are_no_numbers_are_refused():
    with pytest.raises(InputError, match=r"scene.labels.names: keys are the values"):
        read([[1, 2]], names={"water": "1"})


def test_colours_are_the_given_ones_and_all_differ():
    table = class_table({value: name for value, name in enumerate(["water", "trees", "forest", "sea"])}, {3: "#ABCDEF"})
    assert table[3].colour == "#abcdef"
    assert len({entry.colour for entry in table}) == 4
    assert len(set(PALETTE)) == len(PALETTE) == 20


def test_a_colour_that_is_none_is_refused():
    with pytest.raises(InputError, match="colour of 'a' is 'blue', expected '#rrggbb'"):
        read([[1, 2]], names={"1": "a", "2": "b"}, colours={"1": "blue"})
