"""What tells optimizees apart whose parameters have the same shapes."""

import operator

import keras
import numpy as np
import pytest
from keras import layers

from tf_amalgam import tasks, terms
from tf_amalgam.tasks import outline


def net(*body):
    return keras.Sequential([keras.Input((4,)), *body])


def branched(first, second):
    """Two layers, of which the second sees one of two tensors."""
    inputs = keras.Input((4,))
    hidden = layers.Dense(4)(inputs)
    outputs = {"inputs": inputs, "hidden": hidden}
    return keras.Model(
        inputs, layers.Subtract()([outputs[first], outputs[second]]) + hidden
    )


def combined(operation):
    inputs = keras.Input((4,))
    return keras.Model(inputs, operation(inputs, layers.Dense(4)(inputs)))


def test_it_says_what_is_not_the_default():
    found = outline.outline(
        net(layers.Dense(3, activation="relu"), layers.Dropout(0.5, seed=4))
    )
    assert found == ["Dense(activation=relu, units=3)", "Dropout(rate=0.5) after 0"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: net(layers.Dense(3)), lambda: net(layers.Dense(3, "relu"))),
        (
            lambda: net(layers.Dense(3)),
            lambda: net(layers.Dense(3, kernel_initializer="zeros")),
        ),
        (
            lambda: net(layers.Dense(3)),
            lambda: net(layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))),
        ),
        (
            lambda: net(layers.Dense(3), layers.Dropout(0.1)),
            lambda: net(layers.Dense(3), layers.Dropout(0.2)),
        ),
        (lambda: branched("inputs", "hidden"), lambda: branched("hidden", "inputs")),
        (lambda: combined(operator.add), lambda: combined(operator.mul)),
        (
            lambda: net(net(layers.Dense(4)), layers.ReLU()),
            lambda: net(net(layers.Dense(4, "tanh")), layers.ReLU()),
        ),
    ],
)
def test_other_models_have_other_digests(first, second):
    digests = [outline.digest(make()) for make in (first, first, second)]
    assert digests[0] == digests[1]  # whatever Keras calls their layers
    assert digests[0] != digests[2]


def test_a_default_is_none_however_it_is_written():
    plain = net(layers.Dense(3))
    same = net(
        layers.Dense(
            3,
            kernel_initializer=keras.initializers.GlorotUniform(seed=3),
            bias_initializer=keras.initializers.Zeros(),
            name="other",
        )
    )
    assert outline.digest(plain) == outline.digest(same)


class Own(layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, x):
        return self.function(x)


def test_functions_are_not_looked_into():
    """Their code holds the file that it was written in."""
    functions = (lambda x: x, lambda x: 2.0 * x)
    makers = (
        lambda f: layers.Lambda(f, output_shape=(4,)),
        lambda f: layers.Dense(4, activation=f),
        Own,
    )
    for make in makers:
        assert len({outline.digest(net(make(f))) for f in functions}) == 1


def test_descriptions_of_tasks_differ_where_they_do():
    kinds = [
        tasks.mlp("digits"),
        tasks.mlp("digits", activation="relu"),
        tasks.quadratic(4),
        tasks.quadratic(4, condition=100.0),
        tasks.quadratic(4, noise=0.1),
        tasks.quadratic(4, seed=1),
        tasks.quadratic(4, seed=None),
    ]
    described = [task.describe() for task in kinds]
    for i, one in enumerate(described):
        for other in described[:i]:
            same = {k: v for k, v in one.items() if k != "name"}
            assert same != {k: v for k, v in other.items() if k != "name"}
    assert tasks.mlp("digits").describe() == described[0]


def test_records_of_earlier_versions_do_not_say():
    told = tasks.mlp("digits").describe()
    for key in ("model", "data", "loss_options"):
        older = {k: v for k, v in told.items() if k != key}
        assert not terms.differences(older, told)
        (found,) = terms.differences(told, {**told, key: "0" * 12})
        assert found.name == key


def test_an_optimizee_is_told_by_its_data_and_by_how_its_loss_is_computed():
    """Names and sizes are the same."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(60, 4)), generator.integers(0, 3, 60)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy

    def task(x, y, loss):
        given = {"loss": loss, "batch_size": 8, "name": "mine"}
        return tasks.Task.from_keras(lambda: net(layers.Dense(3)), (x, y), **given)

    def told(*given):
        return task(*given).describe()

    mine = told(x, y, cross_entropy(from_logits=True))
    assert told(x.copy(), y, cross_entropy(from_logits=True)) == mine
    assert told(x * (1 + 1e-15), y, cross_entropy(from_logits=True)) == mine
    other = y.copy()
    other[7] = (other[7] + 1) % 3
    for key, given in {
        "data": [
            (2.0 * x, y, cross_entropy(from_logits=True)),
            (x[::-1], y[::-1], cross_entropy(from_logits=True)),
            (x.astype("float32"), y, cross_entropy(from_logits=True)),
            (x, other, cross_entropy(from_logits=True)),
        ],
        "loss_options": [(x, y, cross_entropy())],
    }.items():
        for one in given:
            (found,) = terms.differences(mine, told(*one))
            assert found.name == key
    assert mine["loss_options"] == "SparseCategoricalCrossentropy(from_logits=True)"
    assert tasks.mlp("digits").describe()["data"] != mine["data"]
