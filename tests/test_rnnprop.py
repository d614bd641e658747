"""RNNProp against Keras' own LSTM layers, and by its exact invariants."""

import keras
import numpy as np
import pytest

from tests import helpers
from tf_amalgam.layout import Layout
from tf_amalgam.rules import RNNProp, make_rule

LAYOUT = Layout(("a", "b"), ((3, 2), (4,)))
STEPS = 9


def trajectory(rule, weights, grads, dtype="float64"):
    state, deltas = rule.init_state(LAYOUT, dtype), []
    for t, g in enumerate(grads, start=1):
        g = g.astype(dtype)
        delta, state = rule.update(
            weights, g, np.zeros(10, dtype), state, LAYOUT, np.asarray(t, dtype)
        )
        deltas.append(np.asarray(delta))
    return np.stack(deltas)


def gradients():
    generator = np.random.default_rng(1)
    return generator.normal(size=(STEPS, 10)) * np.geomspace(1e-3, 30, 10)


def test_weight_count():
    weights = RNNProp().init_weights(0)
    assert sum(w.size for w in weights.values()) == 5141


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_against_keras_layers(float64, preset):
    """Two `keras.layers.LSTM` and a `Dense` on the inputs computed in NumPy."""
    rule = make_rule("rnnprop", preset)
    weights = {k: v.astype("float64") for k, v in rule.init_weights(3).items()}
    grads = gradients()
    m, v, inputs = np.zeros(10), np.zeros(10), []
    for t, g in enumerate(grads, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        a, b = (1 - 0.9**t, 1 - 0.999**t) if preset == "paper" else (0.1, 0.001)
        root = np.sqrt(v / b + 1e-10)
        inputs.append(np.stack([m / a / root, g / root], axis=-1))
    sequence = np.stack(inputs, axis=1)  # [P, T, 2]
    model = keras.Sequential(
        [
            keras.Input((STEPS, 2), dtype="float64"),
            keras.layers.LSTM(20, return_sequences=True),
            keras.layers.LSTM(20, return_sequences=True),
            keras.layers.Dense(1),
        ]
    )
    parts = ("kernel", "recurrent_kernel", "bias")
    model.layers[0].set_weights([weights[f"lstm_0/{p}"] for p in parts])
    model.layers[1].set_weights([weights[f"lstm_1/{p}"] for p in parts])
    model.layers[2].set_weights([weights["head/kernel"], weights["head/bias"]])
    expected = -0.1 * np.tanh(model.predict(sequence, verbose=0)[:, :, 0].T)
    ours = trajectory(rule, weights, grads)
    assert np.abs(ours).max() > 1e-3
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-9)


def test_zero_head_moves_nothing():
    rule = RNNProp()
    weights = rule.init_weights(0)
    weights["head/kernel"] = np.zeros_like(weights["head/kernel"])
    np.testing.assert_array_equal(
        trajectory(rule, weights, gradients(), "float32"), 0.0
    )


def test_step_is_bounded_by_alpha():
    rule = RNNProp(alpha=0.03)
    weights = {k: 50.0 * v for k, v in rule.init_weights(0).items()}
    deltas = trajectory(rule, weights, gradients(), "float32")
    assert np.abs(deltas).max() == pytest.approx(0.03, rel=1e-3)


def test_gradient_scale_hardly_matters():
    """Inputs are normalized: 1,000 times the gradient, the same steps (ε aside)."""
    rule = RNNProp(epsilon=1e-20)
    weights = {k: v.astype("float64") for k, v in rule.init_weights(0).items()}
    one = trajectory(rule, weights, gradients())
    thousand = trajectory(rule, weights, 1000.0 * gradients())
    np.testing.assert_allclose(thousand, one, rtol=1e-7)


def test_observing_moves_moments_only():
    rule = RNNProp()
    state = rule.init_state(LAYOUT)
    seen = rule.observe(gradients()[0].astype("float32"), state, 1.0)
    assert np.abs(np.asarray(seen.m)).max() > 0
    np.testing.assert_array_equal(helpers.flat(seen[2:]), 0.0)
