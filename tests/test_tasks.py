"""Optimizees as pure functions of a flat vector."""

import functools
import math
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import helpers
from tf_amalgam import data, tasks
from tf_amalgam.data import Split
from tf_amalgam.tasks import losses, networks
from tf_amalgam.tasks.resnet import resnet_model
from tf_amalgam.tasks.task import Task

TWO = np.arange(40) % 2
ONE_HOT = r"test.y has shape \(3,\), of train.y \(\)"
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


MNIST, CIFAR = (28, 28, 1), (32, 32, 3)
TRAIN, WIDER = ((16, 3), (32, 5)), ((32, 3), (64, 5))
DEEPER = ((16, 3, 1), (32, 3, 1), (32, 3, 2), (64, 3, 1), (64, 3, 2))
STRIDED = ((16, 3, 1), (32, 3, 1, 2), (32, 3, 1), (64, 3, 1, 2), (64, 3, 1))
WIDTHS = (16, 32, 64)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (networks.conv_model(MNIST, MNIST, 10, TRAIN), 18_122),
        (networks.conv_model(MNIST, MNIST, 10, WIDER), 61_834),
        (networks.conv_model(MNIST, MNIST, 10, DEEPER), 75_242),
        (networks.conv_model(MNIST, MNIST, 10, STRIDED), 72_042),
        (networks.conv_model(CIFAR, CIFAR, 10, TRAIN), 21_290),
        (networks.conv_model(CIFAR, CIFAR, 10, WIDER), 68_170),
        (networks.mlp_model(MNIST, 10, (20,), "sigmoid"), 15_910),
    ],
)
def test_parameter_counts_of_the_paper(model, parameters):
    assert model.count_params() == parameters


@pytest.mark.parametrize(
    ("depth", "classes", "parameters", "statistics"),
    [
        # BatchNorm's statistics, by hand: 2 · (9·16 + 8·32 + 8·64) at depth 28.
        (28, 10, 372_330, 1_824),
        # 2 · (17·16 + 16·32 + 16·64)
        (52, 10, 763_882, 3_616),
        (52, 100, 769_732, 3_616),
    ],
)
def test_parameter_counts_of_residual_nets(depth, classes, parameters, statistics):
    model = resnet_model(CIFAR, CIFAR, classes, depth, WIDTHS)
    assert model.count_params() == parameters
    moving = sum(v.value.shape.num_elements() for v in model.non_trainable_variables)
    assert moving == statistics


def test_residual_block_by_hand():
    """x + F(x) with F's ReLU inside: F ≥ 0, and F = 0 where its last scale is 0."""
    model = resnet_model((8, 8, 1), (8, 8, 1), 3, 10, (2, 2, 2))
    adds = [layer for layer in model.layers if isinstance(layer, keras.layers.Add)]
    sizes = [tuple(layer.output.shape[1:]) for layer in adds]
    assert sizes == [(8, 8, 2), (4, 4, 2), (2, 2, 2)]  # a pool between stages
    x = helpers.noise_images().train.x[:4]
    ends = keras.Model(model.inputs[0], [*adds[0].input, adds[0].output])
    before, change, after = (end.numpy() for end in ends(x))
    assert change.min() == 0.0
    assert change.max() > 0.0
    np.testing.assert_allclose(after, before + change, rtol=1e-6)
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    norms[2].gamma.assign(keras.ops.zeros(2))  # the first block's second
    before, change, after = (end.numpy() for end in ends(x))
    np.testing.assert_array_equal(after, before)


def test_resnet_on_digits_makes_images_of_rows():
    task = tasks.resnet("digits", depth=10, widths=(2, 3, 4), batch_size=16)
    assert task.name == "resnet10_digits"
    assert task.layout.shapes[0] == (3, 3, 1, 2)
    assert task.layout.shapes[-1] == (10,)


