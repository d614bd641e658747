"""The meta-gradient against float64 finite differences, and its exact invariants."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import plain
from tests import helpers
from tf_amalgam import meta_step, sample
from tf_amalgam.data import Dataset, Split
from tf_amalgam.objective import Objective
from tf_amalgam.perturbation import Perturbation
from tf_amalgam.tasks.task import Task

STEPS = 7


def truncation(task, who, objective, steps=STEPS, with_gradient=True):
    batches = helpers.constants(task.minibatches(1, 3, steps))
    program = tf.function(
        lambda weights, carry: meta_step.truncation(
            task, who, objective, weights, carry, batches, with_gradient
        ),
        autograph=False,
    )
    return program


def directional_error(task, who, objective, scaling=1.0):
    """Returns (relative error, size) of directional derivatives, by differences."""
    carry = helpers.started(task, who, scaling=scaling)
    weights = helpers.weights_of(who.student)
    gradient, _, _ = truncation(task, who, objective)(weights, carry)
    value = truncation(task, who, objective, with_gradient=False)
    generator = np.random.default_rng(0)
    worst, size = 0.0, np.linalg.norm(helpers.flat(gradient))
    for _ in range(3):
        direction = {k: generator.normal(size=v.shape) for k, v in weights.items()}
        h = 1e-6
        ends = [
            float(
                value({k: weights[k] + s * h * direction[k] for k in weights}, carry)[
                    2
                ].loss
            )
            for s in (1.0, -1.0)
        ]
        difference = (ends[0] - ends[1]) / (2 * h)
        exact = sum(float(np.sum(gradient[k] * direction[k])) for k in weights)
        worst = max(worst, abs(exact - difference) / (abs(difference) + 1e-3 * size))
    return worst, size


OBJECTIVES = {
    "meta loss alone": Objective(alpha=0.0),
    "mean, paper": Objective(scheme="mean", alpha=0.3),
    "min-max, paper": Objective(scheme="min_max", alpha=0.3),
    "mean, released": Objective(scheme="mean", alpha=0.3, distance="released"),
    "min-max, released": Objective(
        alpha=0.3, distance="released", meta_loss_start="truncation"
    ),
    "min-max, Huber": Objective(alpha=0.3, distance="released", huber_delta=0.01),
    "teacher forcing": Objective(alpha=0.3, teacher_forcing=True),
    "teacher forcing, mean, released": Objective(
        scheme="mean", alpha=0.3, distance="released", teacher_forcing=True, segment=3
    ),
    "segments that divide": Objective(alpha=0.3, segment=7),
    "segments that do not": Objective(alpha=0.3, segment=3),
}


def said_elsewhere(case):
    """Whether others say as much: of segments below, of rules those under 'paper'."""
    preset, name = case
    if preset == "paper":
        return "segments" in name
    return name not in ("min-max, paper", "min-max, released", "segments that do not")


CASES = list(itertools.product(("paper", "released"), OBJECTIVES))


@pytest.mark.parametrize("case", helpers.slow_if(said_elsewhere, CASES))
def test_second_order_equals_finite_differences(float64, case):
    preset, name = case
    task = helpers.tiny_task()
    who = helpers.players(preset=preset)
    error, size = directional_error(task, who, OBJECTIVES[name])
    assert size > 1e-3
    assert error < 1e-6


def test_teacher_forcing_on_a_sample_of_coordinates(float64, monkeypatch):
    monkeypatch.setattr(sample, "SIZE", 11)
    objective = Objective(scheme="mean", alpha=0.3, teacher_forcing=True)
    error, size = directional_error(helpers.tiny_task(), helpers.players(), objective)
    assert size > 1e-3
    assert error < 1e-6


def test_six_teachers(float64):
    who = helpers.players(teachers="large")
    error, _ = directional_error(helpers.tiny_task(), who, Objective(alpha=0.3))
    assert error < 1e-6


def normalized_task():
    """Returns a small net with BatchNorm, smooth so that differences converge."""

    def model():
        return keras.Sequential(
            [
                keras.Input((4, 4, 1), dtype="uint8"),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Conv2D(2, 3),
                keras.layers.BatchNormalization(),
                keras.layers.Activation("tanh"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(3),
            ]
        )

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Task("normalized", model, helpers.noise_images((4, 4, 1)), loss, 8)


@pytest.mark.parametrize("forcing", [False, True])
def test_batch_norm(float64, forcing):
    objective = Objective(alpha=0.3, teacher_forcing=forcing)
    error, size = directional_error(normalized_task(), helpers.players(), objective)
    assert size > 1e-3
    assert error < 1e-6


def test_first_order_differs_where_the_loss_curves(float64):
    task, who = helpers.tiny_task(), helpers.players()
    error, _ = directional_error(task, who, Objective(alpha=0.3, second_order=False))
    assert error > 1e-3


def linear_task(loss=lambda y, p: 50.0 + p):
    """Returns an optimizee whose loss is linear in θ (and positive)."""
    generator = np.random.default_rng(3)
    x = generator.normal(size=(64, 4)).astype(keras.config.floatx())
    split = Split(x, np.zeros((64, 1), keras.config.floatx()))

    def model():
        inputs = keras.Input((4,), dtype=keras.config.floatx())
        return keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(inputs))

    return Task(
        "linear",
        model,
        Dataset("linear", split, split, split),
        loss,
        8,
    )


def test_first_order_is_exact_on_a_linear_loss(float64):
    who = helpers.players()
    error, size = directional_error(
        linear_task(), who, Objective(alpha=0.3, second_order=False)
    )
    assert size > 1e-3
    assert error < 1e-6


@pytest.mark.parametrize("second_order", [True, False])
def test_a_loss_that_rounds_below_0_asks_for_nothing(float64, second_order):
    """The slope of its logarithm would have the wrong sign."""

    def loss(y, p):
        return -1e-6 + p - keras.ops.stop_gradient(p)  # a slope, and one value

    who, objective = helpers.players(), Objective(alpha=0.0, second_order=second_order)
    for task, asked in ((linear_task(), True), (linear_task(loss), False)):
        carry, weights = helpers.started(task, who), helpers.weights_of(who.student)
        gradient, _, metrics = truncation(task, who, objective)(weights, carry)
        assert bool(np.any(helpers.flat(gradient))) == asked
        assert np.isfinite(metrics.meta_loss)
    assert metrics.meta_loss == 0.0


@pytest.mark.parametrize(
    "segment", [3, 7, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 5))]
)
def test_segments_do_not_change_the_gradient(float64, segment):
    task, who = helpers.tiny_task(), helpers.players()
    carry, weights = helpers.started(task, who), helpers.weights_of(who.student)
    whole, *rest = truncation(task, who, Objective(alpha=0.3, segment=1))(
        weights, carry
    )
    parts, *same = truncation(task, who, Objective(alpha=0.3, segment=segment))(
        weights, carry
    )
    np.testing.assert_allclose(
        helpers.flat(parts), helpers.flat(whole), rtol=1e-10, atol=1e-14
    )
    np.testing.assert_array_equal(helpers.flat(same), helpers.flat(rest))


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("scheme", ["mean", "min_max"])
def test_adjoint_equals_the_plain_tape(float64, scheme, second_order):
    """Another route: everything in one taped loop, tensor by tensor, in rows."""
    task, who = helpers.tiny_task(), helpers.players()
    written = who._replace(student=plain.Rows(**who.student.get_config()))
    carry, weights = helpers.started(task, who), helpers.weights_of(who.student)
    objective = Objective(scheme=scheme, alpha=0.3, second_order=second_order)
    batches = helpers.constants(task.minibatches(1, 3, STEPS))
    gradient, after, metrics = truncation(task, who, objective)(weights, carry)
    loss, taped, points = plain.truncation(
        task, written, objective, weights, helpers.started(task, written), batches
    )
    np.testing.assert_allclose(float(loss), float(metrics.loss), rtol=1e-10)
    np.testing.assert_allclose(points, after.student.params_P, rtol=1e-10)
    np.testing.assert_allclose(
        helpers.flat(taped), helpers.flat(gradient), rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize(
    "what",
    [
        {"teacher_forcing": True},
        {"input_noise": 0.1},
        {"perturbation": Perturbation()},
    ],
)
def test_the_plain_tape_says_what_it_leaves_out(what):
    with pytest.raises(ValueError, match=f"has no {next(iter(what))}; received"):
        plain.truncation(None, None, Objective(**what), None, None, None)


def test_two_halves_equal_one_whole():
    task, who = helpers.tiny_task(), helpers.players(teachers="large")
    carry, weights = helpers.started(task, who), helpers.weights_of(who.student)
    objective = Objective(alpha=0.3)
    batches = helpers.constants(task.minibatches(1, 3, 8))
    run = tf.function(
        lambda c, b: meta_step.truncation(task, who, objective, weights, c, b, False)[
            1
        ],
        autograph=False,
    )
    whole = run(carry, batches)
    half = run(carry, tuple(b[:4] for b in batches))
    both = run(half, tuple(b[4:] for b in batches))
    np.testing.assert_array_equal(helpers.flat(both), helpers.flat(whole))


def test_teachers_do_not_depend_on_the_student():
    task, who = helpers.tiny_task(), helpers.players()
    carry = helpers.started(task, who)
    program = truncation(task, who, Objective(alpha=0.3))
    ends = [program(helpers.weights_of(who.student, s), carry)[1] for s in (0, 1)]
    np.testing.assert_array_equal(
        helpers.flat(ends[0].teachers), helpers.flat(ends[1].teachers)
    )
    assert np.any(ends[0].student.params_P != ends[1].student.params_P)


def test_gradient_is_finite_when_student_and_teacher_never_part():
    """A zero head moves nothing; a teacher with a tiny step hardly anything."""
    task = helpers.tiny_task()
    who = helpers.players(teachers=(helpers.make_rule("sgd", learning_rate=1e-30),))
    carry, weights = helpers.started(task, who), helpers.weights_of(who.student)
    weights = {k: tf.zeros_like(v) if "head" in k else v for k, v in weights.items()}
    gradient, after, metrics = truncation(task, who, Objective(alpha=1.0))(
        weights, carry
    )
    np.testing.assert_array_equal(after.student.params_P, carry.student.params_P)
    assert np.isfinite(helpers.flat(gradient)).all()
    assert np.isfinite(float(metrics.loss))


def dropout_task():
    """Returns a net that draws another mask in each step."""

    def model():
        return keras.Sequential(
            [
                keras.Input((5,), dtype=keras.config.floatx()),
                keras.layers.Dense(4, activation="tanh"),
                keras.layers.Dropout(0.5, seed=1),
                keras.layers.Dense(3),
            ]
        )

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Task("dropped", model, helpers.blobs(), loss, 8)


def test_the_way_back_has_the_masks_of_the_way_there(float64):
    """Each step's own."""
    task = dropout_task()
    state, batch = task.initial(0)[1], tuple(b[0] for b in task.minibatches(0, 0, 1))
    params_P = tf.constant(task.initial(0)[0])
    losses, states = [], [helpers.constants(state)]
    for _ in range(2):
        loss, after = task.loss(params_P, states[-1], batch)
        losses.append(float(loss))
        states.append(after)
    assert losses[0] != losses[1]  # the state is what draws
    error, size = directional_error(task, helpers.players(), Objective(alpha=0.3))
    assert size > 1e-3
    assert error < 1e-6
