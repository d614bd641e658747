"""How variables of an optimizer are stored: states `[…, P]`, whatever their chunks."""

import numpy as np
from keras import ops

from tf_amalgam.chunks import cut, joined

# What an optimizer has before it is built: iterations, and a learning rate that is no
# schedule.
UNBUILT = 2


def items_of(variables, blocks):
    """Returns what is stored one by one, in the order of an optimizer's variables.

    Args:
        variables: all of the optimizer.
        blocks: lists of blocks of variables `[C, …, S]`; those of all blocks of a part
            are one item, a tuple. Any other variable is an item of its own.
    """
    whole = [part for each in blocks for part in zip(*each, strict=True)]
    parts = {id(part[0]): part for part in whole}
    inside = {id(v) for part in whole for v in part[1:]}
    return [parts.get(id(v), v) for v in variables if id(v) not in inside]


def save(store, items, coordinates):
    """Puts the items into a store of Keras', states without their padding."""
    for i, item in enumerate(items):
        store[str(i)] = (
            joined([ops.convert_to_numpy(v) for v in item], coordinates)
            if isinstance(item, tuple)
            else ops.convert_to_numpy(item)
        )


def misfit(store, items, coordinates, built=True) -> str:
    """Returns why what `save` put into a store is none of these items; "" if it is.

    Args:
        store: of Keras'.
        items: see `items_of`.
        coordinates: trainable parameters.
        built: whether the optimizer has been; before it, it has no state.
    """
    saved = len(store.keys())
    if saved != len(items):
        if saved <= UNBUILT:
            return "the saved one had no state of its own, as before it trains."
        if not built:
            return (
                "it has no state yet. Build it first, optimizer.build("
                "model.trainable_variables), and load again."
            )
        return (
            f"the saved state is of {saved} parts, this one of {len(items)} (other "
            "options, or other layers frozen)."
        )
    for i, item in enumerate(items):
        there = tuple(store[str(i)].shape)
        if isinstance(item, tuple) and there[-1:] != (coordinates,):
            return (
                f"the saved state is of a model with {there[-1] if there else 1:,} "
                f"trainable parameters, this one has {coordinates:,}."
            )
        shape = _shape(item, coordinates)
        if there != shape:
            name = item[0].name if isinstance(item, tuple) else item.name
            return f"{name} of the saved state has shape {there}, not {shape}."
    return ""


def _shape(item, coordinates):
    """Returns the shape that an item is stored in."""
    if not isinstance(item, tuple):
        return tuple(item.shape)
    _, *leading, _ = item[0].shape
    return (*leading, coordinates)


def load(store, items):
    """Assigns to the items what `save` put into a store, whatever chunks it was of."""
    for i, item in enumerate(items):
        value = store[str(i)]
        if not isinstance(item, tuple):
            item.assign(value)
            continue
        count, *_, size = item[0].shape
        chunks = cut(np.asarray(value), len(item) * count, size)
        for block, variable in enumerate(item):
            variable.assign(chunks[block * count : (block + 1) * count])
