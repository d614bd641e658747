"""The warm-up around Keras' optimizers: by hand, and equal to ours."""

import keras
import numpy as np
import pytest

import tf_amalgam
from tf_amalgam import warm_up
from tf_amalgam.lineup import keras_names
from tf_amalgam.warm_up import WarmUp

GRADS = np.random.default_rng(5).normal(size=(8, 3)).astype("float32")
START = np.array([1.0, -2.0, 0.5], "float32")


def walked(optimizer, grads=GRADS):
    """Returns the points of a trajectory of given gradients, [T+1, 3]."""
    variable = keras.Variable(START)
    points = [START]
    for grad in grads:
        optimizer.apply([keras.ops.convert_to_tensor(grad)], [variable])
        points.append(keras.ops.convert_to_numpy(variable))
    return np.array(points)


def test_first_steps_are_sgd_by_hand():
    points = walked(WarmUp(keras.optimizers.SGD(1.0, momentum=0.9), 3, 0.25))
    expected = START - 0.25 * np.cumsum(GRADS[:3], axis=0)
    np.testing.assert_allclose(points[1:4], expected, rtol=1e-6)
    # Momentum has seen the gradients of the warm-up.
    velocity = sum(0.9 ** (3 - i) * GRADS[i] for i in range(4))
    np.testing.assert_allclose(points[4] - points[3], -velocity, rtol=1e-5)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_keras_adam_warmed_up_equals_ours(steps):
    theirs = WarmUp(keras.optimizers.Adam(0.1, epsilon=1e-12), steps, 0.02)
    ours = tf_amalgam.Adam(
        0.1, epsilon=1e-20, warmup_steps=steps, warmup_learning_rate=0.02
    )
    np.testing.assert_allclose(walked(theirs), walked(ours), rtol=2e-5)


@pytest.mark.parametrize(
    "clip", [{"clipnorm": 0.3}, {"clipvalue": 0.2}, {"global_clipnorm": 0.3}]
)
def test_clipped_gradients_are_those_of_ours(clip):
    options = {"warmup_steps": 4, "warmup_learning_rate": 0.1}
    ours = tf_amalgam.Adam(0.1, epsilon=1e-20, **options, **clip)
    theirs = WarmUp(keras.optimizers.Adam(0.1, epsilon=1e-12, **clip), 4, 0.1)
    np.testing.assert_allclose(walked(theirs), walked(ours), rtol=2e-5)


def test_without_warm_up_nothing_changes():
    plain = walked(keras.optimizers.Lion(0.1))
    np.testing.assert_array_equal(
        walked(WarmUp(keras.optimizers.Lion(0.1), 0, 9.0)), plain
    )


def test_in_fit_it_equals_step_by_step():
    """The compiled program has one branch for each half."""

    def trained(steps_per_execution, eager):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.compile(
            optimizer=WarmUp(keras.optimizers.Adam(0.05), 3, 0.01),
            loss="mse",
            steps_per_execution=steps_per_execution,
            run_eagerly=eager,
        )
        generator = np.random.default_rng(0)
        x, y = generator.normal(size=(64, 4)), generator.normal(size=(64, 2))
        model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
        return np.concatenate([np.ravel(w) for w in model.get_weights()])

    np.testing.assert_allclose(trained(1, False), trained(1, True), rtol=1e-5)
    np.testing.assert_allclose(trained(4, False), trained(1, False), rtol=1e-5)


def test_what_has_no_gradient_stays():
    first, second = keras.Variable(START), keras.Variable(START)
    optimizer = WarmUp(keras.optimizers.SGD(1.0), 1, 0.5)
    optimizer.build([first, second])
    grad = keras.ops.convert_to_tensor(GRADS[0])
    for rate in (0.5, 1.0):
        before = keras.ops.convert_to_numpy(second)
        optimizer.apply([None, grad], [first, second])
        np.testing.assert_array_equal(first, START)
        moved = keras.ops.convert_to_numpy(second) - before
        np.testing.assert_allclose(moved, -rate * GRADS[0], rtol=1e-5)


def test_constraints_hold_in_the_warm_up():
    def walk(optimizer):
        layer = keras.layers.Dense(2, kernel_constraint="non_neg", use_bias=False)
        layer.build((1, 3))
        layer.kernel.assign(np.ones((3, 2)))
        optimizer.apply([keras.ops.full((3, 2), 4.0)], [layer.kernel])
        return keras.ops.convert_to_numpy(layer.kernel)

    theirs = walk(WarmUp(keras.optimizers.SGD(0.1), 2, 1.0))
    np.testing.assert_array_equal(theirs, np.zeros((3, 2)))
    ours = walk(tf_amalgam.SGD(0.1, warmup_steps=2, warmup_learning_rate=1.0))
    np.testing.assert_array_equal(theirs, ours)


@pytest.mark.parametrize("name", keras_names())
def test_the_first_own_step_starts_where_sgd_ended(name):
    """At a tiny learning rate; those that keep weights of their own are refused."""
    make = getattr(keras.optimizers, name)
    if name in warm_up.OWN_WEIGHTS:
        with pytest.raises(ValueError, match="weights of its own"):
            WarmUp(make(), 3, 0.25)
        WarmUp(make(), 0, 0.25)
        return
    points = walked(WarmUp(make(1e-6), 3, 0.25))
    np.testing.assert_allclose(points[4:], points[[3] * 5], atol=1e-4)
    assert np.abs(points[3] - points[0]).max() > 0.1


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, use_ema=True),
        lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
        lambda: keras.optimizers.SGD(0.1, loss_scale_factor=8.0),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
    ],
)
def test_steps_that_are_not_of_plain_gradients_are_refused(optimizer):
    with pytest.raises(ValueError, match="cannot be compared on equal terms"):
        WarmUp(optimizer(), 1, 0.1)
