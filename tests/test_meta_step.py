"""Warm-up, random scaling, the losses of one truncation, by hand and by invariant."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests import helpers
from tf_amalgam import alone, meta_step, rules
from tf_amalgam.objective import Objective


def test_warm_up_by_hand(float64):
    """Plain SGD; moments see every gradient, LSTM states none; all start together."""
    task, who = helpers.tiny_task(), helpers.players(teachers=("adam", "sgd"))
    before = helpers.constants(meta_step.initial_carry(task, who, 0, 1.0, "float64"))
    batches = helpers.constants(task.minibatches(0, 0, 3))
    after = meta_step.warm_up(task, who, before, batches, 0.1, False)
    theta, m_teacher, m_student = before.start_params_P.numpy(), 0.0, 0.0
    for i in range(3):
        _, g, _ = task.value_and_grad(
            tf.constant(theta), (), tuple(b[i] for b in batches)
        )
        m_teacher = 0.9 * m_teacher + 0.1 * g.numpy()
        m_student = 0.9 * m_student + 0.1 * before.scale_P.numpy() * g.numpy()
        theta = theta - 0.1 * g.numpy()
    for side in (after.student, *after.teachers):
        np.testing.assert_allclose(side.params_P, theta, rtol=1e-12)
    np.testing.assert_allclose(after.start_params_P, theta, rtol=1e-12)
    np.testing.assert_allclose(after.teachers[0].rule_state.m, m_teacher, rtol=1e-10)
    np.testing.assert_allclose(after.student.rule_state.m, m_student, rtol=1e-10)
    np.testing.assert_array_equal(after.student.rule_state.hidden_0, 0.0)
    assert int(after.step) == 3


def test_scaled_warm_up_is_sgd_in_scaled_coordinates(float64):
    task, who = helpers.tiny_task(), helpers.players(teachers=())
    before = helpers.constants(meta_step.initial_carry(task, who, 0, 1.0, "float64"))
    batches = helpers.constants(task.minibatches(0, 0, 1))
    after = meta_step.warm_up(task, who, before, batches, 0.1, True)
    s, theta = before.scale_P.numpy(), before.start_params_P.numpy()
    _, g, _ = task.value_and_grad(tf.constant(theta), (), tuple(b[0] for b in batches))
    scaled = theta / s - 0.1 * s * g.numpy()
    np.testing.assert_allclose(after.student.params_P, s * scaled, rtol=1e-12)


def test_scaling_has_the_right_range():
    task, who = helpers.tiny_task(), helpers.players()
    for exponent in (0.0, 3.0):
        scale = meta_step.initial_carry(task, who, 0, exponent).scale_P
        assert np.abs(np.log(scale)).max() <= exponent + 1e-6
        assert np.abs(np.log(scale)).max() >= 0.8 * exponent
    other = meta_step.initial_carry(task, who, 1, 3.0).scale_P
    assert np.any(other != scale)


def test_scaling_is_a_change_of_coordinates(float64):
    """One step at scale s = the step at scale 1 of the problem θ ↦ L(sθ)."""
    task, who = helpers.tiny_task(), helpers.players(teachers=())
    weights = helpers.weights_of(who.student)
    carry = helpers.started(task, who, warmup=0)
    s = carry.scale_P.numpy()
    batch = tuple(tf.constant(b[0]) for b in task.minibatches(0, 0, 1))
    theta = carry.student.params_P
    _, grads_P, _ = task.value_and_grad(theta, (), batch)
    step = meta_step.student_step(task, who.student, weights, carry.scale_P)
    moved, _ = step(
        grads_P, theta, carry.student.rule_state, tf.constant(1.0, tf.float64)
    )
    delta, _ = who.student.update(
        weights,
        s * grads_P,
        theta / s,
        carry.student.rule_state,
        task.layout,
        np.float64(1),
    )
    np.testing.assert_allclose(moved - theta, s * delta.numpy(), rtol=1e-9)


def test_alpha_may_be_given_to_a_program(float64):
    """As a stage's objective has it, to the last digit."""
    task, who = helpers.tiny_task(), helpers.players(teachers=("adam", "sgd"))
    weights, carry = helpers.weights_of(who.student), helpers.started(task, who)
    batches = helpers.constants(task.minibatches(0, 3, 4))

    def outcome(objective, *given):
        found = meta_step.truncation(
            task, who, objective, weights, carry, batches, True, *given
        )
        return helpers.flat([found[0], found[2].loss])

    for alpha in (0.3, 0.0):
        objective = Objective(alpha=alpha)
        given = outcome(objective.alike(), tf.constant(alpha, tf.float64))
        np.testing.assert_array_equal(given, outcome(objective))
    assert Objective(alpha=0.3).alike() == Objective(alpha=7.0).alike()
    assert Objective(alpha=0.3).alike() != Objective(alpha=0.0).alike()
    assert np.abs(given - outcome(Objective(alpha=0.3))).max() > 1e-3


