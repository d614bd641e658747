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


# Hyperparameters that make another rule of a registered one.
VARIANTS = {
    "rnnprop, extended": {"inputs": "extended"},
    "rnnprop, adam_lr": {"output": "adam_lr"},
    "rnnprop, rmsprop_lr": {"output": "rmsprop_lr"},
    "original, raw": {"preprocessing": "raw"},
    "scale, no shortcut": {"shortcut": False},
    "choice, large": {"pool": "large", "units": 6},
    "choice, shallow": {"layers": 1},
    "choice, learned rates": {"rate_range": 1.0},
    "choice, agreement": {"rate_range": 1.0, "rate_agreement": 0.5},
    **{f"learned_scalars, {base}": {"base": base} for base in rules.TEACHERS},
}
RULES = {
    **{name: rules.make_rule(name) for name in rules.RULES},
    **{
        name: rules.make_rule(name.split(",")[0], **config)
        for name, config in VARIANTS.items()
    },
}
LEARNED = [name for name, rule in RULES.items() if rule.init_weights(0)]


@pytest.fixture(params=sorted(RULES))
def rule(request):
    return RULES[request.param]


def gradients():
    return np.random.default_rng(2).normal(size=(STEPS, LAYOUT.size)) + 0.5


def trained(rule):
    """Returns weights somewhat off the fresh ones, among which are zero heads."""
    generator = np.random.default_rng(4)
    return {
        k: v + 0.1 * generator.normal(size=v.shape)
        for k, v in rule.init_weights(0).items()
    }


def run(rule, grads, dtype="float64", layout=LAYOUT):
    weights = {k: tf.constant(v, dtype) for k, v in trained(rule).items()}
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
    pairs = zip(tf.nest.flatten(before), tf.nest.flatten(after), strict=True)
    for old, new in pairs:
        assert (old.shape, old.dtype) == (new.shape, new.dtype)


def test_permuted_coordinates_give_the_permuted_step(rule):
    """Among all coordinates, or among those of a tensor where tensors matter."""
    generator = np.random.default_rng(3)
    if not rule.sees_tensors:
        order = generator.permutation(LAYOUT.size)
    else:
        pieces = LAYOUT.segments(np.arange(LAYOUT.size))
        order = np.concatenate([generator.permutation(np.asarray(p)) for p in pieces])
    plain, _ = run(rule, gradients())
    permuted, _ = run(rule, gradients()[:, order])
    np.testing.assert_allclose(permuted, plain[:, order], rtol=1e-12, atol=1e-15)


def test_a_coordinate_sees_only_its_own_gradient(rule):
    grads = gradients()
    changed = grads.copy()
    changed[:, 0] *= -3.0
    first, second = run(rule, grads)[0], run(rule, changed)[0]
    assert np.any(first[:, 0] != second[:, 0])
    if rule.coordinatewise:
        np.testing.assert_array_equal(first[:, 1:], second[:, 1:])
    else:
        assert np.all(np.any(first != second, axis=0))


def test_eager_equals_compiled(rule):
    weights = {k: tf.constant(v, "float32") for k, v in trained(rule).items()}
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
    if any(w.ndim > 1 for w in first.values()):  # a few scalars are not drawn
        assert np.any(helpers.flat(first) != helpers.flat(other))


def test_observing_is_what_updating_does_to_moments(rule):
    state = rule.init_state(LAYOUT, "float64")
    grads = tf.constant(gradients()[0])
    step = tf.constant(1.0, tf.float64)
    seen = rule.observe(grads, state, step)
    # With fresh weights: some rules learn how moments decay.
    weights = {k: tf.constant(v, "float64") for k, v in rule.init_weights(0).items()}
    _, updated = rule.update(weights, grads, tf.zeros_like(grads), state, LAYOUT, step)
    moments = set(getattr(state, "_fields", ())) & {"m", "v"}
    for name in moments:
        np.testing.assert_allclose(
            getattr(seen, name), getattr(updated, name), rtol=1e-6
        )
    if isinstance(rule, rules.Choice):  # its pool's moments, and its own
        moments = {"pool", "agreement"}
        found, expected = (
            np.concatenate([helpers.flat(s.pool), helpers.flat(s.agreement)])
            for s in (seen, updated)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    for name in set(getattr(state, "_fields", ())) - moments:
        np.testing.assert_array_equal(
            helpers.flat(getattr(seen, name)), helpers.flat(getattr(state, name))
        )


@pytest.mark.parametrize("name", LEARNED)
def test_gradient_through_an_unroll_equals_finite_differences(name):
    """Of the loss after a few steps on a quadratic, in a random direction."""
    rule, weights = RULES[name], trained(RULES[name])
    generator = np.random.default_rng(5)
    curvature = tf.constant(np.geomspace(0.3, 3.0, LAYOUT.size))
    start = tf.constant(generator.normal(size=LAYOUT.size))

    def loss(weights):
        params, state = start, rule.init_state(LAYOUT, "float64")
        for t in range(1, STEPS + 1):
            step = tf.constant(t, "float64")
            grads = curvature * params
            delta, state = rule.update(weights, grads, params, state, LAYOUT, step)
            params += delta
        return 0.5 * tf.reduce_sum(curvature * params**2)

    weights = {k: tf.constant(v) for k, v in weights.items()}
    with tf.GradientTape() as tape:
        tape.watch(weights)
        value = loss(weights)
    gradient = tape.gradient(value, weights)
    for k, v in weights.items():
        assert np.abs(gradient[k]).max() > 1e-12, f"{k} does not matter"
        direction = tf.constant(generator.normal(size=v.shape))
        h = 1e-4  # at 1e-5 rounding shows where a gradient is 1e-7
        ends = [loss({**weights, k: v + s * h * direction}) for s in (1.0, -1.0)]
        size = np.linalg.norm(gradient[k]) * np.linalg.norm(direction)
        exact = tf.reduce_sum(gradient[k] * direction)
        difference = (ends[0] - ends[1]) / (2 * h)
        assert abs(exact - difference) < 1e-5 * size + 1e-10, k