def test_conv_on_digits_makes_images_of_rows():
    task = tasks.conv("digits", filters=((4, 3),), batch_size=16)
    assert task.layout.shapes == ((3, 3, 1, 4), (4,), (36, 10), (10,))


def test_gradient_equals_keras(float64):
    task = helpers.tiny_task()
    model = task.build_model(seed=3)
    params_P, state = task.initial(3)
    x, y = (b[0] for b in task.minibatches(0, 0, 1))
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        loss = cross_entropy(y, model(x, training=True))
    grads = tape.gradient(loss, [v.value for v in model.trainable_variables])
    ours, grads_P, _ = task.value_and_grad(tf.constant(params_P), state, (x, y))
    assert float(ours) == pytest.approx(float(loss))
    np.testing.assert_allclose(grads_P, helpers.flat(grads), rtol=1e-10)


def test_initial_weights_depend_on_the_seed_alone():
    task = helpers.tiny_task()
    first, again, other = (task.initial(seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_initializing_does_not_touch_global_randomness():
    np.random.seed(5)
    expected = np.random.uniform()
    np.random.seed(5)
    random.seed(5)
    told = random.random()
    random.seed(5)
    helpers.tiny_task().initial(1)
    assert np.random.uniform() == expected
    assert random.random() == told  # Keras draws the seeds of layers from it


def normalized_model():
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(momentum=0.5),
            keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.5)),
        ]
    )


