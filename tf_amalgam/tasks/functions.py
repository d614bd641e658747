"""Test functions as optimizees: quadratics, and Rastrigin's with its many minima."""

import functools

import keras
import numpy as np
from keras import layers, ops

from tf_amalgam.data import Dataset, Split
from tf_amalgam.numerics import derive_seed
from tf_amalgam.tasks.task import Task


def quadratic(dimensions=10, condition=10.0, noise=0.0, seed=0, batch_size=None):
    """Returns ½(θ−θ*)ᵀA(θ−θ*) as a linear regression without noise on labels.

    With the whole data as one minibatch (`batch_size=None`) the loss is exactly
    quadratic, and the eigenvalues of A run from 1/condition to 1; with smaller
    minibatches, or `noise` on the targets, gradients are noisy.

    Args:
        dimensions: of θ.
        condition: largest to smallest curvature.
        noise: standard deviation of the targets' noise.
        seed: names one function, with A = XᵀX/N; None makes a family of which every
            initialization draws a member, θ* ~ N(0, 1) and A = Rᵀ(XᵀX/N)R with a
            random rotation R. Both are model state and not trained.
        batch_size: examples in a minibatch; None takes all.
    """
    generator = np.random.default_rng(seed or 0)
    examples = 8 * dimensions
    basis = np.linalg.qr(generator.normal(size=(examples, dimensions)))[0]
    scales = np.sqrt(examples * np.geomspace(1.0 / condition, 1.0, dimensions))
    x = basis * scales
    target = generator.normal(size=(dimensions, 1))
    y = noise * generator.normal(size=(examples, 1))
    if seed is None:
        kind, model, member = "quadratics", _member_model, ""
    else:
        y = x @ target + y
        kind, model, member = "quadratic", _linear_model, f", seed={seed}"
    x, y = x.astype(keras.config.floatx()), y.astype(keras.config.floatx())
    # A quadratic has no unseen examples: every split is the whole of it.
    splits = [Split(x, y)] * 3
    # Records tell optimizees apart by this, too.
    described = f"{kind}(condition={condition}, noise={noise}{member})"
    return Task(
        f"{kind}_{dimensions}",
        functools.partial(model, dimensions),
        Dataset(described, *splits),
        half_squared_error,
        batch_size or examples,
    )


def _weight(layer, name, shape, trainable=False):
    """Adds a weight to a layer, by the initializer that it keeps under that name."""
    initializer = layer._drawn[name]
    return layer.add_weight(shape, initializer, trainable=trainable, name=name)


@keras.saving.register_keras_serializable("tf_amalgam")
class Quadratic(layers.Layer):
    """The error xR(θ − θ*) of each example, `[B, dimensions]` -> `[B, 1]`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # Each draws a seed now, as Keras' layers do.
        self._drawn = {
            "theta": keras.initializers.RandomNormal(),
            "rotation": keras.initializers.Orthogonal(),
            "target": keras.initializers.RandomNormal(stddev=1.0),
        }

    def build(self, shape):
        n, weight = shape[-1], functools.partial(_weight, self)
        self.theta = weight("theta", (n, 1), trainable=True)
        self.rotation = weight("rotation", (n, n))
        self.target = weight("target", (n, 1))

    def call(self, x):
        return ops.matmul(x, ops.matmul(self.rotation, self.theta - self.target))


def rastrigin(
    dimensions=10,
    alpha=10.0,
    noise=0.0,
    seed=None,
    examples=128,
    batch_size=1,
    name=None,
):
    """Returns Rastrigin functions f of the learning-to-optimize literature.

        f(θ) = ‖Aθ − b‖² + α Σᵢ (|cᵢ| − cᵢ cos 2πθᵢ),   A, b, c ~ N(0, 1)

    as in the authors' released code (`evaluate/functions.py`), with two changes. Its
    constant is α·dimensions, and members with large |c| fall below 0, where the meta
    loss has no logarithm; with α·Σ|cᵢ| none does. It starts at θ = 0, we at θ ~
    N(0, 1), so that runs on one member differ.

    Args:
        dimensions: of θ.
        alpha: height of the waves.
        noise: each training example is a shift s ~ N(0, noise²) of θ, and a
            minibatch the mean of f(θ + s); 0 makes f deterministic. Validation and
            test are f itself.
        seed: names one member of the family; by default every initialization draws
            its own A, b and c, which are model state and not trained.
        examples: shifts, and so the length of an epoch.
        batch_size: shifts in a minibatch.
        name: for records and curves.
    """
    shifts = noise * np.random.default_rng(0).normal(size=(examples, dimensions))
    dtype = keras.config.floatx()
    exact = Split(np.zeros((1, dimensions), dtype), np.zeros((1, 1), dtype))
    train = Split(shifts.astype(dtype), np.zeros((examples, 1), dtype))
    # Records tell optimizees apart by this, too.
    described = f"rastrigin(alpha={alpha}, noise={noise}, seed={seed})"
    return Task(
        name or f"rastrigin_{dimensions}",
        functools.partial(_rastrigin_model, dimensions, alpha, seed),
        Dataset(described, train, exact, exact),
        output_itself,
        batch_size,
    )


@keras.saving.register_keras_serializable("tf_amalgam")
class Rastrigin(layers.Layer):
    """f(θ + s) of each shift s, `[B, dimensions]` -> `[B, 1]`; see `rastrigin`."""

    def __init__(self, alpha, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.alpha = alpha
        self.seed = seed
        fixed = ("A", "b", "c") if seed is not None else ()
        # Without a seed each draws one now, as Keras' layers do.
        self._drawn = {
            key: keras.initializers.RandomNormal(
                stddev=1.0, seed=derive_seed(seed, key) if key in fixed else None
            )
            for key in ("theta", "A", "b", "c")
        }

    def build(self, shape):
        n, weight = shape[-1], functools.partial(_weight, self)
        self.theta = weight("theta", (n,), trainable=True)
        self.A = weight("A", (n, n))
        self.b = weight("b", (n,))
        self.c = weight("c", (n,))

    def call(self, shifts):
        x = self.theta + shifts
        bowl = ops.square(ops.matmul(x, ops.transpose(self.A)) - self.b)
        waves = ops.absolute(self.c) - self.c * ops.cos(2 * np.pi * x)
        return ops.sum(bowl + self.alpha * waves, axis=-1, keepdims=True)

    def get_config(self):
        return {**super().get_config(), "alpha": self.alpha, "seed": self.seed}


@keras.saving.register_keras_serializable("tf_amalgam")
def half_squared_error(y_true, y_pred):
    """Returns ½(y − ŷ)² per example."""
    return 0.5 * ops.sum(ops.square(y_true - y_pred), axis=-1)


@keras.saving.register_keras_serializable("tf_amalgam")
def output_itself(y_true, y_pred):
    """Returns the model's output per example: the function to be minimized."""
    return ops.sum(y_pred, axis=-1)


def _linear_model(dimensions):
    return keras.Sequential(
        [
            keras.Input((dimensions,)),
            layers.Dense(1, use_bias=False, kernel_initializer="random_normal"),
        ]
    )


def _member_model(dimensions):
    return keras.Sequential([keras.Input((dimensions,)), Quadratic()])


def _rastrigin_model(dimensions, alpha, seed):
    return keras.Sequential([keras.Input((dimensions,)), Rastrigin(alpha, seed)])
