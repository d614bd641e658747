"""An optimizee as pure functions of one flat parameter vector."""

import contextlib
import functools
import math
import random
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tf_amalgam import data
from tf_amalgam.checks import as_whole, check_whole
from tf_amalgam.layout import Layout, concat
from tf_amalgam.tasks import losses, outline
from tf_amalgam.tasks.called import stateless_call
from tf_amalgam.tasks.checks import (
    check_initial,
    check_labels,
    check_loss,
    check_model,
)
from tf_amalgam.tasks.moments import exact_moments

# Layers that have nothing to train and do the same in training and inference.
PREPARING = (
    keras.layers.Flatten,
    keras.layers.Permute,
    keras.layers.Rescaling,
    keras.layers.Reshape,
)


class Prepared(NamedTuple):
    """A minibatch whose examples have gone through the layers without weights."""

    x: Any
    y: Any


class Task:
    """A Keras model, data and a loss: what optimizers are tried on.

    The model serves as a program only: its own variables are never changed.
    Parameters `[P]` and the model's state (BatchNorm statistics, dropout seeds;
    a tuple, often empty) come in and go out as tensors.

    Attributes:
        name: for records, curves and messages.
        dataset: a `tf_amalgam.data.Dataset`.
        batch_size: examples in a minibatch, B.
        layout: where each trainable tensor lies in the flat vector.
        metrics: names of Keras metrics that evaluation reports.
        exact_gradients: whether `value_and_grad` returns the gradient of its loss.
    """

    exact_gradients = True

    def __init__(
        self,
        name,
        model_fn,
        dataset,
        loss,
        batch_size=128,
        metrics=(),
    ):
        batch_size = as_whole("batch_size", batch_size)
        check_whole("batch_size", batch_size, 1)
        if isinstance(metrics, str):
            raise ValueError(
                f"metrics must be a sequence of names, received {metrics!r}; write "
                f"({metrics!r},)."
            )
        data.check(dataset, f"Task {name!r}")
        if len(dataset.train.x) < batch_size:
            raise ValueError(
                f"Task {name!r}: batch_size={batch_size} is larger than its "
                f"{len(dataset.train.x)} training examples."
            )
        self.name = name
        self.dataset = dataset
        self.batch_size = batch_size
        self.metrics = tuple(metrics)
        self._model_fn = model_fn
        self._loss_identifier = loss
        self._loss = losses.of_minibatch(losses.find(loss))
        self._model: Any = None
        self._model = self.build_model(seed=0)
        check_model(name, self._model)
        check_initial(name, self._model, self.build_model)
        self._digest = outline.digest(self._model)
        self._head, self._body = _split(self._model)
        check_labels(name, self._model, dataset, loss)
        check_loss(name, self._model, dataset, self._loss_of)
        self.layout = Layout.of(self._model.trainable_variables)

    @classmethod
    def from_keras(
        cls, model_fn, dataset, loss, *, name=None, batch_size=128, metrics=None
    ):
        """Returns an optimizee made of your own model and data.

        Meta-training takes the logarithm of its loss, which has to stay above 0, and
        no weight constraints.

        Args:
            model_fn: function without arguments that returns a fresh, built
                Keras model (called once per initialization).
            dataset: a `Dataset`, the name of one (`"digits"`, `"mnist"`, …), a
                pair of arrays `(x, y)`, or a finite `tf.data.Dataset` of single
                (unbatched) examples `(x, y)`. Of the last two a fixed random tenth
                becomes the validation split, another the test split.
            loss: a loss of Keras, its name, or a function, as
                `model.compile(loss=...)` takes it.
            name: of the optimizee, in records and curves; by default the name of
                `model_fn`.
            batch_size: examples in a minibatch.
            metrics: names of Keras metrics; by default accuracy where the loss
                is a cross-entropy over classes.

        Raises:
            ValueError: if the model is not built or has nothing to train, has other
                initial weights at each call whatever the seed, the data does not fit
                it, or the loss is not a finite scalar.
        """
        if not callable(model_fn) or isinstance(model_fn, keras.Model):
            raise ValueError(
                "model_fn must be a function that returns a fresh Keras model "
                f"(not a model itself: each unroll starts anew); received {model_fn!r}."
            )
        if metrics is None:
            metrics = ("accuracy",) if "categorical" in losses.name_of(loss) else ()
        name = name or getattr(model_fn, "__name__", "task").strip("<>")
        return cls(name, model_fn, _as_dataset(dataset), loss, batch_size, metrics)

    def build_model(self, seed):
        """Returns a fresh Keras model whose initial weights depend on `seed` alone.

        Raises:
            ValueError: for a function that returns what it has returned before.
        """
        with _seeded(seed):
            model = self._model_fn()
        if self._model is None:
            return model
        before = {id(v) for v in self._model.trainable_variables}
        if any(id(v) in before for v in model.trainable_variables):
            raise ValueError(
                f"Task {self.name!r}: model_fn returned the same model, or layers, "
                "twice. Build all layers inside it, so that each call starts anew."
            )
        return model

    def training_model(self, seed):
        """Returns a fresh Keras model that `fit` trains: that of `build_model`."""
        return self.build_model(seed)

    def initial(self, seed):
        """Returns `(params_P, model_state)` of a fresh initialization, as NumPy."""
        model = self.build_model(seed)
        params = [np.ravel(v.numpy()) for v in model.trainable_variables]
        state = tuple(v.numpy() for v in model.non_trainable_variables)
        return np.concatenate(params), state

    def prepare(self, batch):
        """Returns a minibatch after the model's leading layers without weights.

        A `Sequential` model that begins with rescaling or reshaping does that work
        once here for all who train on the minibatch. Wherever a `batch` is taken, a
        raw or a prepared one will do.
        """
        if isinstance(batch, Prepared):
            return batch
        x, y = batch
        return Prepared(x if self._head is None else self._head(x), y)

    def loss(self, params_P, model_state, batch):
        """Returns `(loss, model_state)` of one minibatch, in training mode."""
        return self._loss_of(self.layout.split(params_P), model_state, batch, True)

    def value_and_grad(self, params_P, model_state, batch):
        """Returns `(loss, grads_P, model_state)`: ∇θ of the minibatch loss."""
        params = self.layout.split(params_P)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(params)
            loss, model_state = self._loss_of(params, model_state, batch, True)
        grads = tape.gradient(loss, params, unconnected_gradients="zero")
        return loss, concat(grads), model_state

    def held_out_loss(self, params_P, model_state, batch):
        """Returns the loss of examples in inference mode."""
        params = self.layout.split(params_P)
        return self._loss_of(params, model_state, batch, False)[0]

    def minibatches(self, seed, start, count):
        """Returns training minibatches start, start+1, …: arrays `[count, B, …]`."""
        x, y = self.dataset.train
        index = data.batch_indices(len(x), self.batch_size, seed, start, count)
        return x[index], y[index]

    def compile_arguments(self):
        """Returns the `loss` and `metrics` for `model.compile`."""
        return {"loss": self._loss_identifier, "metrics": list(self.metrics)}

    def constant_loss(self):
        """Returns the least validation loss of a prediction that is always the same.

        Of a cross-entropy of one label an example that is the labels' entropy; of
        other losses, and of models with penalties, infinity, as it is not known.
        """
        x, labels = self.dataset.validation
        if not losses.of_labels(self._loss_identifier) or labels.size != len(labels):
            return math.inf
        variables = self._model.trainable_variables, self._model.non_trainable_variables
        values = [[v.value for v in several] for several in variables]
        *_, penalties = stateless_call(self._model, values[0], values[1], x[:1])
        if penalties:
            return math.inf
        shares = np.unique(labels, return_counts=True)[1] / len(labels)
        return float(-np.sum(shares * np.log(shares)))

    @property
    def constrained(self) -> list[str]:
        """Names of the parameters that Keras' optimizers hold to constraints."""
        variables = self._model.trainable_variables
        return [v.path for v in variables if v.constraint is not None]

    def privacy_report(self, steps):
        """Returns what a record says about privacy after so many steps; here none."""
        return {}

    def describe(self):
        """Returns what identifies this optimizee, ready for JSON."""
        return {
            "name": self.name,
            "dataset": self.dataset.name,
            "examples": [len(split.x) for split in self.dataset[1:]],
            "batch_size": self.batch_size,
            "loss": losses.name_of(self._loss_identifier),
            "loss_options": losses.options_of(self._loss_identifier),
            "data": self._data_digest,
            "model": self._digest,
            "shapes": [list(shape) for shape in self.layout.shapes],
        }

    @functools.cached_property
    def _data_digest(self):
        return data.digest(self.dataset)

    def _loss_of(self, params, model_state, batch, training):
        x, y = self.prepare(batch)[:2]  # without what else a subclass has there
        with exact_moments:  # the second derivative of normalizing layers
            outputs, state, penalties = stateless_call(
                self._body, params, list(model_state), x, training
            )
        loss = self._loss(y, outputs)
        for penalty in penalties:
            loss += tf.cast(penalty, loss.dtype)
        return loss, tuple(state)


