"""One step of a rule on the tensors that have a gradient; its state is in variables."""

from typing import NamedTuple

from keras import ops, tree

from tf_amalgam import compiled
from tf_amalgam.chunks import update_in_chunks
from tf_amalgam.layout import Layout

# Parts of a rule's state that average gradients, a mixture's members among them.
MOMENTS = ("m", "v", "pool", "agreement")


class Place(NamedTuple):
    """Which tensors of a model take a step.

    Attributes:
        layout: of all of them.
        tensors: numbers of those that have a gradient, in the gradients' order.
    """

    layout: Layout
    tensors: list[int]

    @property
    def part(self) -> Layout:
        """The layout of those that have a gradient."""
        return self.layout.only(self.tensors)

    @property
    def whole(self) -> bool:
        """Whether all have one."""
        return self.tensors == list(range(len(self.layout.shapes)))


def advance(
    rule, weights, state, place, grads_P, params_P, step, held=None, afresh=None
):
    """Returns delta_P of one step of a rule; its state is assigned.

    Like any Keras optimizer it leaves alone what has no gradient, and its state.

    Args:
        state: list of blocks, lists of variables of Keras or of the backend: in chunks,
            `[C, …, S]`, where a rule's coordinates do not depend on one another; else
            one block.
        place: a `Place`.
        grads_P, params_P: of the tensors at `place`.
        step: gradients seen so far, this one included.
        held: whether the rule only observes the gradient (delta 0); None if never. It
            then begins anew: what is not a moment goes back to its start, where it is
            in a warm-up anyway, and where nothing stays of what made a guard act.
        afresh: whether all of the state goes back to its start before this step; None
            if it never does.
    """
    weights = {k: ops.convert_to_tensor(v) for k, v in weights.items()}
    given = (weights, step, afresh)

    def one_way(take):
        """Returns what `take` does of the way that this step takes."""
        if held is None:
            return take(_moved)
        return ops.cond(held, lambda: take(_observed), lambda: take(_moved))

    def step_fn(vectors, values, layout):
        return one_way(lambda way: way(rule, given, vectors, values, layout))

    def in_place(vectors, variables, part):
        own = (rule, given, vectors, variables, part)
        return one_way(lambda way: compiled.in_place(way, *own))

    # A tape that records while an optimizer steps would differentiate XLA's programs.
    vectors = [ops.stop_gradient(grads_P), ops.stop_gradient(params_P)]
    if rule.coordinatewise:
        if not place.whole:
            vectors = [*(_among_zeros(v, place) for v in vectors), _has_one(place)]
        delta_P = update_in_chunks(step_fn, in_place, state, vectors, place.layout)
        return rows(delta_P, place)
    [block] = state
    wholes = _begun(rule, [ops.convert_to_tensor(part) for part in block], afresh)
    values = [rows(whole, place) for whole in wholes]
    delta_P, values = step_fn(vectors, values, place.part)
    for variable, whole, value in zip(block, wholes, values, strict=True):
        variable.assign(ops.cast(with_rows(whole, value, place), variable.dtype))
    return delta_P


def _moved(rule, given, vectors, values, layout):
    """Returns (delta, values of the state) of the rule's step of some coordinates.

    Args:
        given: (weights, step, afresh or None).
        vectors: gradients, parameters, and where some have no gradient whether one has.
        values: of the state, as a list.
    """
    weights, step, _ = given
    grads_P, params_P, *has_one = vectors
    before = _before(rule, given, values)
    own = (weights, grads_P, params_P, before, layout, step)
    delta_P, after = compiled.update(rule, *own)
    return delta_P, _kept(after, before, *has_one)


def _observed(rule, given, vectors, values, layout):
    """Returns what `_moved` does where the rule only observes the gradient."""
    _, step, _ = given
    grads_P, _, *has_one = vectors
    before = _before(rule, given, values)
    after = anew(rule, rule.observe(grads_P, before, step))
    return ops.zeros_like(grads_P), _kept(after, before, *has_one)


def _before(rule, given, values):
    """Returns the state of these values before a step, begun anew if it is to be."""
    *_, afresh = given
    empty = rule.init_state(Layout(("none",), ((0,),)))
    return tree.pack_sequence_as(empty, _begun(rule, values, afresh))


def _begun(rule, values, afresh):
    """Returns the values of a state in float32, back at their start if it is time."""
    values = [ops.cast(value, "float32") for value in values]
    if afresh is None:
        return values
    return ops.cond(afresh, lambda: _first(rule, values), lambda: values)


def _kept(after, before, has_one=None):
    """Returns the values of a state after a step: no others where is no gradient."""
    after = tree.flatten(after)
    if has_one is None:
        return after
    return [
        ops.where(has_one, a, ops.cast(b, a.dtype))
        for a, b in zip(after, tree.flatten(before), strict=True)
    ]


def anew(rule, state):
    """Returns a state with its moments, all other parts back at their start."""
    moments = {name: getattr(state, name) for name in state._fields if name in MOMENTS}
    first = tree.pack_sequence_as(state, _first(rule, tree.flatten(state)))
    return first._replace(**moments)


def _first(rule, values):
    """Returns what a state of these values is before the first step, as a list."""
    start = tree.flatten(rule.init_state(Layout(("one",), ((1,),))))
    return [
        ops.broadcast_to(one, now.shape) for one, now in zip(start, values, strict=True)
    ]


def _has_one(place):
    """Returns `[P]`: whether a coordinate's tensor has a gradient."""
    has = [i in place.tensors for i in range(len(place.layout.shapes))]
    return place.layout.spread(ops.convert_to_tensor(has, "bool"))


def _among_zeros(part_P, place):
    """Returns a vector of the tensors at `place`, with zeros for all others."""
    return with_rows(ops.zeros((place.layout.size,), part_P.dtype), part_P, place)


def rows(value, place):
    """Returns the part of a state that belongs to the tensors at `place`."""
    if place.whole:
        return value
    if value.shape[-1] == place.layout.size:
        pieces = place.layout.segments(value)
        return ops.concatenate([pieces[i] for i in place.tensors], axis=-1)
    if value.shape[-1] == len(place.layout.shapes):
        return ops.take(value, ops.convert_to_tensor(place.tensors), axis=-1)
    return value


def with_rows(old, new, place):
    """Returns the whole state again, with the new values of the tensors at `place`."""
    if place.whole:
        return new
    if old.shape[-1] == place.layout.size:
        pieces = place.layout.segments(old)
        parts = place.part.segments(new)
        for i, piece in zip(place.tensors, parts, strict=True):
            pieces[i] = ops.cast(piece, old.dtype)
        return ops.concatenate(pieces, axis=-1)
    if old.shape[-1] == len(place.layout.shapes):
        found = [old[..., i : i + 1] for i in range(len(place.layout.shapes))]
        for n, i in enumerate(place.tensors):
            found[i] = ops.cast(new[..., n : n + 1], old.dtype)
        return ops.concatenate(found, axis=-1)
    return new