def test_model_state_is_carried_and_penalties_count():
    task = Task("normalized", normalized_model, helpers.blobs(), CROSS_ENTROPY, 8)
    params_P, state = task.initial(0)
    assert len(state) == 2  # moving mean and variance
    batch = tuple(b[0] for b in task.minibatches(0, 0, 1))
    loss, after = task.loss(tf.constant(params_P), state, batch)
    hidden = batch[0] @ params_P[:20].reshape(5, 4) + params_P[20:24]
    np.testing.assert_allclose(after[0], 0.5 * hidden.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(state[0], 0.0)  # nothing was changed in place
    kernel = params_P[32:44]
    penalty = 0.5 * np.sum(kernel**2)
    assert penalty > 0.1
    model = task.build_model(0)
    bare = CROSS_ENTROPY(batch[1], model(batch[0], training=True))
    assert float(loss) == pytest.approx(float(bare) + penalty, rel=1e-4)


def test_from_keras_takes_arrays_names_and_datasets():
    x, y = helpers.blobs().train
    model_fn = helpers.tiny_model
    for dataset in (
        (x, y),
        helpers.blobs(),
        tf.data.Dataset.from_tensor_slices((x, y)),
    ):
        task = Task.from_keras(model_fn, dataset, CROSS_ENTROPY, batch_size=8)
        assert task.metrics == ("accuracy",)
        assert task.layout.size == 39
    digits = Task.from_keras(
        lambda: networks.mlp_model((64,), 10, (3,), "relu"), "digits", CROSS_ENTROPY
    )
    assert digits.dataset.name == "digits"


@pytest.mark.parametrize(
    ("loss", "given", "expected"),
    [
        (CROSS_ENTROPY, {}, ("accuracy",)),
        ("mse", {}, ()),
        ("mse", {"metrics": ("mae",)}, ("mae",)),
        (CROSS_ENTROPY, {"metrics": ()}, ()),
    ],
)
def test_metrics(loss, given, expected):
    x, y = helpers.blobs().train
    y = np.eye(3)[y] if loss == "mse" else y
    task = Task.from_keras(helpers.tiny_model, (x, y), loss, batch_size=8, **given)
    assert task.metrics == expected
    assert task.compile_arguments()["metrics"] == list(expected)


def test_initial_weights_may_come_from_numpy():
    """As the error of a model whose weights no seed decides advises."""

    def model():
        net = helpers.tiny_model()
        net.set_weights([np.random.normal(size=w.shape) for w in net.get_weights()])
        return net

    task = Task.from_keras(model, helpers.blobs(), CROSS_ENTROPY, batch_size=8)
    first, again, other = (helpers.flat(task.initial(seed)[0]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (tf.data.Dataset.from_tensor_slices({"x": [1.0], "y": [1]}), "single examples"),
        (tf.data.Dataset.from_tensor_slices(([1.0], [1])).take(0), "single examples"),
        (tf.data.Dataset.from_tensor_slices(([1.0], [1])).repeat(), "is infinite"),
    ],
)
def test_what_is_no_set_of_examples(dataset, message):
    with pytest.raises(ValueError, match=message):
        Task.from_keras(helpers.tiny_model, dataset, CROSS_ENTROPY)


def unbuilt():
    return keras.Sequential([keras.layers.Dense(3)])


def frozen():
    model = helpers.tiny_model()
    model.trainable = False
    return model


BLOBS = helpers.blobs()


def made(metrics=(), **splits):
    """Returns an optimizee, some of whose splits are others."""
    splits = {name: Split(*of) for name, of in splits.items()}
    dataset = BLOBS._replace(**splits)
    return Task("made", helpers.tiny_model, dataset, CROSS_ENTROPY, 8, metrics)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Task.from_keras(helpers.tiny_model(), BLOBS, "mse"), "model_fn"),
        (
            lambda: Task.from_keras(unbuilt, BLOBS, "mse", batch_size=8),
            "built Keras model",
        ),
        (
            lambda: Task.from_keras(frozen, BLOBS, CROSS_ENTROPY, batch_size=8),
            "nothing to train",
        ),
        (
            lambda: Task.from_keras(helpers.tiny_model, "minst", "mse"),
            "Unknown data set",
        ),
        (lambda: Task.from_keras(helpers.tiny_model, 3, "mse"), "received int"),
        (
            lambda: Task.from_keras(
                helpers.tiny_model,
                (np.ones((50, 7)), np.ones(50)),
                CROSS_ENTROPY,
                batch_size=8,
            ),
            r"shape \(7,\).*the model expects \(None, 5\)",
        ),
        (
            lambda: Task.from_keras(
                helpers.tiny_model, BLOBS, lambda y, p: p[:, 0] * np.nan, batch_size=8
            ),
            "loss of the fresh model is nan",
        ),
        (
            lambda: Task.from_keras(
                helpers.tiny_model,
                tf.data.Dataset.from_tensor_slices(tuple(BLOBS.train)).batch(50),
                CROSS_ENTROPY,
            ),
            "unbatch",
        ),
        (
            lambda: Task.from_keras(
                helpers.tiny_model,
                tf.data.Dataset.from_tensor_slices(tuple(BLOBS.train)).repeat(),
                CROSS_ENTROPY,
            ),
            "infinite",
        ),
        (lambda: tasks.resnet(depth=27), "multiple of 6.*depth=27"),
        (lambda: tasks.resnet(depth=4), "multiple of 6.*depth=4"),
        (lambda: tasks.resnet(widths=(16, 32)), r"three stages.*\(16, 32\)"),
        (
            lambda: resnet_model((3, 8, 1), (3, 8, 1), 3, 10, WIDTHS),
            r"4x4 pixels.*\(3, 8, 1\)",
        ),
        (lambda: tasks.conv("digits", filters=(16, 3)), r"filters\[0\]=16: each"),
        (lambda: tasks.conv("digits", filters=((4, 3, 1, 1, 1),)), "each convolution"),
        (lambda: tasks.conv("digits", filters=((4, 3, 0),)), "numbers from 1"),
        (lambda: tasks.conv("digits", filters=((4, 2.5),)), "whole numbers"),
        (
            lambda: tasks.conv("digits", filters=((4, 3), (4, 5))),
            r"filters\[1\]=\(4, 5\) leaves nothing of its 3x3 images",
        ),
        (lambda: tasks.conv("digits", filters=((4, 9),)), "nothing of its 8x8 images"),
        (
            lambda: tasks.conv("digits", filters=((4, 7, 1), (4, 1, 3))),
            "nothing of its 2x2 images .kernel 1, stride 1, then pool 3",
        ),
        (
            lambda: networks.image_shape(data.from_arrays(np.ones((40, 7)), TWO)),
            r"needs images; received examples of shape \(7,\)",
        ),
        (
            lambda: networks.image_shape(data.from_arrays(np.ones((40, 4, 4)), TWO)),
            r"needs images; received examples of shape \(4, 4\)",
        ),
        (lambda: helpers.tiny_task(batch_size=500), "larger than its 96"),
        (lambda: helpers.tiny_task(batch_size=0), "a whole number from 1"),
        (lambda: helpers.tiny_task(batch_size=8.0), "batch_size must be a whole"),
        (lambda: made(metrics="accuracy"), r"write \('accuracy',\)"),
        (lambda: made(test=(BLOBS.test.x, np.eye(3)[BLOBS.test.y])), ONE_HOT),
        (lambda: made(test=(BLOBS.test.x[:, :4], BLOBS.test.y)), "example of test.x"),
        (lambda: made(test=(BLOBS.test.x[:0], BLOBS.test.y[:0])), "test has 0 exam"),
        (lambda: made(validation=(BLOBS.test.x, BLOBS.test.y[:3])), "and 3 targets"),
        (lambda: made(train=(BLOBS.train.x * np.nan, BLOBS.train.y)), "x holds NaN"),
        (lambda: made(train=tuple(map(list, BLOBS.train))), "must be a NumPy array"),
        (lambda: made(test=(BLOBS.test.x, BLOBS.test.y + 1)), "run from 1 to 3; the"),
        (lambda: made(test=(BLOBS.test.x, BLOBS.test.y - 1)), "run from -1 to 1; the"),
        (
            lambda: Task("two", helpers.tiny_model, tuple(BLOBS[1:3]), "mse"),
            "expected a tf_amalgam.data.Dataset, received tuple",
        ),
    ],
)
def test_mistakes_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_model_that_is_always_the_same_is_refused():
    """Or every run would go on from the last one's weights, and nothing would show."""
    model = helpers.tiny_model()
    with pytest.raises(ValueError, match="returned the same model, or layers"):
        Task.from_keras(lambda: model, BLOBS, CROSS_ENTROPY, batch_size=8)
    fresh = made()
    assert fresh.build_model(0) is not fresh.build_model(0)


