"""Hyperbolic tangent and sigmoid as quotients: close to the real ones, where wanted."""

import numpy as np
import pytest
import tensorflow as tf

from tests.conformance.test_rules import RULES, trained
from tf_amalgam import compiled
from tf_amalgam.layout import Layout
from tf_amalgam.rules import activations

EVERYWHERE = np.concatenate(
    [np.linspace(-30, 30, 200_001), np.logspace(-30, 30, 1001), [0.0, np.inf, -np.inf]]
).astype("float32")


@pytest.mark.parametrize(
    ("function", "true", "off"),
    [
        (activations.tanh, np.tanh, 4e-7),
        (activations.sigmoid, lambda x: 0.5 + 0.5 * np.tanh(0.5 * x), 2e-7),
    ],
)
def test_quotients_are_as_near_as_they_say(function, true, off):
    with activations.as_quotients():
        found = function(tf.constant(EVERYWHERE)).numpy().astype("float64")
    expected = true(EVERYWHERE.astype("float64"))
    assert 0 < np.abs(found - expected).max() < off
    assert (np.abs(found) <= 1).all()
    assert function(tf.constant([0.0])).numpy() == true(0.0)


def test_a_small_tanh_is_relatively_near():
    small = np.logspace(-30, 0, 1001).astype("float32")
    with activations.as_quotients():
        found = activations.tanh(tf.constant(small)).numpy()
    np.testing.assert_allclose(found, np.tanh(small.astype("float64")), rtol=4e-7)


@pytest.mark.parametrize("function", [activations.tanh, activations.sigmoid])
def test_what_is_no_number_stays_none(function):
    """Or a guard would not see it; XLA's vectors and their rest alike."""

    @tf.function(jit_compile=True, autograph=False)
    def program(x):
        with activations.as_quotients():
            return function(x)

    found = program(tf.constant([np.nan, 1.0] * 16 + [np.nan])).numpy()
    np.testing.assert_array_equal(np.isnan(found), [True, False] * 16 + [True])


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_dtypes_keep_the_backends(dtype):
    x = tf.cast(tf.linspace(-5.0, 5.0, 101), dtype)
    with activations.as_quotients():
        for found, usual in (
            (activations.tanh(x), tf.tanh(x)),
            (activations.sigmoid(x), tf.sigmoid(x)),
        ):
            np.testing.assert_array_equal(found, usual)


def test_nothing_is_left_of_it_after_an_error():
    x = tf.constant(EVERYWHERE)
    with pytest.raises(RuntimeError, match="on the way"), activations.as_quotients():
        raise RuntimeError("on the way")
    np.testing.assert_array_equal(activations.tanh(x), tf.tanh(x))
    np.testing.assert_array_equal(activations.sigmoid(x), tf.sigmoid(x))


@pytest.mark.parametrize("gpus", [[], ["a GPU"]])
def test_programs_for_a_cpu_have_them(gpus, monkeypatch):
    """All but the head's tanh; beside a GPU all stay the backend's."""
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    rule = RULES["rnnprop"]
    layout = Layout(("of this test", str(gpus)), ((3,), (4,)))
    weights = {k: tf.constant(v, "float32") for k, v in trained(rule).items()}
    state = rule.init_state(layout)
    program = compiled._program(rule, layout, None).get_concrete_function(
        weights, tf.ones(7), tf.ones(7), state, tf.constant(1.0), 0
    )
    kinds = [operation.type for operation in program.graph.get_operations()]
    expected = (5, 6) if gpus else (1, 0)
    assert (kinds.count("Tanh"), kinds.count("Sigmoid")) == expected
