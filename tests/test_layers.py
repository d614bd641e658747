"""The optimizees' own layers against Keras' ones, up to the second derivative."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import plain
from tests import helpers
from tf_amalgam.data import Dataset, Split
from tf_amalgam.tasks import networks
from tf_amalgam.tasks.layers import ConvBlock, max_pool
from tf_amalgam.tasks.task import Prepared, Task


def image_task(model_fn, shape, batch_size=6):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (24, *shape), dtype=np.uint8)
    split = Split(x, generator.integers(0, 10, 24).astype("int32"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Task("images", model_fn, Dataset("noise", *[split] * 3), loss, batch_size)


def derivatives(task, params_P, direction_P, batch):
    """Returns loss, gradient and Hessian-vector product."""
    with tf.GradientTape() as tape:
        tape.watch(params_P)
        loss, grads_P, _ = task.value_and_grad(params_P, (), batch)
    curved_P = tape.gradient(grads_P, params_P, output_gradients=direction_P)
    return float(loss), grads_P.numpy(), curved_P.numpy()


@pytest.mark.parametrize(
    ("shape", "filters"),
    [
        ((28, 28, 1), ((4, 3), (6, 2))),
        ((17, 13, 3), ((4, 3), (6, 2))),
        ((12, 12, 5), ((4, 3), (6, 2))),
        ((17, 13, 3), ((4, 3, 1, 2), (6, 2, 3))),
        ((14, 12, 5), ((4, 3, 2, 2), (6, 2, 1))),
        ((12, 12, 1), ((4, 3, 1), (6, 2, 2, 3))),
        ((17, 17, 1), ((4, 3, 5), (6, 2, 1))),
    ],
)
def test_conv_net_equals_keras_layers(float64, shape, filters):
    def reference():
        layers = [keras.Input(shape, dtype="uint8"), keras.layers.Rescaling(1 / 255)]
        for count, size, *rest in filters:
            pool, stride = (*rest, *(2, 1)[len(rest) :])
            layers.append(keras.layers.Conv2D(count, size, stride, activation="relu"))
            layers.append(keras.layers.MaxPooling2D(pool))
        layers += [keras.layers.Flatten(), keras.layers.Dense(10)]
        return keras.Sequential(layers)

    ours = image_task(lambda: networks.conv_model(shape, shape, 10, filters), shape)
    keras_task = image_task(reference, shape)
    assert ours.layout.shapes == keras_task.layout.shapes
    params_P = ours.initial(3)[0]
    np.testing.assert_array_equal(params_P, keras_task.initial(3)[0])
    generator = np.random.default_rng(1)
    params_P = tf.constant(params_P + 0.1 * generator.normal(size=params_P.shape))
    direction_P = tf.constant(generator.normal(size=params_P.shape))
    batch = tuple(b[0] for b in ours.minibatches(0, 0, 1))
    found = derivatives(ours, params_P, direction_P, batch)
    expected = derivatives(keras_task, params_P, direction_P, batch)
    assert np.any(expected[2])
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_train_net_of_the_benchmark_is_ours():
    shape = (28, 28, 1)
    ours = networks.conv_model(shape, shape, 10, ((16, 3), (32, 5)))
    theirs = plain.train_model()
    assert [v.shape for v in ours.weights] == [v.shape for v in theirs.weights]


def test_max_pool_second_derivative_by_hand(float64):
    """y = max, L = Σ c·y³/3, dL/dx = c·y² at the maxima; along v: 2c·y·v there."""
    x = tf.constant(np.array([[1.0, 5.0], [3.0, 2.0]]).reshape(1, 2, 2, 1))
    v = tf.constant(np.array([[7.0, 0.5], [9.0, 8.0]]).reshape(1, 2, 2, 1))
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(max_pool(x, 2) ** 3) / 3
        grads = tape.gradient(value, x)
    curved = outer.gradient(grads, x, output_gradients=v)
    np.testing.assert_allclose(tf.reshape(grads, -1), [0, 25, 0, 0])
    np.testing.assert_allclose(tf.reshape(curved, -1), [0, 2 * 5 * 0.5, 0, 0])


def test_windows_with_ties_give_their_gradient_to_one_place():
    x = tf.zeros((1, 2, 2, 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = max_pool(x, 2)
    assert float(tf.reduce_sum(tape.gradient(y, x))) == 1.0


def test_prepared_minibatch_gives_the_same():
    shape = (9, 9, 1)
    task = image_task(
        lambda: networks.conv_model(shape, shape, 10, ((4, 3), (3, 2))), shape
    )
    raw = tuple(b[0] for b in task.minibatches(0, 0, 1))
    ready = task.prepare(raw)
    assert ready.x.dtype == "float32"  # of 8-bit numbers
    assert ready.x.shape == (6, 9, 9, 1)
    assert task.prepare(ready) is ready
    params_P = tf.constant(task.initial(0)[0])
    a, b = (task.value_and_grad(params_P, (), batch)[1] for batch in (raw, ready))
    np.testing.assert_array_equal(a, b)
    model = task.build_model(0)
    logits = model(raw[0])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(raw[1], logits)
    assert float(task.loss(params_P, (), ready)[0]) == pytest.approx(float(loss))


def test_layers_that_draw_or_learn_are_not_prepared():
    """Dropout differs between training and inference; BatchNorm has a state."""

    def model(first):
        return lambda: keras.Sequential(
            [keras.Input((5,)), first(), keras.layers.Flatten(), keras.layers.Dense(3)]
        )

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, y = (part[:4] for part in helpers.blobs().train)
    for first in (
        lambda: keras.layers.Dropout(0.5),
        keras.layers.BatchNormalization,
    ):
        task = Task("first", model(first), helpers.blobs(), loss, 4)
        ready = task.prepare((x, y))
        assert isinstance(ready, Prepared)
        np.testing.assert_array_equal(ready.x, x)


def test_saved_and_loaded(tmp_path):
    shape = (9, 9, 1)
    model = networks.conv_model(shape, shape, 10, ((4, 3, 1, 2), (3, 2, 2)))
    x = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "m.keras")(x), model(x)
    )


def test_output_shapes_are_known_before_the_call():
    images = keras.Input((9, 8, 2))
    assert ConvBlock(5, 3, 2)(images).shape == (None, 3, 3, 5)
    assert ConvBlock(5, 3)(images).shape == (None, 7, 6, 5)
    # Places 0, 2, 4, 6 of 7 and 0, 2, 4 of 6, then pairs of them.
    assert ConvBlock(5, 3, stride=2)(images).shape == (None, 4, 3, 5)
    assert ConvBlock(5, 3, 2, stride=2)(images).shape == (None, 2, 1, 5)
