"""The one interface that everything hangs on: an update rule on a flat vector."""

import dataclasses
import math
from typing import ClassVar, NamedTuple

from keras import ops

from tf_amalgam.checks import check_number


class Empty(NamedTuple):
    """State of a rule that remembers nothing."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """An update rule: teachers, students and mixtures alike.

    A rule is immutable and holds hyperparameters only. Its weights (what
    meta-training learns; `{}` for an analytic rule) and its state are arguments,
    so that a tape, a perturbation or a finite difference reaches them. All its
    mathematics is in `keras.ops`: it knows neither TensorFlow nor files, and
    works in the dtype it is given.

    Attributes:
        name: what the registry knows it by.
        coordinatewise: whether each coordinate's step depends on that coordinate
            alone; False for a rule that couples the coordinates of a tensor, or
            tensors. Its state then has the coordinates' dimension in each part, and
            from zeros alone its step and derivatives are finite: what is divided into
            chunks is padded so.
        sees_tensors: whether it matters in which tensor a coordinate lies.
        recurrent: parts of its state that a network computes anew at every step, for
            which a smaller dtype will do.
    """

    name: ClassVar[str]
    coordinatewise: ClassVar[bool] = True
    sees_tensors: ClassVar[bool] = False
    recurrent: ClassVar[tuple[str, ...]] = ()

    def init_weights(self, seed: int | None) -> dict:
        """Returns fresh weights by name, as NumPy arrays.

        `seed` names them; with None they need not be drawn (their shapes matter).
        """
        return {}

    def weights_of(self, rule, weights):
        """Returns weights with which this rule steps as another with its own, or None.

        Meta-training may begin with them. By default only the same rule has such.
        """
        return weights if rule == self else None

    def init_state(self, layout, dtype="float32"):
        """Returns the state before the first step, a NamedTuple (nested if need be).

        Tensors whose last dimension is P belong to coordinates, those whose last
        dimension is the number of tensors belong to these, others to the whole.
        """
        return Empty()

    def noise_shape(self, layout):
        """Returns the shape of the noise that a step of meta-training draws, or None.

        A rule that has one takes uniform numbers in (0, 1) as `update`'s argument
        `noise` there; elsewhere it gets none.
        """
        return None

    def observe(self, grads_P, state, step):
        """Returns the state after a step that somebody else took (warm-up).

        Moment estimates see the gradient; recurrent state stays as it is.
        """
        return state

    def update(self, weights, grads_P, params_P, state, layout, step):
        """Returns `(delta_P, state)`; the caller *adds* the delta: θ ← θ + δ.

        `step` counts the gradients seen so far, this one included (from 1), as
        a scalar of the gradients' dtype.
        """
        raise NotImplementedError

    def get_config(self) -> dict:
        """Returns the hyperparameters, ready for JSON."""
        return dataclasses.asdict(self)


# A learning rate is a choice: there is none that would do anywhere.
NOT_GIVEN = math.nan


@dataclasses.dataclass(frozen=True)
class AnalyticRule(Rule):
    """A rule with a learning rate and nothing learned."""

    learning_rate: float = NOT_GIVEN

    def __post_init__(self):
        if self.learning_rate is NOT_GIVEN:
            raise ValueError(
                f"{type(self).__name__} needs a learning_rate. A teacher's should be "
                "tuned: `amalgam-grid-search` does that, and "
                f"`rules.make_rule({self.name!r})` has the one that the paper's "
                "authors found for their Train optimizee."
            )
        check_positive(self, "learning_rate")


def zeros(layout, *leading, dtype):
    """Returns zeros `[*leading, P]`."""
    return ops.zeros((*leading, layout.size), dtype=dtype)


def leaves(state, path=()):
    """Yields path and array of each part of a state, as `keras.tree.flatten` goes.

    Written out: Keras' `flatten_with_path` looks values of named tuples up by their
    equality on PyTorch, and returns wrong paths there (Keras 3.15).
    """
    if isinstance(state, tuple):
        for i, part in enumerate(state):
            yield from leaves(part, (*path, i))
    else:
        yield path, state


def check_positive(rule, *fields):
    """Raises ValueError unless each named hyperparameter is above 0 and finite."""
    for field in fields:
        name = f"{type(rule).__name__}: {field}"
        check_number(name, getattr(rule, field), above=True)


def check_choice(rule, field, known):
    """Raises ValueError unless the named hyperparameter is one of `known`."""
    value = getattr(rule, field)
    if value not in known:
        raise ValueError(
            f"{type(rule).__name__}: {field} must be one of {', '.join(known)}; "
            f"received {value!r}."
        )


def check_decay(rule, *fields):
    """Raises ValueError unless each named decay lies in [0, 1)."""
    for field in fields:
        value = getattr(rule, field)
        if not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise ValueError(
                f"{type(rule).__name__}: {field} must be in [0, 1), received {value!r}."
            )
