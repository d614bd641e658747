"""Checks of what is given, and what they say."""

import math

import numpy as np
import pytest

from tf_amalgam import checks


def test_unknown_names_suggest_a_near_one():
    message = checks.unknown("teacher", "Adan", ("adam", "sgd"))
    assert message == ("Unknown teacher 'Adan'. Known: adam, sgd. Did you mean 'adam'?")
    assert "Did you mean" not in checks.unknown("teacher", "xyz", ("adam", "sgd"))


def test_first_of_many():
    assert checks.first_of("abcde") == "a, b, c, d, e"
    assert checks.first_of(iter("abcdefg")) == "a, b, c, d, e and 2 more"
    assert checks.first_of("abc", 2, "; ") == "a; b and 1 more"


@pytest.mark.parametrize("value", [0, 1.0, "2", True, None, math.nan])
def test_what_is_no_whole_number(value):
    with pytest.raises(ValueError, match=r"steps must be a whole number from 1, rec"):
        checks.check_whole("steps", value, 1)


def test_whole_numbers():
    checks.check_whole("steps", 1, 1)
    checks.check_whole("steps", None, 1, or_none=True)
    with pytest.raises(ValueError, match=r"from 1, or None, received 0\."):
        checks.check_whole("steps", 0, 1, or_none=True)


def test_whole_numbers_of_numpy_are_ints():
    found = checks.as_whole("seed", np.int64(7))
    assert (found, type(found)) == (7, int)
    for value in (1.5, "1", None, True, np.float64(2.0)):
        with pytest.raises(ValueError, match="seed must be a whole number, received"):
            checks.as_whole("seed", value)


def test_a_text_is_no_sequence_of_texts():
    assert checks.sequence("rivals", ("a", "b")) == ["a", "b"]
    with pytest.raises(ValueError, match=r"rivals must be .*; write \['adam'\]"):
        checks.sequence("rivals", "adam")


def test_numbers():
    assert all(map(checks.is_number, (0, -1.5, 1e300)))
    assert not any(map(checks.is_number, (True, "1", None, math.nan, math.inf)))
