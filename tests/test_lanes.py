"""A learned rule's step in chunks against the rule itself."""

import threading

import numpy as np
import pytest
import tensorflow as tf

import tf_amalgam
from tests import helpers
from tf_amalgam import alone, lanes, meta_step, sample
from tf_amalgam.layout import Layout
from tf_amalgam.objective import Objective
from tf_amalgam.perturbation import Perturbation
from tf_amalgam.rules import Choice, Scale, make_pool, make_rule

LAYOUT = Layout(("a", "b", "c"), ((10, 9), (9,), (2, 2, 3)))  # 111 coordinates
SMALL_POOL = make_pool(("adam", "rmsprop"))


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    every = tf.config.list_logical_devices

    def without(kind=None):
        return [] if kind == "GPU" else every(kind)

    monkeypatch.setattr(tf.config, "list_logical_devices", without)


def divide(monkeypatch):
    """Has 39 coordinates and more taken in two lanes of two chunks and more."""
    monkeypatch.setattr(lanes, "LEAST", 30)
    monkeypatch.setattr(lanes, "SIZE", 16)
    monkeypatch.setattr(lanes, "cores", lambda: 2)


@pytest.fixture
def small(monkeypatch):
    divide(monkeypatch)


def step_and_back(way, weights, state, generator):
    """Returns delta, state and all vector-Jacobian products, as one vector."""

    def positive(like):  # as second moments are
        return tf.constant(np.abs(0.1 * generator.normal(size=like.shape)))

    state = tf.nest.map_structure(positive, state)
    after_bar = tf.nest.map_structure(positive, state)
    grads_P, params_P, delta_bar = tf.unstack(
        tf.constant(generator.normal(size=(3, LAYOUT.size)))
    )

    @tf.function(autograph=False)
    def program():
        sources = (weights, grads_P, params_P, state)
        with tf.GradientTape() as tape:
            tape.watch(sources)
            step = tf.constant(3.0, "float64")
            given = (weights, grads_P, params_P, way.cut(state), step)
            found = way.update(*given, taped=True)
            delta_P, after = found[0], way.joined(found[1])
        bars = tape.gradient(
            (delta_P, after),
            sources,
            output_gradients=(delta_bar, after_bar),
            unconnected_gradients="zero",
        )
        return delta_P, after, bars

    return helpers.flat(program())


RULES = {
    "rnnprop": make_rule("rnnprop"),
    "extended": make_rule("rnnprop", inputs="extended", output="adam_lr"),
    "original": make_rule("original"),
    "choice": Choice(SMALL_POOL),
    "learned scalars": make_rule("learned_scalars"),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=[pytest.mark.slow] * (name in ("extended", "original"))
        )
        for name in RULES
    ],
)
def test_lanes_take_the_rules_own_step(float64, small, name):
    """111 coordinates as 2 lanes of 4 chunks of 16, tensors across borders."""
    rule = RULES[name]
    weights = helpers.weights_of(rule)
    state = rule.init_state(LAYOUT, "float64")
    way = lanes.way_of(rule, weights, LAYOUT)
    assert isinstance(way, lanes.Lanes)
    found = step_and_back(way, weights, state, np.random.default_rng(0))
    usual = lanes.Whole(rule, LAYOUT)
    expected = step_and_back(usual, weights, state, np.random.default_rng(0))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


def test_lanes_may_be_taken_eagerly(float64, small):
    rule = RULES["original"]
    weights = helpers.weights_of(rule)
    state = rule.init_state(LAYOUT, "float64")
    grads_P = tf.constant(np.random.default_rng(0).normal(size=LAYOUT.size))

    def gradient(way):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            step = tf.constant(1.0, "float64")
            given = (weights, grads_P, grads_P, way.cut(state), step)
            delta_P, _ = way.update(*given, taped=True)
        return helpers.flat(tape.gradient(delta_P, weights))

    usual = gradient(lanes.Whole(rule, LAYOUT))
    found = gradient(lanes.way_of(rule, weights, LAYOUT))
    np.testing.assert_allclose(found, usual, rtol=1e-9, atol=1e-13)


