"""What a Keras model computes, in words that do not hold its names and seeds."""

import hashlib
import inspect
import warnings

# What says nothing of what is computed, or differs from one model to its twin.
LEFT_OUT = frozenset({"name", "seed", "dtype", "build_config", "registered_name"})
# Of every layer, though no signature names them.
DEFAULTS = {"trainable": True}


def digest(model) -> str:
    """Returns 12 hexadecimal digits that models of one `outline` share."""
    return hashlib.sha256("\n".join(outline(model)).encode()).hexdigest()[:12]


def outline(model) -> list[str]:
    """Returns a line for each operation: its class, options, and which it comes after.

    Options are those that differ from the class's defaults, so that another version of
    Keras, which knows more of them, says the same. Of a layer without a config, an
    anonymous function and an object that has no words nothing is known but its kind;
    nothing of what a subclass of `keras.Model` does between its layers.

    Args:
        model: fresh: operations that another model uses as well come after more.

    Example:
        >>> import keras
        >>> outline(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
        ['Dense(activation=linear, units=2)']
    """
    operations = list(getattr(model, "operations", model.layers))
    places = {id(one): i for i, one in enumerate(operations)}
    lines = []
    for one in operations:
        before = [places[id(s)] for s in _sources(one) if id(s) in places]
        after = f" after {', '.join(map(str, before))}" if before else ""
        lines.append(f"{_operation(one)}{after}")
    return lines


def _sources(operation):
    """Returns the operations whose outputs one is called on, in their order."""
    return [
        tensor._keras_history.operation
        for node in getattr(operation, "_inbound_nodes", ())
        for tensor in node.input_tensors
    ]


def _operation(operation):
    if getattr(operation, "layers", None):
        return f"{type(operation).__name__}({'; '.join(outline(operation))})"
    return words(operation)


def words(operation) -> str:
    """Returns an object of Keras' as its class and the options that are not usual."""
    kind = type(operation)
    try:
        with warnings.catch_warnings():  # of functions that no file could hold
            warnings.simplefilter("ignore")
            config = operation.get_config()
    except Exception:  # a user's own, or Keras' of a user's function
        return kind.__name__
    known = inspect.signature(kind.__init__).parameters
    defaults = DEFAULTS | {key: one.default for key, one in known.items()}
    return f"{kind.__name__}({_options(config, defaults)})"


def _options(config, defaults):
    told = {key: _told(v) for key, v in config.items() if key not in LEFT_OUT}
    usual = {key: _told(v) for key, v in defaults.items()}
    return ", ".join(
        f"{key}={value}"
        for key, value in sorted(told.items())
        if key not in usual or _plain(value) != _plain(usual[key])
    )


def _told(value):
    """Returns an option in words, whatever Keras wraps it in."""
    if isinstance(value, dict) and "class_name" in value:
        name, inside = value["class_name"], value.get("config")
        if isinstance(inside, dict):
            some = {key: one for key, one in inside.items() if one is not None}
            inside = _options(some, {})
        # The code of a function knows the file that it was written in.
        return "a function" if name == "__lambda__" else f"{name}({inside})"
    if isinstance(value, dict):
        # So Keras writes an anonymous activation.
        functional = value.keys() == {"value"}
        return "a function" if functional else f"{{{_options(value, {})}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_told, value))}]"
    if value is None or isinstance(value, str | int | float):
        return str(value)
    return type(value).__name__  # words of others may hold an address


def _plain(told):
    """Returns words in which an object is equal to its name: `Zeros()`, "zeros"."""
    return told.removesuffix("()").replace("_", "").lower()
