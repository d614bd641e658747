"""Optimizees trained with differential privacy."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_amalgam import private_gradients
from tf_amalgam.numerics import derive_seed
from tf_amalgam.privacy import Mechanism
from tf_amalgam.tasks.private_model import PrivateModel
from tf_amalgam.tasks.task import Prepared, Task


def private(task, l2_norm_clip=1.0, noise_multiplier=1.1, delta=1e-5, name=None):
    """Returns a task whose gradients are those of DP-SGD (Huang et al. 2022).

    Args:
        task: any `Task` whose model has no BatchNorm.
        l2_norm_clip, noise_multiplier, delta: see `privacy.Mechanism`; the defaults
            of the first two are the paper's.
        name: by default the task's own, with "-DP".

    Raises:
        ValueError: for numbers out of range (delta has to be below 1/training
            examples), or a model without per-example gradients.
        ImportError: without tensorflow-privacy.
    """
    mechanism = Mechanism(l2_norm_clip, noise_multiplier, delta)
    return PrivateTask(task, mechanism, name or f"{task.name}-DP")


class PrivateBatch(NamedTuple):
    """A prepared minibatch and the seed of its noise."""

    x: Any
    y: Any
    seed: Any  # [2]


class PrivateTask(Task):
    """A `Task` whose `value_and_grad` clips each example's gradient and adds noise.

    The seed of a minibatch's noise travels with it as a third array. So whoever
    trains on the minibatch sees the same noise (student, teachers, and the way back
    through the unroll), and a resumed run draws what an uninterrupted one draws.
    `evaluate`'s noise follows from its public seeds: epsilon there describes the
    mechanism, not a release of the weights (`private_model` has a secret seed).

    Losses are exact, also those in the meta-loss: a *learned optimizer* is not
    private towards data that it was meta-trained on. Amalgamate on public data.
    """

    exact_gradients = False

    def __init__(self, task, mechanism, name):
        if isinstance(task, PrivateTask):
            raise ValueError(f"Task {task.name!r} is private already.")
        super().__init__(
            name,
            task._model_fn,
            task.dataset,
            task._loss_identifier,
            task.batch_size,
            task.metrics,
        )
        self.mechanism = mechanism
        private_gradients.check_model(self._model, f"Task {name!r}")
        self._seeds = private_gradients.random_seeds(
            self._model.non_trainable_variables
        )
        # A missing package, or a delta that claims nothing, shows before any work.
        mechanism.report(1, self.batch_size, len(self.dataset.train.x))

    def minibatches(self, seed, start, count):
        """Returns arrays x, y `[count, B, …]` and noise seeds `[count, 2]`."""
        seeds = [
            [derive_seed(seed, "noise", part, i) for part in range(2)]
            for i in range(start, start + count)
        ]
        return (*super().minibatches(seed, start, count), np.array(seeds, np.int32))

    def prepare(self, batch):
        """Returns a minibatch after the model's leading layers without weights."""
        if isinstance(batch, PrivateBatch):
            return batch
        if len(batch) == 2:
            return super().prepare(batch)
        x, y, seed = batch
        ready = super().prepare((x, y))
        return PrivateBatch(ready.x, ready.y, seed)

    def value_and_grad(self, params_P, model_state, batch):
        """Returns `(loss, grads_P, model_state)`: the mean loss, the private gradient.

        Raises:
            ValueError: for a minibatch without a noise seed.
        """
        batch = self.prepare(batch)
        if not isinstance(batch, PrivateBatch):
            raise ValueError(
                f"Task {self.name!r} needs minibatches (x, y, noise seed), as "
                "`minibatches` makes them; received one without a seed."
            )
        params_P = tf.convert_to_tensor(params_P)
        model_state = [tf.convert_to_tensor(value) for value in model_state]

        def example_loss(params_P, example):
            x, y, place = example
            state = private_gradients.own_state(model_state, self._seeds, place)
            loss, after = self._loss_of(
                self.layout.split(params_P), state, Prepared(x[None], y[None]), True
            )
            return loss, private_gradients.seed_steps(state, after, self._seeds)

        places = tf.range(tf.shape(batch.y)[0])
        found = private_gradients.private_gradient(
            example_loss,
            params_P,
            (batch.x, batch.y, places),
            self.mechanism,
            batch.seed,
        )
        state = private_gradients.moved_on(model_state, self._seeds, found.aux)
        return tf.reduce_mean(found.losses), found.grads_P, state

    def training_model(self, seed):
        """Returns a fresh Keras model that `fit` trains privately."""
        return PrivateModel(
            self.build_model(seed), self.mechanism, derive_seed(seed, "noise")
        )

    def privacy_report(self, steps):
        """Returns epsilon after so many steps, with what it depends on."""
        return self.mechanism.report(steps, self.batch_size, len(self.dataset.train.x))

    def describe(self):
        """Returns what identifies this optimizee, ready for JSON."""
        return {**super().describe(), "privacy": self.mechanism.describe()}