@pytest.mark.parametrize("start", ["unroll", "truncation"])
def test_losses_by_hand(float64, start):
    """Every number of one truncation again, step by step, in NumPy."""
    task, who = helpers.tiny_task(), helpers.players(teachers=("adam", "sgd"))
    weights = helpers.weights_of(who.student)
    objective = Objective(scheme="min_max", alpha=0.7, meta_loss_start=start)
    run = lambda c, b: meta_step.truncation(task, who, objective, weights, c, b, False)  # noqa: E731
    first = helpers.constants(task.minibatches(0, 3, 4))
    second = helpers.constants(task.minibatches(0, 7, 4))
    carry = run(helpers.started(task, who), first)[1]
    _, after, metrics = run(carry, second)
    origin = carry.start_params_P if start == "unroll" else carry.student.params_P
    theta, state = carry.student.params_P, carry.student.rule_state
    step = meta_step.student_step(task, who.student, weights, carry.scale_P)
    teachers = list(carry.teachers)
    meta, imitation, far = 0.0, 0.0, []
    for i in range(4):
        batch = tuple(b[i] for b in second)
        t = np.float64(3 + 4 + i + 1)
        loss, grads, _ = task.value_and_grad(theta, (), batch)
        meta += np.log(float(loss)) - np.log(float(task.loss(origin, (), batch)[0]))
        theta, state = step(grads, theta, state, tf.constant(t))
        distances = []
        for k, rule in enumerate(who.teachers):
            side = teachers[k]
            _, g, _ = task.value_and_grad(side.params_P, (), batch)
            delta, rule_state = rule.update(
                {}, g, side.params_P, side.rule_state, task.layout, t
            )
            teachers[k] = side._replace(
                params_P=side.params_P + delta, rule_state=rule_state
            )
            gap = theta.numpy() - teachers[k].params_P.numpy()
            distances.append(np.log(np.linalg.norm(gap)))
        imitation += max(distances)
        far.append(int(np.argmax(distances)))
    np.testing.assert_allclose(after.student.params_P, theta, rtol=1e-10)
    assert float(metrics.meta_loss) == pytest.approx(meta / 4, rel=1e-6)
    assert float(metrics.imitation) == pytest.approx(imitation / 4)
    assert float(metrics.loss) == pytest.approx(
        meta / 4 + 0.7 * imitation / 4, rel=1e-6
    )
    np.testing.assert_allclose(metrics.farthest_K, [far.count(0) / 4, far.count(1) / 4])


@pytest.mark.parametrize("seed", [0, 1])
def test_teacher_forcing_by_hand(float64, seed):
    """A teacher walks as if alone; all others say at each point what they would do."""
    task, who = helpers.tiny_task(), helpers.players(teachers=("adam", "sgd"))
    weights = helpers.weights_of(who.student)
    objective = Objective(scheme="mean", alpha=0.7, teacher_forcing=True)
    batches = helpers.constants(task.minibatches(0, 3, 4))
    carry = helpers.started(task, who)._replace(seed=tf.constant(seed))
    _, after, metrics = meta_step.truncation(
        task, who, objective, weights, carry, batches, False
    )
    # No scaling is what the meta-training loop asks for, not what this rests on.
    step = meta_step.student_step(task, who.student, weights, carry.scale_P)
    theta, states = carry.student.params_P, [s.rule_state for s in carry.teachers]
    own, losses, distances = carry.student.rule_state, [], []
    for i in range(4):
        batch, t = tuple(b[i] for b in batches), np.float64(3 + i + 1)
        loss, grads, _ = task.value_and_grad(theta, (), batch)
        mine, own = step(grads, theta, own, tf.constant(t))
        points = []
        for k, rule in enumerate(who.teachers):
            delta, states[k] = rule.update({}, grads, theta, states[k], task.layout, t)
            points.append(theta + delta)
        losses.append(float(loss))
        distances.append([np.log(np.linalg.norm(mine - p)) for p in points])
        theta = points[seed]
    for side in (after.student, *after.teachers):
        np.testing.assert_allclose(side.params_P, theta, rtol=1e-12)
    for found, expected in zip(after.teachers, states, strict=True):
        np.testing.assert_allclose(
            helpers.flat(found.rule_state), helpers.flat(expected), rtol=1e-10
        )
    np.testing.assert_allclose(
        helpers.flat(after.student.rule_state), helpers.flat(own), rtol=1e-10
    )
    np.testing.assert_allclose(metrics.student_losses_T, losses, rtol=1e-10)
    np.testing.assert_allclose(metrics.teacher_losses_KT, [losses] * 2, rtol=1e-10)
    np.testing.assert_allclose(metrics.distance_K, np.mean(distances, axis=0))
    assert float(metrics.loss) == pytest.approx(0.7 * np.mean(distances))


def test_alpha_zero_is_the_meta_loss_alone():
    task, who = helpers.tiny_task(), helpers.players()
    alone = who._replace(teachers=(), teacher_weights=())
    weights = helpers.weights_of(who.student)
    batches = helpers.constants(task.minibatches(0, 3, 5))
    found = [
        meta_step.truncation(
            task,
            each,
            Objective(alpha=0.0),
            weights,
            helpers.started(task, each),
            batches,
        )[0]
        for each in (who, alone)
    ]
    np.testing.assert_array_equal(helpers.flat(found[0]), helpers.flat(found[1]))


