"""What an optimizee's model, data and loss are asked before anything is trained.

Each of these raises ValueError, with the name of the task, for what does not fit.
"""

import itertools
import logging

import keras
import numpy as np

from tf_amalgam import data
from tf_amalgam.tasks import losses


def check_model(task, model):
    """Raises ValueError for what is no built Keras model with something to train."""
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            f"Task {task!r}: model_fn must return a built Keras model (give its first "
            f"layer an Input); received {type(model).__name__}."
        )
    if not model.trainable_variables:
        raise ValueError(f"Task {task!r}: the model has nothing to train.")


def check_initial(task, model, build_model):
    """Raises ValueError for initial weights that no seed decides.

    Warns of those that no seed changes.

    Args:
        task: its name.
        model: what `build_model(seed=0)` has returned.
        build_model: function of a seed that returns a fresh model.
    """
    again = build_model(seed=0)
    for mine, other in itertools.zip_longest(model.weights, again.weights):
        if mine is None or other is None or mine.shape != other.shape:
            raise ValueError(
                f"Task {task!r}: model_fn returned models of different shapes."
            )
        # But for rounding, of a beginning that is computed.
        here, there = (np.asarray(v.numpy(), "float64") for v in (mine, other))
        if not np.allclose(here, there, rtol=1e-4, atol=1e-6, equal_nan=True):
            raise ValueError(
                f"Task {task!r}: two models of one seed begin with other values of "
                f"{mine.path}, so that optimizers could not be compared. Take an "
                "initializer of Keras without a seed, or draw from numpy.random or "
                "random; keras.random and tf.random are not seeded."
            )
    other = build_model(seed=1)
    if all(
        np.array_equal(mine.numpy(), their.numpy())
        for mine, their in zip(model.weights, other.weights, strict=True)
        if np.asarray(mine.numpy()).dtype.kind == "f"  # no seed of a layer
    ):
        logging.warning(
            "Task %r begins with the same weights whatever the seed: all optimizees "
            "are one net. Leave keras.utils.set_random_seed, and seeds of "
            "initializers, out of model_fn, unless that is meant.",
            task,
        )


def check_labels(task, model, dataset, loss):
    """Raises ValueError for labels that the model has no output for."""
    shape = getattr(model, "output_shape", None)
    classes = shape[-1] if isinstance(shape, tuple) and shape else None
    if classes is None or not losses.of_labels(loss):
        return
    for name, split in zip(data.SPLITS, dataset[1:], strict=True):
        if split.y.dtype.kind not in "iu":
            continue
        least, largest = int(split.y.min()), int(split.y.max())
        if least < 0 or largest >= classes:
            raise ValueError(
                f"Task {task!r}: labels of {name} run from {least} to {largest}; the "
                f"model has {classes} outputs, for labels from 0 to {classes - 1}."
            )


def check_loss(task, model, dataset, loss_of):
    """Raises ValueError unless the fresh model has a finite loss on its data.

    Args:
        task: its name.
        model: a built Keras model.
        dataset: a `Dataset`.
        loss_of: function of parameters, model state, a minibatch and whether the
            model trains, that returns `(loss, model_state)`.
    """
    x, y = dataset.train
    params = [v.value for v in model.trainable_variables]
    state = [v.value for v in model.non_trainable_variables]
    try:
        loss = float(loss_of(params, state, (x[:2], y[:2]), True)[0])
    except Exception as error:
        raise ValueError(
            f"Task {task!r}: the loss of the model on its data could not be computed. "
            f"Examples have shape {x.shape[1:]} and dtype {x.dtype}, targets shape "
            f"{y.shape[1:]} and dtype {y.dtype}; the model expects "
            f"{getattr(model, 'input_shape', 'others')}. The error was: {error}"
        ) from error
    if not np.isfinite(loss):
        raise ValueError(
            f"Task {task!r}: the loss of the fresh model is {loss}; check the data's "
            "scale and the loss."
        )
