"""The warm-up around Keras' optimizers: by hand, and equal to ours."""

import keras
import numpy as np
import pytest

import tf_amalgam
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
