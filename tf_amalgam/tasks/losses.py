"""Losses of optimizees: as `fit` computes them, and what is known of them."""

import copy
import inspect

import keras
import tensorflow as tf

from tf_amalgam.tasks import outline


def per_example(loss):
    """Returns the loss without its own mean.

    On several replicas Keras divides a mean by their number, as its trainers sum
    over replicas; here each replica has an optimizee of its own.
    """
    if not isinstance(loss, keras.losses.Loss) or loss.reduction == "sum":
        return loss
    loss = copy.copy(loss)
    loss.reduction = "none"
    return loss


def aligned(loss):
    """Returns a loss that takes `[B]` beside `[B, 1]`, as Keras' `Loss` objects do."""
    if isinstance(loss, keras.losses.Loss):
        return loss

    def called(y_true, y_pred):
        if hasattr(y_pred, "shape"):
            y_true, y_pred = _of_one_rank(tf.convert_to_tensor(y_true), y_pred)
        return loss(y_true, y_pred)

    return called


def _of_one_rank(*pair):
    """Returns two tensors, one of which may lack a last dimension of 1, of one rank."""
    ranks = [len(one.shape) for one in pair]
    low, high = sorted(range(2), key=ranks.__getitem__)
    if ranks[high] == ranks[low] + 1 and pair[high].shape[-1] == 1:
        if ranks[low] == 1:
            return [one if len(one.shape) == 2 else one[:, tf.newaxis] for one in pair]
        return [one if i == low else one[..., 0] for i, one in enumerate(pair)]
    return pair


def of_labels(loss):
    """Returns whether a loss is the mean cross-entropy of labels."""
    loss = keras.losses.get(loss)
    if not isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return loss is keras.losses.sparse_categorical_crossentropy
    mean = loss.reduction in ("sum_over_batch_size", "mean")
    config = loss.get_config()
    usual = config.get("axis", -1) == -1 and config.get("ignore_class") is None
    return mean and usual


def options_of(loss):
    """Returns a loss of Keras' classes in words, with its unusual options."""
    return outline.words(loss) if isinstance(loss, keras.losses.Loss) else ""


def name_of(loss):
    """Returns what records call a loss."""
    if isinstance(loss, str):
        return loss
    if inspect.isfunction(loss):
        return loss.__name__
    return getattr(loss, "name", None) or type(loss).__name__
