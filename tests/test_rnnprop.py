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


def test_extended_inputs_against_keras_cells(float64):
    """The gradient too, all three inputs beside the outputs of both layers."""
    rule = RNNProp(inputs="extended", alpha=0.001, normalizer="constant")
    fresh = rule.init_weights(3)
    assert sum(w.size for w in fresh.values()) == 5464
    np.testing.assert_array_equal(fresh["head/kernel"], 0.0)
    weights = {k: v.astype("float64") for k, v in fresh.items()}
    weights["head/kernel"] = np.random.default_rng(0).normal(size=(23, 1))
    cells = [keras.layers.LSTMCell(20) for _ in range(2)]
    parts = ("kernel", "recurrent_kernel", "bias")
    for i, (cell, width) in enumerate(zip(cells, (3, 23), strict=True)):
        cell.build((None, width))
        cell.set_weights([weights[f"lstm_{i}/{p}"] for p in parts])
    states = [[keras.ops.zeros((10, 20), "float64")] * 2 for _ in cells]
    m, v, expected = np.zeros(10), np.zeros(10), []
    for g in gradients():
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        root = np.sqrt(v / 0.001 + 1e-10)
        inputs = x = np.stack([g, m / 0.1 / root, g / root], axis=1)
        for i, cell in enumerate(cells):
            x, states[i] = cell(keras.ops.convert_to_tensor(x), states[i])
            x = np.concatenate([x, inputs], axis=1)
        y = x @ weights["head/kernel"] + weights["head/bias"]
        expected.append(-0.001 * np.tanh(y[:, 0]))
    ours = trajectory(rule, weights, gradients())
    assert np.abs(ours).max() > 1e-4
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("output", ["adam_lr", "rmsprop_lr"])
def test_output_scales_an_analytic_step(output):
    """By exp(tanh y), y being what the plain rule's tanh sees."""
    plain, scaling = RNNProp(), RNNProp(output=output, alpha=0.2)
    weights = {k: 3.0 * v.astype("float64") for k, v in plain.init_weights(1).items()}
    assert sum(w.size for w in weights.values()) == 5141
    tanh_y = trajectory(plain, weights, gradients()) / -0.1
    assert np.ptp(tanh_y) > 0.1
    base = make_rule(output.removesuffix("_lr"), learning_rate=0.2)
    steps = trajectory(base, {}, gradients())
    ours = trajectory(scaling, weights, gradients())
    np.testing.assert_allclose(ours, np.exp(tanh_y) * steps, rtol=1e-9)


@pytest.mark.parametrize("option", ["inputs", "output"])
def test_unknown_variants_are_named(option):
    with pytest.raises(ValueError, match=f"{option} must be one of"):
        RNNProp(**{option: "adam"})


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
