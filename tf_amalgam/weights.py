"""Weights of a rule: whether they are its own, and as text for a config."""

import base64

import numpy as np


def check_weights(rule, weights):
    """Raises ValueError unless `weights` are what `rule` needs: names and shapes."""
    expected = {k: tuple(v.shape) for k, v in rule.init_weights(None).items()}
    received = {k: tuple(np.shape(v)) for k, v in weights.items()}
    if expected != received:
        wrong = {
            name: (expected.get(name), received.get(name))
            for name in sorted(expected.keys() | received.keys())
            if expected.get(name) != received.get(name)
        }
        text = "; ".join(
            f"{k}: expected {e}, received {r}" for k, (e, r) in wrong.items()
        )
        raise ValueError(
            f"These weights do not belong to {rule.name} with {rule.get_config()}. "
            f"Shapes that differ: {text}. Use the optimizer class and hyperparameters "
            "that they were trained with."
        )
    broken = [k for k, v in weights.items() if not np.all(np.isfinite(np.asarray(v)))]
    if broken:
        raise ValueError(
            f"Weights {', '.join(broken)} of {rule.name} are not finite; the file or "
            "the run that made them is broken."
        )


def encoded(array) -> dict:
    """Returns an array as text, ready for JSON."""
    array = np.ascontiguousarray(array, dtype="<f4")
    data = base64.b64encode(array.tobytes()).decode("ascii")
    return {"shape": list(array.shape), "float32": data}


def decoded(value):
    """Returns the array that `encoded` made this of."""
    data = np.frombuffer(base64.b64decode(value["float32"]), dtype="<f4")
    return data.reshape(value["shape"]).astype("float32")
