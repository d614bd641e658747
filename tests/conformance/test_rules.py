"""Properties that every registered rule has, found through the registry."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests import helpers
from tf_amalgam import rules
from tf_amalgam.layout import Layout
from tf_amalgam.optimizers import OPTIMIZERS

LAYOUT = Layout(("kernel", "bias"), ((4, 3), (3,)))
STEPS = 5


@pytest.fixture(params=sorted(rules.RULES))
def rule(request):
    return rules.make_rule(request.param)


def gradients():
    return np.random.default_rng(2).normal(size=(STEPS, LAYOUT.size)) + 0.5


def run(rule, grads, dtype="float64", layout=LAYOUT):
    weights = {k: tf.constant(v, dtype) for k, v in rule.init_weights(0).items()}
    params = tf.zeros(layout.size, dtype)
    state, deltas = rule.init_state(layout, dtype), []
    for t, g in enumerate(grads, start=1):
        delta, state = rule.update(
            weights, tf.constant(g, dtype), params, state, layout, tf.constant(t, dtype)
        )
        params += delta
        deltas.append(delta.numpy())
    return np.stack(deltas), state


def test_registry_is_complete():
    assert set(OPTIMIZERS) == set(rules.RULES)
    assert set(rules.TEACHERS) <= set(rules.RULES)
    assert set(rules.LEARNING_RATES) == set(rules.TEACHERS)


def test_moves_and_keeps_shapes_and_dtype(rule):
    before = rule.init_state(LAYOUT, "float64")
    deltas, after = run(rule, gradients())
    assert deltas.shape == (STEPS, LAYOUT.size)
    assert deltas.dtype == np.float64
    assert np.abs(deltas).max() > 0
    assert type(after) is type(before)
    for old, new in zip(before, after, strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)


def test_permuted_coordinates_give_the_permuted_step(rule):
    order = np.random.default_rng(3).permutation(LAYOUT.size)
    plain, _ = run(rule, gradients())
    permuted, _ = run(rule, gradients()[:, order])
    np.testing.assert_allclose(permuted, plain[:, order], rtol=1e-12, atol=1e-15)


def test_a_coordinate_sees_only_its_own_gradient(rule):
    grads = gradients()
    changed = grads.copy()
    changed[:, 0] *= -3.0
    first, second = run(rule, grads)[0], run(rule, changed)[0]
    np.testing.assert_array_equal(first[:, 1:], second[:, 1:])
    assert np.any(first[:, 0] != second[:, 0])


def test_eager_equals_compiled(rule):
    weights = {k: tf.constant(v) for k, v in rule.init_weights(0).items()}
    grads = tf.constant(gradients()[0], "float32")
    arguments = (grads, tf.zeros_like(grads), rule.init_state(LAYOUT))
    step = tf.constant(1.0)

    def update(grads, params, state):
        return rule.update(weights, grads, params, state, LAYOUT, step)

    eager, compiled = update(*arguments), tf.function(update)(*arguments)
    np.testing.assert_allclose(
        helpers.flat(compiled), helpers.flat(eager), rtol=1e-5, atol=1e-7
    )


def test_float32_follows_float64(rule):
    exact, _ = run(rule, gradients())
    single, _ = run(rule, gradients(), "float32")
    np.testing.assert_allclose(
        single, exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max()
    )


def test_config_rebuilds_the_rule(rule):
    config = json.loads(json.dumps(rule.get_config()))
    assert rules.make_rule(rule.name, **config) == rule


def test_fresh_weights_depend_on_the_seed_alone(rule):
    first, again, other = (rule.init_weights(seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(helpers.flat(first), helpers.flat(again))
    if first:
        assert np.any(helpers.flat(first) != helpers.flat(other))


def test_observing_is_what_updating_does_to_moments(rule):
    state = rule.init_state(LAYOUT, "float64")
    grads = tf.constant(gradients()[0])
    seen = rule.observe(grads, state, tf.constant(1.0, tf.float64))
    _, updated = run(rule, gradients()[:1])
    for name in set(getattr(state, "_fields", ())) & {"m", "v"}:
        np.testing.assert_array_equal(getattr(seen, name), getattr(updated, name))
