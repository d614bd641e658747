"""Optimizer Amalgamation: an optimizer of your own out of a pool of known ones.

    import tf_amalgam
    model.compile(optimizer=tf_amalgam.load("adam"), ...)

Importing this imports Keras and nothing else; the rest comes when first used.
"""

import importlib

try:
    from tf_amalgam import registered as _registered  # noqa: F401 -- tells Keras
    from tf_amalgam.cards import available, card
    from tf_amalgam.optimizers import (
        SGD,
        Adam,
        AddSign,
        Choice,
        LearnedScalars,
        Momentum,
        Original,
        PowerSign,
        RMSProp,
        RNNProp,
        Scale,
    )
    from tf_amalgam.saved import load
except ModuleNotFoundError as error:
    # Where only records are looked at, statistics and reports need no more.
    if error.name not in ("keras", "tensorflow"):
        raise
    _MISSING = error.name

__version__ = "0.1.0"

_LATER = {
    "KerasOptimizer": "tf_amalgam.lineup",
    "Task": "tf_amalgam.tasks.task",
    "Perturbation": "tf_amalgam.perturbation",
    "Stage": "tf_amalgam.curriculum",
    "amalgamate": "tf_amalgam.experiment",
    "evaluate": "tf_amalgam.evaluation",
    "export": "tf_amalgam.exporting",
    "grid_search": "tf_amalgam.tuning",
    "import_checkpoint": "tf_amalgam.importing",
    "join_cluster": "tf_amalgam.cluster",
    "load_dataset": "tf_amalgam.data",
    "private_model": "tf_amalgam.tasks.private_model",
    "versions": "tf_amalgam.records",
    "write_report": "tf_amalgam.reporting",
}

__all__ = [
    "SGD",
    "Adam",
    "AddSign",
    "Choice",
    "KerasOptimizer",
    "LearnedScalars",
    "Momentum",
    "Original",
    "Perturbation",
    "PowerSign",
    "RMSProp",
    "RNNProp",
    "Scale",
    "Stage",
    "Task",
    "amalgamate",
    "available",
    "card",
    "evaluate",
    "export",
    "grid_search",
    "import_checkpoint",
    "join_cluster",
    "load",
    "load_dataset",
    "private_model",
    "versions",
    "write_report",
]


def __getattr__(name):
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    if name in __all__:
        raise ModuleNotFoundError(
            f"tf_amalgam.{name} needs {_MISSING}, which is not installed. Without it "
            "there are tf_amalgam.stats and write_report. Run: pip install tensorflow",
            name=_MISSING,
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