@pytest.mark.parametrize("draw", [keras.random.normal, tf.random.truncated_normal])
def test_a_model_whose_beginning_no_seed_decides_is_refused(draw):
    """Or all optimizers of one seed would begin elsewhere."""

    def model_fn():
        initializer = lambda shape, dtype=None: draw(shape)  # noqa: E731
        dense = keras.layers.Dense(3, kernel_initializer=initializer)
        return keras.Sequential([keras.Input((5,)), dense])

    with pytest.raises(ValueError, match="begin with other values of .*kernel"):
        Task.from_keras(model_fn, BLOBS, CROSS_ENTROPY, batch_size=8)


def test_models_of_other_shapes_are_refused():
    widths = iter(range(3, 9))

    def model_fn():
        return keras.Sequential([keras.Input((5,)), keras.layers.Dense(next(widths))])

    with pytest.raises(ValueError, match="models of different shapes"):
        Task.from_keras(model_fn, BLOBS, CROSS_ENTROPY, batch_size=8)


def embedded(masks=True):
    """Returns a net of sequences of whole numbers, 0 for nothing."""
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            keras.layers.Embedding(9, 4, mask_zero=masks),
            keras.layers.LSTM(5, return_sequences=True),
            keras.layers.Dense(9),
        ]
    )


def cross_entropy(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, True)


def ignoring(y_true, y_pred):
    crossed = keras.losses.sparse_categorical_crossentropy
    return crossed(y_true, y_pred, from_logits=True, ignore_class=0)


CROSSED = keras.losses.SparseCategoricalCrossentropy


