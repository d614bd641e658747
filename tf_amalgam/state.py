"""A meta-training run as a value: what it is between two meta-updates, and on disk."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_amalgam.curriculum import Progress


class Learned(NamedTuple):
    """What meta-training moves."""

    weights: dict  # φ by name, NumPy
    meta_optimizer: tuple  # variables of Adam, NumPy


class State(NamedTuple):
    """A run between two meta-updates. Nothing in it is ever changed in place."""

    now: Learned
    best: Learned  # of this stage, or what the stage was handed
    best_score: float
    best_updates: int
    progress: Progress
    carries: tuple  # one Carry per optimizee in mid-unroll; () between unrolls
    meta_epoch: int  # of the whole run, repeats included: names the seeds
    period_epoch: int  # meta-epochs done in this period
    truncation: int  # truncations done in this meta-epoch
    updates: int  # truncations done in all, skipped ones included
    skipped: int  # meta-updates left out for a non-finite meta-gradient
    skipped_in_a_row: int
    seconds: float  # spent, in all calls; the only figure that no seed fixes
    history: tuple  # a dict per update
    validations: tuple  # a dict per validation


LEARNED = ("now", "best")


def fresh(weights, slots) -> State:
    """Returns the state before the first meta-update."""
    start = Learned(weights, slots)
    return State(
        now=start,
        best=start,
        best_score=float("inf"),
        best_updates=0,
        progress=Progress(),
        carries=(),
        meta_epoch=0,
        period_epoch=0,
        truncation=0,
        updates=0,
        skipped=0,
        skipped_in_a_row=0,
        seconds=0.0,
        history=(),
        validations=(),
    )


def to_arrays(state: State) -> dict:
    """Returns the arrays of a state by name."""
    arrays: dict[str, Any] = {}
    for kind in LEARNED:
        learned = getattr(state, kind)
        arrays |= {f"{kind}/weights/{k}": v for k, v in learned.weights.items()}
        for i, value in enumerate(learned.meta_optimizer):
            arrays[f"{kind}/meta_optimizer/{i}"] = value
    for j, carry in enumerate(state.carries):
        for i, value in enumerate(tf.nest.flatten(carry)):
            arrays[f"carry/{j}/{i}"] = np.asarray(value)
    return arrays


def to_facts(state: State) -> dict:
    """Returns what of a state is no array, ready for JSON."""
    arrays = (*LEARNED, "carries")
    return {k: v for k, v in state._asdict().items() if k not in arrays}


def restored(state: State, arrays: dict, facts: dict, template) -> State:
    """Returns the state that arrays and facts came from.

    Args:
        state: a fresh one: the names of its weights and the count of its slots.
        template: a Carry of the same structure and shapes.

    Raises:
        ValueError: where the shapes of an unroll are others.
    """
    names, slots = state.now.weights, range(len(state.now.meta_optimizer))
    learned = {
        kind: Learned(
            {k: arrays[f"{kind}/weights/{k}"] for k in names},
            tuple(arrays[f"{kind}/meta_optimizer/{i}"] for i in slots),
        )
        for kind in LEARNED
    }
    carries: list = []
    parts = tf.nest.flatten(template)
    while f"carry/{len(carries)}/0" in arrays:
        start = f"carry/{len(carries)}/"
        count = sum(name.startswith(start) for name in arrays)
        found = [arrays[f"{start}{i}"] for i in range(count)]
        if list(map(np.shape, found)) != list(map(np.shape, parts)):
            raise ValueError(
                "The checkpoint holds an unroll whose state has other shapes: it was "
                "written by another version of tf_amalgam. Finish the run with that "
                "version, or start anew in another folder."
            )
        values = [tf.constant(value) for value in found]
        carries.append(tf.nest.pack_sequence_as(template, values))
    fields: dict[str, Any] = {
        **facts,
        **learned,
        "carries": tuple(carries),
        "progress": Progress(*facts["progress"]),
        "history": tuple(facts["history"]),
        "validations": tuple(facts["validations"]),
    }
    return state._replace(**fields)