def _as_dataset(dataset):
    if isinstance(dataset, data.Dataset):
        return dataset
    if isinstance(dataset, str):
        return data.load_dataset(dataset)
    if isinstance(dataset, tuple) and len(dataset) == 2:
        return data.from_arrays(*dataset)
    if isinstance(dataset, tf.data.Dataset):
        if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("The tf.data.Dataset is infinite; use dataset.take(n).")
        examples = list(dataset.as_numpy_iterator())
        if not examples or not isinstance(examples[0], tuple) or len(examples[0]) != 2:
            raise ValueError(
                "A tf.data.Dataset must yield single examples (x, y); if yours yields "
                "batches, pass dataset.unbatch()."
            )
        try:
            x, y = (np.stack(column) for column in zip(*examples, strict=True))
        except ValueError as error:
            raise ValueError(
                "The examples of the tf.data.Dataset differ in shape; if it yields "
                "batches, pass dataset.unbatch()."
            ) from error
        return data.from_arrays(x, y, name="tf.data")
    raise ValueError(
        "dataset must be a Dataset, a data set's name, a pair of arrays (x, y) or a "
        f"tf.data.Dataset of single examples; received {type(dataset).__name__}."
    )


def _split(model):
    """Returns `(head, body)`: layers that prepare minibatches, and the rest."""
    if type(model) is not keras.Sequential:  # a subclass may call otherwise
        return None, model
    count = 0
    while count < len(model.layers) - 1 and type(model.layers[count]) in PREPARING:
        count += 1
    if not count:
        return None, model
    between = model.layers[count - 1].output
    head = keras.Model(model.inputs[0], between)
    start = keras.Input(between.shape[1:], dtype=between.dtype)
    return head, keras.Sequential([start, *model.layers[count:]])


def check_task(task):
    """Raises ValueError unless something is a `Task`."""
    if not isinstance(task, Task):
        raise ValueError(
            "An optimizee is a tf_amalgam.Task (Task.from_keras makes one; in .gin "
            f"files @tasks.conv() or %Train), received {task!r}."
        )


@contextlib.contextmanager
def _seeded(seed):
    """Seeds what Keras' initializers and user code draw from, then puts it back.

    Keras draws default initializer seeds from Python's `random`.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
