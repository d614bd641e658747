"""Optimizer Amalgamation: an optimizer of your own out of a pool of known ones.

    import tf_amalgam
    model.compile(optimizer=tf_amalgam.load("adam"), ...)

Importing this imports Keras and nothing else; the rest comes when first used.
"""

import importlib

from tf_amalgam.optimizers import (
    SGD,
    Adam,
    AddSign,
    Momentum,
    PowerSign,
    RMSProp,
    RNNProp,
)
from tf_amalgam.saved import available, load

__version__ = "0.1.0"

_LATER = {
    "Task": "tf_amalgam.tasks.task",
    "Stage": "tf_amalgam.settings",
    "amalgamate": "tf_amalgam.experiment",
    "evaluate": "tf_amalgam.evaluation",
    "load_dataset": "tf_amalgam.data",
    "private_model": "tf_amalgam.tasks.private_model",
    "versions": "tf_amalgam.records",
}

__all__ = [
    "SGD",
    "Adam",
    "AddSign",
    "Momentum",
    "PowerSign",
    "RMSProp",
    "RNNProp",
    "Stage",
    "Task",
    "amalgamate",
    "available",
    "evaluate",
    "load",
    "load_dataset",
    "private_model",
    "versions",
]


def __getattr__(name):
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
