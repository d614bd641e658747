"""Test functions: values and gradients known by hand."""

import numpy as np
import pytest
import tensorflow as tf

import tf_amalgam
from tests import helpers
from tf_amalgam import evaluation, meta_step, tasks
from tf_amalgam.objective import Objective


def test_quadratic_gradient_is_known(float64):
    """∇ = A(θ − θ*), A = XᵀX/N with eigenvalues from 1/condition to 1."""
    task = tasks.quadratic(dimensions=6, condition=20.0)
    x, y = task.dataset.train
    hessian = x.T @ x / len(x)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(hessian), np.geomspace(0.05, 1.0, 6), rtol=1e-10
    )
    target = np.linalg.lstsq(x, y, rcond=None)[0][:, 0]
    theta = np.random.default_rng(0).normal(size=6)
    batch = tuple(b[0] for b in task.minibatches(0, 0, 1))
    loss, grads_P, _ = task.value_and_grad(tf.constant(theta), (), batch)
    away = theta - target
    assert float(loss) == pytest.approx(0.5 * away @ hessian @ away)
    np.testing.assert_allclose(grads_P, hessian @ away, rtol=1e-10)


def member_at(task, seed):
    """Returns (A, θ*) of the member that an initialization draws."""
    rotation, target = task.initial(seed)[1]
    x = task.dataset.train.x @ rotation
    return x.T @ x / len(x), target[:, 0]


def test_a_family_of_quadratics_draws_a_member_each_initialization(float64):
    """∇ = A(θ − θ*) with A = Rᵀ diag(1/condition … 1) R and R a rotation."""
    task = tasks.quadratic(dimensions=6, condition=20.0, seed=None)
    assert task.layout.size == 6
    (hessian, target), (again, same), (other, there) = (
        member_at(task, seed) for seed in (1, 1, 2)
    )
    for found in (hessian, other):
        np.testing.assert_allclose(
            np.linalg.eigvalsh(found), np.geomspace(0.05, 1.0, 6), rtol=1e-10
        )
    np.testing.assert_array_equal(hessian, again)
    np.testing.assert_array_equal(target, same)
    assert np.all(target != there)
    assert np.abs(hessian - other).max() > 0.1
    assert np.abs(hessian - np.diag(np.diag(hessian))).max() > 0.1
    targets = [member_at(task, seed)[1] for seed in range(50)]
    assert np.std(targets) == pytest.approx(1.0, rel=4 / np.sqrt(2 * 300))
    theta = np.random.default_rng(0).normal(size=6)
    batch = tuple(b[0] for b in task.minibatches(0, 0, 1))
    loss, grads_P, state = task.value_and_grad(
        tf.constant(theta), task.initial(1)[1], batch
    )
    away = theta - target
    assert float(loss) == pytest.approx(0.5 * away @ hessian @ away)
    np.testing.assert_allclose(grads_P, hessian @ away, rtol=1e-10)
    np.testing.assert_array_equal(helpers.flat(state[1]), target)


def test_one_quadratic_is_the_same_at_each_initialization():
    one = tasks.quadratic(dimensions=6, seed=3)
    (first, nothing), (second, _) = (one.initial(seed) for seed in (1, 2))
    assert nothing == ()
    assert np.all(first != second)
    assert np.any(one.dataset.train.y != tasks.quadratic(6, seed=4).dataset.train.y)
    noise = tasks.quadratic(6, noise=0.5, seed=3).dataset.train.y - one.dataset.train.y
    assert np.std(noise) == pytest.approx(0.5, rel=4 / np.sqrt(2 * 48))


def test_a_member_of_a_family_is_trained_as_any_model():
    """`fit` keeps rotation and target, and noise is on targets alone."""
    task = tasks.quadratic(dimensions=3, seed=None)
    record = evaluation.train_once(tf_amalgam.SGD(0.5), task, seed=0, epochs=30)
    curve = record["curves"]["val_loss"]
    assert curve[-1] < 0.05 * curve[0]
    noisy = tasks.quadratic(dimensions=3, seed=None, noise=0.1)
    np.testing.assert_array_equal(noisy.dataset.train.x, task.dataset.train.x)
    assert not task.dataset.train.y.any()
    assert np.std(noisy.dataset.train.y) == pytest.approx(0.1, rel=0.6)
    assert task.dataset.name != noisy.dataset.name


def rastrigin_at(theta, A, b, c, shift=(0.0, 0.0), alpha=2.0):
    """Returns (value, gradient) of the member A, b, c in two dimensions."""
    task = tasks.rastrigin(dimensions=2, alpha=alpha)
    batch = (tf.constant([shift], "float64"), tf.zeros((1, 1), "float64"))
    state = tuple(tf.constant(part, "float64") for part in (A, b, c))
    value, grads_P, after = task.value_and_grad(
        tf.constant(theta, "float64"), state, batch
    )
    for mine, kept in zip(state, after, strict=True):
        np.testing.assert_array_equal(mine, kept)
    return float(value), grads_P.numpy()


