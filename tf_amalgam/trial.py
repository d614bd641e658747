"""One fresh optimizee trained with one optimizer through `model.compile` and `fit`."""

import math
import os
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from tf_amalgam import data, records
from tf_amalgam.numerics import derive_seed

# Steps left out of the timing: tracing and first allocations.
UNTIMED_STEPS = 5


def train_once(optimizer, task, seed, epochs, replicate=0) -> dict:
    """Trains one fresh optimizee; returns its record.

    Curves hold one value per epoch: training loss, validation loss, and the task's
    metrics. The test split is measured after training and selects nothing: `test` with
    the weights of the last epoch, `test_at_best` with those of the first epoch whose
    validation loss is lowest, the model's state (BatchNorm's statistics, say) included.
    A private task's record says under `privacy` what epsilon the steps have spent.

    A run whose loss stops being finite ends there, says `diverged`, and has neither
    test, however good it was before: it is counted as diverged, whichever of the two
    is asked for. `start_loss` is the validation loss of the initial weights and
    `constant_loss` the least of a prediction that is always the same (None where that
    is not known): they tell whether a run learned at all.
    """
    if replicate:
        seed = derive_seed(seed, "replicate", replicate)
    model = task.training_model(derive_seed(seed, "initial", task.name))
    model.compile(optimizer=optimizer, **task.compile_arguments())
    batch_size, dataset = task.batch_size, task.dataset
    per_epoch = len(dataset.train.x) // batch_size
    indices = data.batch_indices(
        len(dataset.train.x),
        batch_size,
        derive_seed(seed, "minibatches", task.name),
        0,
        per_epoch * epochs,
    )
    x, y = (tf.constant(part) for part in dataset.train)
    batches = tf.data.Dataset.from_tensor_slices(indices).map(
        lambda index: (tf.gather(x, index), tf.gather(y, index))
    )
    watch, best = _Watch(), _Best()
    held_out = tuple(dataset.validation)
    options = {"batch_size": 1000, "verbose": 0, "return_dict": True}
    start = model.evaluate(*held_out, **options)["loss"]
    started = time.perf_counter()
    history = model.fit(
        batches.prefetch(2),
        epochs=epochs,
        steps_per_epoch=per_epoch,
        shuffle=False,
        validation_data=held_out,
        validation_batch_size=1000,
        callbacks=[watch, best, keras.callbacks.TerminateOnNaN()],
        verbose=0,
    )
    seconds = time.perf_counter() - started
    curves = {k: [float(v) for v in values] for k, values in history.history.items()}
    curves["loss"] = [float(np.mean(part)) for part in watch.by_epoch]
    diverged = not all(math.isfinite(v) for v in curves["loss"] + curves["val_loss"])
    test, test_at_best = {}, {}
    if not diverged:
        test = test_at_best = model.evaluate(*dataset.test, **options)
        if best.epoch < len(curves["val_loss"]) - 1:
            model.set_weights(best.weights)
            test_at_best = model.evaluate(*dataset.test, **options)
    untimed = max(UNTIMED_STEPS, getattr(optimizer, "warmup_steps", 0))
    steps = watch.seconds[untimed:] or watch.seconds
    privacy = task.privacy_report(len(watch.losses))
    constant = task.constant_loss()
    return {
        "task": task.name,
        "start_loss": float(start),
        "constant_loss": constant if math.isfinite(constant) else None,
        "curves": curves,
        "test": {k: float(v) for k, v in test.items()},
        "test_at_best": {k: float(v) for k, v in test_at_best.items()},
        "batch_losses": [float(f"{v:.9g}") for v in watch.losses],  # all of a float32
        "diverged": diverged,
        "seconds": seconds,
        "steps_per_epoch": per_epoch,
        "step_milliseconds": 1e3 * statistics.median(steps),
        "load": os.getloadavg()[0],  # processes that shared the machine, over a minute
        "versions": records.versions(),
        **({"privacy": privacy} if privacy else {}),
    }


def seconds_of_an_epoch(optimizer, task, steps=20) -> float:
    """Returns how long an epoch of `train_once` takes, by some of its steps.

    Args:
        optimizer: a fresh Keras optimizer.
        task: the optimizee.
        steps: that are timed, after some that are not.
    """
    model = task.training_model(0)
    model.compile(optimizer=optimizer, **task.compile_arguments())
    count = task.batch_size * (steps + UNTIMED_STEPS)
    x, y = (np.resize(part, (count, *part.shape[1:])) for part in task.dataset.train)
    watch = _Watch()
    model.fit(x, y, batch_size=task.batch_size, callbacks=[watch], verbose=0)
    seconds = []
    for _ in range(2):  # the first one builds a program
        began = time.perf_counter()
        model.evaluate(*task.dataset.validation, batch_size=1000, verbose=0)
        seconds.append(time.perf_counter() - began)
    step = statistics.median(watch.seconds[UNTIMED_STEPS:])
    return step * (len(task.dataset.train.x) // task.batch_size) + seconds[-1]


class _Watch(keras.callbacks.Callback):
    """Takes each minibatch's own loss and time."""

    def __init__(self):
        super().__init__()
        self.by_epoch: list[list[float]] = []
        self.seconds: list[float] = []

    @property
    def losses(self):
        """The loss of every minibatch, in order."""
        return [loss for epoch in self.by_epoch for loss in epoch]

    def on_epoch_begin(self, epoch, logs=None):
        self.by_epoch.append([])

    def on_train_batch_begin(self, batch, logs=None):
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds.append(time.perf_counter() - self._began)
        self.by_epoch[-1].append(float(logs["loss"]))
        # Keras would report the epoch's running mean, in which a spike hides all that
        # follows; the epoch's mean is taken of these instead.
        self.model.metrics[0].reset_state()


class _Best(keras.callbacks.Callback):
    """Keeps the weights, and the model's state, of the epoch that validates best."""

    def __init__(self):
        super().__init__()
        self.epoch, self.weights = -1, []
        self._loss = math.inf

    def on_epoch_end(self, epoch, logs=None):
        if logs["val_loss"] < self._loss:
            self._loss, self.epoch = logs["val_loss"], epoch
            self.weights = self.model.get_weights()
