"""The original LSTM optimizer: inputs by hand, steps against Keras' layers."""

import keras
import numpy as np
import pytest

import tf_amalgam
from tests import helpers
from tf_amalgam.layout import Layout
from tf_amalgam.rules import Original, make_rule
from tf_amalgam.rules.original import log_sign

LAYOUT = Layout(("a", "b"), ((3, 2), (4,)))
STEPS = 7


def gradients():
    generator = np.random.default_rng(1)
    return generator.normal(size=(STEPS, 10)) * np.geomspace(1e-6, 30, 10)


def trajectory(rule, weights, grads):
    state, deltas = rule.init_state(LAYOUT, "float64"), []
    for t, g in enumerate(grads, start=1):
        delta, state = rule.update(
            weights, g, np.zeros(10), state, LAYOUT, np.float64(t)
        )
        deltas.append(np.asarray(delta))
    return np.stack(deltas)


@pytest.mark.parametrize(
    ("preset", "preprocessing", "count"),
    [("paper", "log_sign", 5141), ("released", "raw", 5061)],
)
def test_preset_and_weight_count(preset, preprocessing, count):
    rule = make_rule("original", preset)
    assert rule.preprocessing == preprocessing
    assert sum(w.size for w in rule.init_weights(0).values()) == count


def test_log_sign_by_hand():
    """p = 2: the threshold is e⁻² = .135."""
    grads = np.array([np.e, -1.0, np.exp(-1), -np.exp(-2), 0.5 * np.exp(-2), 0.0])
    expected = [[0.5, 0, -0.5, -1, -1, -1], [1, -1, 1, -1, 0.5, 0]]
    np.testing.assert_allclose(log_sign(grads, 2.0), expected, atol=1e-12)


@pytest.mark.parametrize("preprocessing", ["log_sign", "raw"])
def test_against_keras_layers(float64, preprocessing):
    """Two `keras.layers.LSTM` and a `Dense` on the inputs computed in NumPy."""
    rule = Original(preprocessing=preprocessing)
    weights = {k: v.astype("float64") for k, v in rule.init_weights(3).items()}
    grads = gradients()
    inputs = grads[..., None]
    if preprocessing == "log_sign":
        large = np.abs(grads) >= np.exp(-10.0)
        assert large.any()
        assert not large.all()
        inputs = np.stack(
            [
                np.where(large, np.log(np.abs(grads)) / 10.0, -1.0),
                np.where(large, np.sign(grads), np.exp(10.0) * grads),
            ],
            axis=-1,
        )
    model = keras.Sequential(
        [
            keras.Input((STEPS, inputs.shape[-1]), dtype="float64"),
            keras.layers.LSTM(20, return_sequences=True),
            keras.layers.LSTM(20, return_sequences=True),
            keras.layers.Dense(1),
        ]
    )
    parts = ("kernel", "recurrent_kernel", "bias")
    model.layers[0].set_weights([weights[f"lstm_0/{p}"] for p in parts])
    model.layers[1].set_weights([weights[f"lstm_1/{p}"] for p in parts])
    model.layers[2].set_weights([weights["head/kernel"], weights["head/bias"]])
    found = model.predict(inputs.transpose(1, 0, 2), verbose=0)
    ours = trajectory(rule, weights, grads)
    assert np.abs(ours).max() > 1e-3
    np.testing.assert_allclose(ours, -0.1 * found[:, :, 0].T, rtol=1e-6, atol=1e-9)


def test_zero_head_moves_nothing():
    rule = Original()
    weights = {k: v.astype("float64") for k, v in rule.init_weights(0).items()}
    weights["head/kernel"] *= 0.0
    np.testing.assert_array_equal(trajectory(rule, weights, gradients()), 0.0)


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match="must be one of log_sign, raw; received 'log"):
        Original(preprocessing="log")


@pytest.mark.slow
def test_it_learns_a_family_of_quadratics():
    """Of five seeds the means were 1.3 to 1.7, the least of any member .65."""
    task = helpers.quadratics()
    amalgam = tf_amalgam.amalgamate(task, student="original", **helpers.FAMILY_LESSON)
    gains = helpers.gains_on_fresh_members(amalgam, task)
    assert np.mean(gains) > 0.9
    assert np.min(gains) > 0.3
