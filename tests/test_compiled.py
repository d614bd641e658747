"""Rules that XLA compiles: the same step, to rounding."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_amalgam
from tests.conformance.test_rules import LEARNED, RULES, trained
from tf_amalgam import compiled
from tf_amalgam.chunks import Chunk
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
    program = compiled._program(rule, whole, size, None)
    assert program.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("xla", [True, False])
def test_the_same_step_row_by_row(name, xla, monkeypatch):
    """Nine coordinates as three rows of three, by XLA or not."""
    monkeypatch.setattr(compiled, "available", lambda: xla)
    rule = RULES[name]
    weights = {k: tf.constant(v, "float32") for k, v in trained(rule).items()}
    layout = Chunk(LAYOUT, tf.constant(13), 3, rows=3)
    start = rule.init_state(Layout(("some",), ((9,),)))

    def in_rows(values):
        return tf.nest.map_structure(lambda v: compiled.in_rows(v, 3), values)

    rows, usual = in_rows(start), start
    for step in tf.constant([1.0, 2.0, 3.0]):
        vectors = seen(9)
        usual_P, usual = rule.update(weights, *vectors, usual, layout.flat, step)
        rows_RS, rows = compiled.update(
            rule, weights, *in_rows(vectors), rows, layout, step
        )
        assert rows_RS.shape == (3, 3)
        np.testing.assert_allclose(rows_RS, in_rows(usual_P), rtol=1e-4, atol=1e-7)
    for a, b in zip(tf.nest.flatten(rows), tf.nest.flatten(usual), strict=True):
        np.testing.assert_allclose(a, in_rows(b), rtol=1e-4, atol=1e-6)


def test_analytic_rules_and_those_that_couple_coordinates_are_not_compiled():
    before = compiled._program.cache_info()
    for optimizer in (tf_amalgam.Adam(), tf_amalgam.Scale(warmup_steps=0)):
        variable = keras.Variable(np.ones((2, 3)))
        optimizer.apply([tf.ones((2, 3))], [variable])
    assert compiled._program.cache_info() == before


def test_loops_of_ones_own_compile_once():
    """Eagerly, step by step; another model has a program of its own."""
    optimizer = tf_amalgam.RNNProp(warmup_steps=0, name="once")
    variable = keras.Variable(np.ones((7, 3)))
    before = compiled._program.cache_info()
    for _ in range(3):
        optimizer.apply([tf.ones((7, 3))], [variable])
    after = compiled._program.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 2)
    program = compiled._program(optimizer.rule, optimizer._layout, None, None)
    assert program.experimental_get_tracing_count() == 1