def test_a_state_is_cut_and_joined(small):
    rule = RULES["choice"]
    way = lanes.way_of(rule, helpers.weights_of(rule), LAYOUT)
    state = tf.nest.map_structure(
        lambda part: tf.random.normal(part.shape), rule.init_state(LAYOUT)
    )
    cut = way.cut(state)
    assert len(cut) == 2
    assert {part.shape[0] for part in tf.nest.flatten(cut)} == {4}
    assert {part.shape[-1] for part in tf.nest.flatten(cut)} == {16}
    tf.nest.map_structure(np.testing.assert_array_equal, way.joined(cut), state)


@pytest.mark.parametrize(("cores", "count"), [(1, 1), (3, 3), (64, 7)])
def test_a_lane_for_each_core(float64, monkeypatch, small, cores, count):
    """No more lanes than chunks: 111 coordinates are 7 of 16; 3 lanes end padded."""
    monkeypatch.setattr(lanes, "cores", lambda: cores)
    rule = RULES["learned scalars"]
    weights = helpers.weights_of(rule)
    state = rule.init_state(LAYOUT, "float64")
    way = lanes.way_of(rule, weights, LAYOUT)
    assert len(way.cut(state)) == count
    found = step_and_back(way, weights, state, np.random.default_rng(0))
    usual = lanes.Whole(rule, LAYOUT)
    expected = step_and_back(usual, weights, state, np.random.default_rng(0))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13)


def test_who_takes_all_coordinates_at_once(monkeypatch):
    """Small nets, and rules that learn nothing, couple coordinates or draw noise."""
    large = Layout(("a",), ((lanes.LEAST,),))

    def way(rule, layout=large):
        return type(lanes.way_of(rule, helpers.weights_of(rule), layout))

    assert way(RULES["rnnprop"]) is lanes.Lanes
    assert way(RULES["rnnprop"], LAYOUT) is lanes.Whole
    assert way(SMALL_POOL[0]) is lanes.Whole
    assert way(make_rule("learned_scalars", base="sgd")) is lanes.Whole  # no state
    assert way(Scale()) is lanes.Whole
    assert way(Choice(SMALL_POOL, hardness=10.0)) is lanes.Whole
    for where, name, answer in (
        (tf.config, "list_logical_devices", lambda kind: [kind]),
        (lanes, "available", lambda: False),
        (tf.config, "functions_run_eagerly", lambda: True),
    ):
        with monkeypatch.context() as there:
            there.setattr(where, name, answer)
            assert way(RULES["rnnprop"]) is lanes.Whole


def truncated(task, who, objective):
    """Returns meta-gradient, carry and metrics after two truncations."""
    weights, carry = helpers.weights_of(who.student), helpers.started(task, who)
    program = tf.function(
        lambda carry, batches: meta_step.truncation(
            task, who, objective, weights, carry, batches
        ),
        autograph=False,
    )
    for n in range(2):
        batches = helpers.constants(task.minibatches(1, 3 + 5 * n, 5))
        gradient, carry, metrics = program(carry, batches)
    return gradient, carry, metrics


@pytest.mark.parametrize(
    "devices", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))]
)
def test_what_is_compiled_ahead_is_what_a_truncation_calls(small, monkeypatch, devices):
    """Anything traced with other arguments would be compiled again."""
    begun = []
    monkeypatch.setattr(lanes, "_begin", lambda *what: begun.append(what))
    lanes._programs.cache_clear()
    task, who = helpers.tiny_task(), helpers.players()
    weights, carry = helpers.weights_of(who.student), helpers.started(task, who)
    batches = helpers.constants(task.minibatches(1, 3, 5))
    held_out = tuple(part[0] for part in batches)
    names = ["CPU:0", "CPU:1"][:devices]
    strategy = tf.distribute.MirroredStrategy(names) if devices else None

    def step():
        alone.held_out_score(task, who.student, weights, carry, batches, held_out)
        return meta_step.truncation(
            task, who, Objective(alpha=0.3), weights, carry, batches
        )

    program = tf.function(strategy.run if strategy else lambda f: f(), autograph=False)
    program(step)
    way = lanes.way_of(who.student, weights, task.layout)
    # Of each device once: the way forth by the validation, back by the truncation.
    count = max(devices, 1)
    assert len({device for _, device in begun}) == count
    assert len(begun) == 2 * count
    assert len({p.name for programs, _ in begun for p in programs}) == 2 * count
    for traced in (way._forth, way._back):
        assert traced.experimental_get_tracing_count() == count
    for programs, device in begun:
        lanes._compile(programs, device)


