"""Checks of what is given, and errors that say what was expected."""

import difflib
import math
import operator
from collections.abc import Iterable


def unknown(kind: str, name, known) -> str:
    """Returns the message for a name that nobody has: known ones, near matches."""
    close = difflib.get_close_matches(str(name).lower(), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Unknown {kind} {name!r}. Known: {', '.join(known)}.{hint}"


def first_of(names, most: int = 5, separator: str = ", ") -> str:
    """Returns the first names as one text, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


def check_whole(name: str, value, least: int, or_none=False):
    """Raises ValueError unless a value is a whole number from `least`, or None."""
    if or_none and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        also = ", or None" if or_none else ""
        raise ValueError(
            f"{name} must be a whole number from {least}{also}, received {value!r}."
        )


def check_number(name: str, value, above=False, or_none=False):
    """Raises ValueError unless a value is a finite number from (above) 0, or None."""
    if or_none and value is None:
        return
    if not is_number(value) or value < 0 or (above and value == 0):
        least, also = "above" if above else "from", ", or None" if or_none else ""
        raise ValueError(
            f"{name} must be a finite number {least} 0{also}, received {value!r}."
        )


def as_whole(name: str, value) -> int:
    """Returns a whole number, of NumPy too, as an int; raises ValueError for others."""
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, received {value!r}.")
    return found


def sequence(name: str, value) -> list:
    """Returns a sequence of texts as a list; raises ValueError for a single text."""
    if isinstance(value, str):
        raise ValueError(
            f"{name} must be a sequence, received {value!r}; write [{value!r}]."
        )
    return list(value)


def several(value) -> list:
    """Returns the members of a sequence, or the one thing that stands for one."""
    alone = isinstance(value, str) or not isinstance(value, Iterable)
    return [value] if alone else list(value)


def is_number(value) -> bool:
    """Returns whether a value is a finite number, and no truth value."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)