def test_alpha_zero_needs_no_teacher_that_survives():
    task, who = helpers.tiny_task(), helpers.players()
    weights = helpers.weights_of(who.student)
    batches = helpers.constants(task.minibatches(0, 3, 5))
    carry = helpers.started(task, who)
    first, second = carry.teachers
    nowhere = first._replace(params_P=float("nan") * first.params_P)
    found = [
        meta_step.truncation(task, who, Objective(alpha=0.0), weights, each, batches)
        for each in (carry, carry._replace(teachers=(nowhere, second)))
    ]
    gradients = [helpers.flat(gradient) for gradient, _, _ in found]
    np.testing.assert_array_equal(*gradients)
    assert np.all(np.isfinite(gradients[0]))
    metrics = found[1][2]
    assert np.isnan(metrics.distance_K[0])
    assert metrics.loss == metrics.meta_loss


def test_segments_are_chosen_by_memory():
    big = [tf.zeros((100_000, 83))]
    medium, small = [tf.zeros((10_000, 83))], [tf.zeros((10, 83))]

    def chosen(steps, state, teachers=(), **options):
        return meta_step.segment_length(Objective(**options), steps, state, teachers)

    assert chosen(100, small) == 1
    # 316 MiB, 633 MiB: the second is above what may be kept, beside teachers both are.
    assert chosen(100, medium) == 1
    assert chosen(200, medium) == 2
    assert chosen(100, medium, ("a teacher",)) == 2
    assert chosen(200, medium, ("a teacher",)) == 3
    assert chosen(100, big) == 10
    assert chosen(1000, big) == 32
    assert chosen(5, big, segment=7) == 5


def test_held_out_score_by_hand(float64):
    task, who = helpers.tiny_task(), helpers.players(teachers=())
    weights = helpers.weights_of(who.student)
    carry = helpers.started(task, who)
    batches = helpers.constants(task.minibatches(0, 3, 45))
    held_out = tuple(map(tf.constant, task.dataset.validation))
    score, final = alone.held_out_score(
        task, who.student, weights, carry, batches, held_out
    )
    step = meta_step.student_step(task, who.student, weights, carry.scale_P)
    theta, state, logs = carry.student.params_P, carry.student.rule_state, []
    looks = {(n + 1) * 45 // 20 for n in range(20)}
    for i in range(45):
        _, g, _ = task.value_and_grad(theta, (), tuple(b[i] for b in batches))
        theta, state = step(g, theta, state, tf.constant(3.0 + i + 1, tf.float64))
        if i + 1 in looks:
            logs.append(np.log(float(task.held_out_loss(theta, (), held_out))))
    start = np.log(float(task.held_out_loss(carry.student.params_P, (), held_out)))
    assert len(logs) == 20
    assert float(score) == pytest.approx(np.mean(logs) - start, rel=1e-6)
    assert float(final) == pytest.approx(logs[-1] - start, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"scheme": "minmax"},
            "Unknown amalgamation scheme 'minmax'. Known: mean, min_max",
        ),
        ({"distance": "l2"}, "Unknown distance"),
        ({"meta_loss_start": "zero"}, "Unknown meta_loss_start"),
        ({"alpha": math.inf}, "alpha must be a finite number from 0, received inf"),
        ({"alpha": "0.1"}, "alpha must be a finite number from 0, received '0.1'"),
        ({"input_noise": math.nan}, "input_noise must be a finite number from 0"),
        ({"distance": "released", "huber_delta": math.nan}, "huber_delta must be a f"),
        ({"alpha": -0.1}, "alpha must be a finite number from 0"),
        (
            {"alpha": 0.0, "teacher_forcing": True},
            "needs teachers and an alpha above 0",
        ),
        ({"segment": 0}, "segment must be a whole number from 1"),
        ({"segment": 2.5}, "segment must be a whole number from 1, or None, rec"),
        ({"huber_delta": 0.1}, "goes with distance='released'"),
    ],
)
def test_mistakes_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        Objective(**options)


def test_every_teacher_takes_part():
    """The pool's order does not matter, and each teacher runs by its own rule."""
    task = helpers.tiny_task()
    ends = {}
    for order in (rules.TEACHERS, tuple(reversed(rules.TEACHERS))):
        who = helpers.players(teachers=order)
        _, after, _ = meta_step.truncation(
            task,
            who,
            Objective(),
            helpers.weights_of(who.student),
            helpers.started(task, who),
            helpers.constants(task.minibatches(0, 3, 4)),
            False,
        )
        for name, side in zip(order, after.teachers, strict=True):
            np.testing.assert_array_equal(
                ends.setdefault(name, side.params_P.numpy()), side.params_P
            )
    points = list(ends.values())
    assert all(np.any(a != b) for i, a in enumerate(points) for b in points[:i])
