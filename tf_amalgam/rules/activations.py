"""Hyperbolic tangent and sigmoid: the backend's, or ones that a compiler fuses well."""

import contextlib
import contextvars

from keras import backend, ops

# tanh(x) = x·P(x²)/Q(x²) for |x| ≤ 8; beyond, 2.3e-7 are short of 1. The least
# relative error of such quotients (Lawson's iteration on linear least squares) is 6e-9,
# 3.4e-7 as float32 computes it. XLA's own has a term more, and a selection. Lowest
# power first.
LIMIT = 8.0
ABOVE = (
    0.9999999935778632,
    0.13444509166559093,
    0.0035716113352258706,
    2.1894882695850187e-05,
    1.523072845036778e-08,
)
BELOW = (
    1.0,
    0.46777836489729213,
    0.026164493504709965,
    0.0003411313849383903,
    8.522572678576049e-07,
)

_quotients = contextvars.ContextVar("quotients", default=False)


@contextlib.contextmanager
def as_quotients(wanted=True):
    """Within it, what is traced in float32 has `tanh` and `sigmoid` as quotients.

    For programs that XLA compiles for a CPU: an LSTM's cell in two thirds of the time.
    One operation after the other they would be far slower than the backend's.
    """
    token = _quotients.set(wanted)
    try:
        yield
    finally:
        _quotients.reset(token)


def tanh(x):
    """Returns the hyperbolic tangent; within `as_quotients` off by 4e-7 at most."""
    return _quotient(x) if _apt(x) else ops.tanh(x)


def sigmoid(x):
    """Returns 1/(1 + exp(−x)); within `as_quotients` off by 2e-7 at most."""
    return 0.5 + 0.5 * _quotient(0.5 * x) if _apt(x) else ops.sigmoid(x)


def _apt(x):
    return _quotients.get() and backend.standardize_dtype(x.dtype) == "float32"


def _quotient(x):
    x = ops.clip(x, -LIMIT, LIMIT)
    square = x * x
    return x * _polynomial(ABOVE, square) / _polynomial(BELOW, square)


def _polynomial(coefficients, x):
    value, *others = reversed(coefficients)
    for coefficient in others:
        value = value * x + coefficient
    return value