@pytest.mark.parametrize(
    ("loss", "masks"),
    [
        (CROSSED(from_logits=True), True),
        (CROSSED(True, reduction="mean_with_sample_weight"), True),
        (CROSSED(True, reduction="sum"), True),
        (CROSSED(True, ignore_class=0), False),
        (CROSSED(True, ignore_class=0), True),
        (cross_entropy, True),
        (cross_entropy, False),
        (ignoring, False),
        (ignoring, True),
    ],
)
def test_what_is_masked_counts_as_in_fit(loss, masks):
    """A mean is of what is not masked, minibatch by minibatch; on replicas, too."""
    check_masks(loss, masks, rel=1e-5)


def check_masks(loss, masks, rel):
    generator = np.random.default_rng(3)
    lengths = generator.integers(1, 7, 40)
    y = generator.integers(1, 9, (40, 6)) * (np.arange(6) < lengths[:, None])
    task = Task.from_keras(lambda: embedded(masks), (y, y), loss, batch_size=8)
    params_P, state = task.initial(0)
    batch = tuple(part[0] for part in task.minibatches(0, 0, 1))
    model = task.build_model(0)
    model.compile("sgd", loss)
    expected = model.evaluate(*batch, batch_size=8, verbose=0)
    found = task.loss(tf.constant(params_P), state, batch)[0]
    assert float(found) == pytest.approx(expected, rel=rel)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    values = strategy.run(lambda: task.loss(tf.constant(params_P), state, batch)[0])
    for value in strategy.experimental_local_results(values):
        assert float(value) == pytest.approx(expected, rel=rel)


def test_masks_count_whatever_type_predictions_are_of(request):
    policy = keras.config.dtype_policy()
    request.addfinalizer(lambda: keras.config.set_dtype_policy(policy))
    keras.config.set_dtype_policy("mixed_bfloat16")
    check_masks(CROSSED(from_logits=True), True, rel=2e-2)


@pytest.mark.parametrize("fixed", [True, False])
def test_a_model_that_seeds_itself_is_warned_of(fixed, caplog):
    def model_fn():
        if fixed:
            keras.utils.set_random_seed(0)
        return helpers.tiny_model()

    Task.from_keras(model_fn, BLOBS, CROSS_ENTROPY, batch_size=8)
    assert ("same weights whatever the seed" in caplog.text) == fixed


@pytest.mark.parametrize("loss", ["crossentropy", "CE"])
def test_a_name_that_stands_for_several_losses_is_refused(loss):
    with pytest.raises(ValueError, match="sparse_categorical_crossentropy"):
        Task.from_keras(helpers.tiny_model, BLOBS, loss, batch_size=8)


