"""Losses of optimizees: as `fit` computes them, and what is known of them."""

import inspect

import keras
import tensorflow as tf

from tf_amalgam.tasks import outline

# Reductions that are a mean.
MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


def find(loss):
    """Returns a loss that is given as in `model.compile(loss=…)`.

    Raises:
        ValueError: for a name that is unknown, or stands for several.
    """
    if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
        raise ValueError(
            f"loss={loss!r} stands for several; give 'binary_crossentropy', "
            "'sparse_categorical_crossentropy' (labels) or 'categorical_crossentropy'."
        )
    return keras.losses.get(loss)


class OfFunction(keras.losses.Loss):
    """A function of targets and predictions as a loss, as `compile` makes one of it.

    Both come in the loss' own type, and `[B]` beside `[B, 1]` in one rank.
    """

    def __init__(self, function):
        super().__init__(reduction="sum_over_batch_size")
        self.function = function

    def call(self, y_true, y_pred):
        if hasattr(y_pred, "shape"):
            y_true, y_pred = _of_one_rank(y_true, y_pred)
        return self.function(y_true, y_pred)


def of_minibatch(loss):
    """Returns a loss as the number that `fit` minimizes on one replica.

    Args:
        loss: what `find` returns.
    """
    loss = loss if isinstance(loss, keras.losses.Loss) else OfFunction(loss)

    def called(y_true, y_pred):
        several, marked = _unreduced(loss)
        marked.append(y_pred)  # in another type it has no mask
        values = several(y_true, y_pred)
        masked = any(getattr(one, "_keras_mask", None) is not None for one in marked)
        if not masked or loss.reduction not in MEANS:
            return tf.reduce_mean(values)
        # A mean over what is not masked, which Keras divides by the number of replicas,
        # as its trainers sum over them; here each has an optimizee of its own.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        mean = loss(y_true, y_pred)
        return mean * tf.cast(replicas, mean.dtype)

    return called


def _unreduced(loss):
    """Returns a loss without its own mean, and a list of what may carry a mask.

    What the loss makes of predictions is in the list after a call.
    """
    marked: list = []

    def call(y_true, y_pred):
        values = loss.call(y_true, y_pred)
        marked.extend([y_pred, values])  # Keras hands the mask on, or the loss has one
        return values

    # Not by `copy`, for which Keras would save and load it: only classes that it knows.
    several = object.__new__(type(loss))
    reduction = loss.reduction if loss.reduction == "sum" else "none"
    vars(several).update(vars(loss), reduction=reduction, call=call)
    return several, marked


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
    mean = loss.reduction in MEANS
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
