"""Rules that XLA compiles: the same step, to rounding."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_amalgam
from tests.conformance.test_rules import LEARNED, RULES, trained
from tf_amalgam import advance, compiled
from tf_amalgam.chunks import Chunk, Held, in_rows
from tf_amalgam.layout import Layout

LAYOUT = Layout(("kernel", "bias"), ((5, 4), (4,)))
FAST = [name for name in LEARNED if RULES[name].coordinatewise]


def seen(size):
    generator = np.random.default_rng(0)
    return [
        tf.constant(generator.normal(size=size), "float32") for _ in ("grads", "params")
    ]


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize(
    "layout", [LAYOUT, Chunk(LAYOUT, tf.constant(13), 9)], ids=["whole", "chunk"]
)
def test_the_same_step(name, layout):
    rule = RULES[name]
    weights = {k: tf.constant(v, "float32") for k, v in trained(rule).items()}
    size = layout.size
    state = rule.init_state(Layout(("some",), ((size,),)))
    fast = slow = state
    for step in tf.constant([1.0, 2.0, 3.0]):
        grads_P, params_P = seen(size)
        arguments = (grads_P * step, params_P)
        slow_P, slow = rule.update(weights, *arguments, slow, layout, step)
        fast_P, fast = compiled.update(rule, weights, *arguments, fast, layout, step)
        assert np.abs(slow_P).max() > 0
        np.testing.assert_allclose(fast_P, slow_P, rtol=1e-4, atol=1e-7)
    for a, b in zip(tf.nest.flatten(fast), tf.nest.flatten(slow), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    chunk = isinstance(layout, Chunk)
    whole, size = (layout.whole, layout.size) if chunk else (layout, None)
    program = compiled._program(rule, compiled._nameless(whole), size)
    assert program.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        pytest.param(
            *(name, rows), marks=[pytest.mark.slow] * (rows == 1 and name != "rnnprop")
        )
        for rows in (1, 3)
        for name in FAST
    ],
)
def test_the_same_steps_in_place(name, rows):
    """Coordinates in rows of three, whose variables are changed."""
    rule = RULES[name]
    weights = {k: tf.constant(v, "float32") for k, v in trained(rule).items()}
    part = Chunk(LAYOUT, tf.constant(13), 3, rows)
    whole = Chunk(LAYOUT, tf.constant(13), 3 * rows)
    state = rule.init_state(Layout(("some",), ((3 * rows,),)))
    variables = [tf.Variable(in_rows(v, 3)) for v in tf.nest.flatten(state)]
    held = [Held(v.handle, v.dtype, v.shape) for v in variables]
    for step in tf.constant([1.0, 2.0, 3.0]):
        vectors = seen(3 * rows)
        delta_P, state = rule.update(weights, *vectors, state, whole, step)
        mine = [in_rows(v, 3) for v in vectors]
        given = (weights, step, None)
        delta_RS = compiled.in_place(advance._moved, rule, given, mine, held, part)
        np.testing.assert_allclose(delta_RS, in_rows(delta_P, 3), rtol=1e-4, atol=1e-7)
    for variable, value in zip(variables, tf.nest.flatten(state), strict=True):
        np.testing.assert_allclose(variable, in_rows(value, 3), rtol=1e-4, atol=1e-6)


def test_analytic_rules_and_those_that_couple_coordinates_are_not_compiled():
    before = compiled._program.cache_info()
    for optimizer in (tf_amalgam.Adam(), tf_amalgam.Scale(warmup_steps=0)):
        variable = keras.Variable(np.ones((2, 3)))
        optimizer.apply([tf.ones((2, 3))], [variable])
    assert compiled._program.cache_info() == before


def test_loops_of_ones_own_compile_once():
    """Eagerly, step by step; models of equal shapes share a program."""
    optimizer = tf_amalgam.RNNProp(warmup_steps=0, name="once")
    variable = keras.Variable(np.ones((7, 3)))
    before = compiled._program.cache_info()
    for _ in range(3):
        optimizer.apply([tf.ones((7, 3))], [variable])
    after = compiled._program.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 2)
    alike = tf_amalgam.RNNProp(warmup_steps=0)
    other = keras.Variable(np.ones((7, 3)), name="another")
    alike.apply([tf.ones((7, 3))], [other])
    assert compiled._program.cache_info().misses == after.misses
    layout = compiled._nameless(optimizer._layout)
    program = compiled._program(optimizer.rule, layout, None)
    assert program.experimental_get_tracing_count() == 1