class Own(keras.losses.Loss):
    """A loss that Keras could not load."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, y_true, y_pred):
        return self.function(y_true - y_pred)


@pytest.mark.parametrize(
    "loss",
    [
        lambda y, p: (y - p) ** 2,
        lambda y, p: keras.ops.square(keras.ops.subtract(y, p)),
        Own(lambda off: off**2),
        "mse",
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_targets_of_another_type_are_those_of_fit(loss, dtype):
    x = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
    y = np.round(5.0 * x[:, :1]).astype(dtype)

    def model_fn():
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])

    task = Task.from_keras(model_fn, (x, y), loss, batch_size=8)
    params, _ = task.initial(0)
    found = task.loss(tf.constant(params), (), task.dataset.train)[0]
    assert found.dtype == "float32"
    model = task.build_model(0)
    model.compile("sgd", loss)
    expected = model.evaluate(*task.dataset.train, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["mse", "binary_crossentropy", "hinge", "function"])
def test_targets_without_a_last_dimension_are_aligned_as_in_fit(name):
    """`[B]` and `[B, 1]` would otherwise make a loss of each pair of examples."""
    loss = {"function": lambda y, p: (y - p) ** 2}.get(name, name)
    x = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")

    def model_fn():
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])

    targets = (x[:, 0] > 0).astype("float32")
    for y in (targets, targets[:, None]):
        task = Task.from_keras(model_fn, (x, y), loss, batch_size=8)
        params, _ = task.initial(0)
        x_train, y_train = task.dataset.train
        found = task.loss(tf.constant(params), (), (x_train, y_train))[0]
        model = task.build_model(0)
        model.compile("sgd", loss)
        expected = model.evaluate(x_train, y_train, verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_ranks_are_those_of_keras():
    one, two, three = np.ones((4,)), np.ones((4, 1)), np.ones((4, 5, 1))
    for pair, shapes in [
        ((one, two), [(4, 1), (4, 1)]),
        ((two, one), [(4, 1), (4, 1)]),
        ((three[..., 0], three), [(4, 5), (4, 5)]),
        ((three, three[..., 0]), [(4, 5), (4, 5)]),
        ((one, three[..., 0]), [(4,), (4, 5)]),
        ((one, three), [(4,), (4, 5, 1)]),
    ]:
        found = losses._of_one_rank(*pair)
        assert [value.shape for value in found] == shapes


def test_a_subclass_of_model_is_an_optimizee():
    """Keras does not know the shapes of its inputs and outputs."""

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)
            self.build((None, 5))

        def build(self, shape):
            self.dense.build(shape)
            self.built = True

        def call(self, x, training=None):
            return self.dense(x)

    task = Task.from_keras(Own, BLOBS, CROSS_ENTROPY, batch_size=8)
    assert task.layout.size == 18


class Usual(keras.Model):
    """A model of the user's own; its layers are told of training by Keras."""

    def __init__(self, rate=0.0):
        super().__init__()
        penalty = keras.regularizers.L2(0.01)
        self.first = keras.layers.Dense(4, kernel_regularizer=penalty)
        self.norm = keras.layers.LayerNormalization()
        if not rate:
            self.norm = keras.layers.BatchNormalization(momentum=0.5)
        self.drop = keras.layers.Dropout(rate, seed=1)
        self.last = keras.layers.Dense(3)
        self(np.zeros((1, 5), "float32"))

    def call(self, x, training=None):
        return self.last(self.drop(self.norm(self.first(x))))


class Untold(Usual):
    """One whose `call` takes no `training`: `fit` does not tell its layers of it."""

    def call(self, x):
        return super().call(x)


@pytest.mark.parametrize("kind", [Usual, Untold])
def test_layers_of_a_model_of_ones_own_know_of_training(kind):
    """As in `fit`: statistics move, penalties count, once."""
    task = Task.from_keras(kind, BLOBS, CROSS_ENTROPY, batch_size=8)
    params_P, state = task.initial(0)
    batches = task.minibatches(0, 0, 3)
    net = task.build_model(0)
    net.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY)
    params_P = tf.constant(params_P)
    for batch in zip(*batches, strict=True):
        loss, grads_P, state = task.value_and_grad(params_P, state, batch)
        params_P -= 0.1 * grads_P
        assert float(loss) == pytest.approx(net.train_on_batch(*batch), rel=1e-5)
        net.reset_metrics()
    trained = helpers.flat([v.numpy() for v in net.trainable_variables])
    np.testing.assert_allclose(params_P, trained, rtol=1e-4, atol=1e-5)
    moved = helpers.flat([v.numpy() for v in net.non_trainable_variables[:2]])
    np.testing.assert_allclose(helpers.flat(state[:2]), moved, rtol=1e-4, atol=1e-5)
    assert (np.abs(moved - [0, 0, 0, 0, 1, 1, 1, 1]).max() > 0.1) == (kind is Usual)
    # Held-out losses are of the statistics.
    held_out = tuple(task.dataset.validation)
    found = float(task.held_out_loss(params_P, state, held_out))
    bare = net.evaluate(*held_out, batch_size=1000, verbose=0)
    assert found == pytest.approx(bare, rel=1e-4)