def test_rastrigin_by_hand(float64):
    """Aθ − b = (1/4, 1/2); cos 2πθ = (0, −1), sin 2πθ = (1, 0).

    f = 1/16 + 1/4 + 2·[(1 − 0) + (1/2 − (−1/2)(−1))] = 37/16;
    ∇f = 2Aᵀ(Aθ − b) + 2·2π·c·sin = (1/2, 2·(2/4 + 1/2)) + (4π, 0).
    """
    A, b, c = [[1.0, 2.0], [0.0, 1.0]], [1.0, 0.0], [1.0, -0.5]
    value, grads_P = rastrigin_at([0.25, 0.5], A, b, c)
    assert value == pytest.approx(37 / 16, rel=1e-12)
    np.testing.assert_allclose(grads_P, [0.5 + 4 * np.pi, 2.0], rtol=1e-12)
    shifted = rastrigin_at([0.0, 0.75], A, b, c, shift=[0.25, -0.25])
    assert shifted[0] == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(shifted[1], grads_P, rtol=1e-12)


def test_rastrigin_is_the_classic_one_where_a_is_1(float64):
    """f(x) = Σ x² + 10 (1 − cos 2πx): n² at whole numbers, 0 at 0 alone."""
    member = (np.eye(2), np.zeros(2), np.ones(2))
    for x in ([0.0, 0.0], [3.0, -1.0]):
        value, grads_P = rastrigin_at(x, *member, alpha=10.0)
        assert value == pytest.approx(np.sum(np.square(x)), abs=1e-12)
        np.testing.assert_allclose(grads_P, 2 * np.array(x), atol=1e-12)
    between = rastrigin_at([0.5, 0.0], *member, alpha=10.0)[0]
    assert between == pytest.approx(0.25 + 20.0)


def test_rastrigin_members_are_named_by_seeds():
    """Each initialization is a member of its own; `seed` fixes the member alone."""
    family, one = tasks.rastrigin(), tasks.rastrigin(seed=4)
    (first, member), (again, same), (_, other) = (family.initial(s) for s in (1, 1, 2))
    assert [part.shape for part in member] == [(10, 10), (10,), (10,)]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(helpers.flat(member), helpers.flat(same))
    assert np.all(helpers.flat(member) != helpers.flat(other))
    assert 0.8 < np.std(helpers.flat(member)) < 1.2
    (here, fixed), (there, kept) = one.initial(1), one.initial(2)
    np.testing.assert_array_equal(helpers.flat(fixed), helpers.flat(kept))
    assert np.all(here != there)
    assert np.all(helpers.flat(fixed) != helpers.flat(member))


def test_rastrigin_is_never_negative():
    """With the literature's constant α·dimensions this member would be: Σ|c| > n."""
    task = tasks.rastrigin()
    params_P, (A, *_) = task.initial(0)
    c = np.full(10, 3.0, "float32")
    whole = np.round(params_P)  # cos 2πθ = 1
    state = (A, A @ whole, c)
    batch = tuple(tf.constant(part) for part in task.dataset.validation)
    assert float(task.loss(tf.constant(whole), state, batch)[0]) >= 0.0
    assert float(task.held_out_loss(tf.constant(whole), state, batch)) < 1e-2


def test_rastrigin_noise_shifts_training_alone():
    task = tasks.rastrigin(dimensions=3, noise=0.1, examples=400, batch_size=4)
    assert np.std(task.dataset.train.x) == pytest.approx(0.1, rel=0.1)
    assert not task.dataset.validation.x.any()
    params_P, state = task.initial(0)
    x, y = (part[:3] for part in task.minibatches(0, 0, 3))
    loss = task.loss(tf.constant(params_P), state, (x[0], y[0]))[0]
    alone = [
        float(task.loss(tf.constant(params_P), state, (x[0][i : i + 1], y[0][:1]))[0])
        for i in range(4)
    ]
    assert np.std(alone) > 0.01
    assert float(loss) == pytest.approx(np.mean(alone), rel=1e-5)
    assert not tasks.rastrigin().dataset.train.x.any()


def test_rastrigin_is_trained_and_trained_on():
    task = tasks.rastrigin(dimensions=3, alpha=0.5, examples=16)
    optimizer = tf_amalgam.SGD(0.01)
    record = evaluation.train_once(optimizer, task, seed=0, epochs=2)
    curve = record["curves"]["val_loss"]
    assert 0 < curve[1] < curve[0]
    who = helpers.players()
    carry = helpers.started(task, who)
    batches = helpers.constants(task.minibatches(1, 3, 4))
    weights = helpers.weights_of(who.student)
    gradient, after, metrics = meta_step.truncation(
        task, who, Objective(), weights, carry, batches
    )
    assert np.isfinite(helpers.flat((gradient, metrics.loss))).all()
    np.testing.assert_array_equal(
        helpers.flat(after.student.model_state),
        helpers.flat(carry.student.model_state),
    )
