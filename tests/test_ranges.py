import pytest

from bdgf_jax import configuration
from bdgf_jax.errors import InputError
from bdgf_jax.ranges import ALLOWED, FIELDS

BASE = dict(configuration.flatten(configuration.load("base")))
TOO_LITTLE = {"1 or more": 0, "0 or more": -1, "more than 0": 0, "a number from 0 to 1": -0.5}
TOO_MUCH = {"a number from 0 to 1": 1.5, "a number from 0 to less than 1": 1.0}
CASES = [
    (field, values[expected])
    for expected, fields in FIELDS.items()
    for values in (TOO_LITTLE, TOO_MUCH)
    if expected in values
    for field in fields
]


def test_no_field_has_two_ranges_and_all_exist():
    fields = [field for some in FIELDS.values() for field in some]
    assert len(fields) == len(set(fields))
    assert set(fields) <= set(BASE)
    assert set(FIELDS) == set(ALLOWED)


@pytest.mark.parametrize(("field", "value"), CASES)
def test_a_number_out_of_its_range_is_refused_by_name(field, value):
    as_it_is = BASE[field]
    kind = type((as_it_is or [0])[0] if isinstance(as_it_is, list) else as_it_is)
    given = (kind(value), kind(value)) if isinstance(as_it_is, list) else kind(value)
    with pytest.raises(InputError, match=rf"config.{field} is .*; expected"):
        configuration.load("base", [f"--config.{field}={given}"])


def test_what_is_no_number_in_a_list_of_numbers_is_refused_by_name():
    with pytest.raises(InputError, match=r"config.masking.ramp is \['x', 0.8\]; expected a number from 0 to 1"):
        configuration.load("base", ["--config.masking.ramp=('x', 0.8)"])