@pytest.mark.parametrize("private", [False, True])
def test_dropout_of_a_model_of_ones_own_drops(private):
    dropped = functools.partial(Usual, 0.5)
    task = Task.from_keras(dropped, BLOBS, CROSS_ENTROPY, batch_size=8)
    task = tasks.private(task, noise_multiplier=0.0, delta=None) if private else task
    params_P, state = task.initial(0)
    batch = tuple(part[0] for part in task.minibatches(0, 0, 1))
    loss, _, after = task.value_and_grad(tf.constant(params_P), state, batch)
    again, _, _ = task.value_and_grad(tf.constant(params_P), after, batch)
    still = task.held_out_loss(tf.constant(params_P), state, batch[:2])
    assert len({round(float(value), 4) for value in (loss, again, still)}) == 3


def test_a_sequential_with_a_call_of_its_own_keeps_it():
    class Doubles(keras.Sequential):
        def call(self, x, training=None):
            return 2.0 * super().call(x, training=training)

    def model(kind):
        layers = [keras.Input((5,)), keras.layers.Rescaling(0.5), keras.layers.Dense(3)]
        return kind(layers)

    x, y = (part[:8] for part in BLOBS.train)
    losses = []
    for kind in (Doubles, keras.Sequential):
        task = Task.from_keras(
            functools.partial(model, kind), BLOBS, CROSS_ENTROPY, name="t", batch_size=8
        )
        params_P, state = task.initial(0)
        losses.append(float(task.held_out_loss(tf.constant(params_P), state, (x, y))))
        net = task.build_model(0)
        assert losses[-1] == pytest.approx(float(CROSS_ENTROPY(y, net(x))), rel=1e-5)
    assert losses[0] != losses[1]


def test_what_a_constant_prediction_reaches():
    """The labels' entropy, where Keras, too, finds no less; of other losses nothing."""
    task = helpers.tiny_task()
    y = task.dataset.validation.y
    shares = np.bincount(y) / len(y)
    logits = np.tile(np.log(shares), (len(y), 1))
    assert task.constant_loss() == pytest.approx(float(CROSS_ENTROPY(y, logits)))
    odd = logits + np.eye(3)[0]
    assert task.constant_loss() < float(CROSS_ENTROPY(y, odd))
    blobs, model = helpers.blobs(), helpers.tiny_model
    crossed = keras.losses.SparseCategoricalCrossentropy
    assert tasks.quadratic().constant_loss() == math.inf
    for loss in (crossed(reduction="sum"), crossed(ignore_class=0)):
        assert Task("t", model, blobs, loss, 8).constant_loss() == math.inf

    def penalized():
        dense = keras.layers.Dense(3, activity_regularizer="l2")
        return keras.Sequential([keras.Input((5,)), dense])

    assert Task("t", penalized, blobs, crossed(), 8).constant_loss() == math.inf
    for loss in ("sparse_categorical_crossentropy", crossed()):
        assert Task("t", model, blobs, loss, 8).constant_loss() == task.constant_loss()


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "none"])
def test_loss_does_not_depend_on_the_number_of_devices(reduction):
    loss = keras.losses.SparseCategoricalCrossentropy(True, reduction=reduction)
    task = Task("reduced", helpers.tiny_model, helpers.blobs(), loss, 8)
    params_P, state = task.initial(0)
    batch = tuple(tf.constant(b[0]) for b in task.minibatches(0, 0, 1))
    alone = float(task.loss(tf.constant(params_P), state, batch)[0])
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    values = strategy.run(lambda: task.loss(tf.constant(params_P), state, batch)[0])
    for value in strategy.experimental_local_results(values):
        assert float(value) == pytest.approx(alone, rel=1e-6)
    mean = float(CROSS_ENTROPY(batch[1], task.build_model(0)(batch[0])))
    assert alone == pytest.approx(8 * mean if reduction == "sum" else mean, rel=1e-5)