def test_compiling_ahead_calls_a_program_inside_a_graph():
    """As truncations do: XLA compiles it once more for a call from outside."""
    called = []

    class Program:
        structured_input_signature = ((["phi"], tf.TensorSpec((2,))), {})

        def __call__(self, *inputs):
            called.append((tf.inside_function(), [i.shape for i in inputs]))
            return inputs[0]

    lanes._compile([Program()], "CPU:0")
    assert called == [(True, [(2,)])]


@pytest.mark.parametrize("thread", [True, False])
def test_what_cannot_be_compiled_ahead_is_left(monkeypatch, thread):
    tried, unhandled = [], []

    def fails(*what):
        tried.append(what)
        raise RuntimeError("no memory")

    def none_may_start(target):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(lanes, "_compile", fails)
    if not thread:
        monkeypatch.setattr(lanes.threading, "Thread", none_may_start)
    monkeypatch.setattr(threading, "excepthook", unhandled.append)
    lanes._begin(["program"], "CPU:0")
    for one in threading.enumerate():
        if one is not threading.current_thread() and not one.daemon:
            one.join(5.0)
    assert len(tried) == thread
    assert not unhandled


@pytest.mark.parametrize(
    "objective",
    [
        Objective(alpha=0.3, segment=2),
        pytest.param(
            Objective(alpha=0.3, teacher_forcing=True), marks=pytest.mark.slow
        ),
        pytest.param(
            Objective(
                alpha=0.3,
                second_order=False,
                input_noise=0.1,
                perturbation=Perturbation("gaussian", 0.1, redrawn="inner_step"),
            ),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_truncations_are_the_same(float64, monkeypatch, objective):
    task, who = helpers.tiny_task(), helpers.players()
    monkeypatch.setattr(sample, "SIZE", 35)  # of 39 coordinates
    whole = truncated(task, who, objective)
    divide(monkeypatch)
    cut = truncated(task, who, objective)
    np.testing.assert_allclose(
        helpers.flat(cut), helpers.flat(whole), rtol=1e-8, atol=1e-13
    )


def test_validations_are_the_same(float64, monkeypatch):
    task, who = helpers.tiny_task(), helpers.players(teachers=())

    def score():
        return alone.held_out_score(
            task,
            who.student,
            helpers.weights_of(who.student),
            helpers.started(task, who),
            helpers.constants(task.minibatches(1, 3, 7)),
            task.dataset.validation,
        )

    whole = score()
    divide(monkeypatch)
    np.testing.assert_allclose(score(), whole, rtol=1e-10)


@pytest.mark.slow
def test_devices_take_lanes_of_their_own(monkeypatch):
    def amalgamated(replicas):
        return tf_amalgam.amalgamate(
            helpers.tiny_task(),
            truncation_steps=6,
            stages=((6, 1),),
            period=1,
            meta_batch=2,
            validation_optimizees=1,
            replicas=replicas,
            progress=False,
        )

    whole = amalgamated(1).history[0]
    divide(monkeypatch)
    for replicas in (1, 2):
        found = amalgamated(replicas).history[0]
        for name in ("loss", "meta_gradient_norm", "distance/adam"):
            assert found[name] == pytest.approx(whole[name], rel=1e-4)
