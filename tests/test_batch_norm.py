"""Normalizing layers: statistics against Keras', second derivatives by differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_amalgam
from tests import helpers
from tf_amalgam import alone, evaluation, meta_step, rules
from tf_amalgam.numerics import derive_seed
from tf_amalgam.objective import Objective
from tf_amalgam.tasks.moments import exact_moments
from tf_amalgam.tasks.task import Task

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RATE = 0.05
STEPS = 5


def trained_by_keras(task, seed, batches, rate):
    """Returns Keras' own model after steps of Keras' own SGD, in training mode."""
    model = task.build_model(seed)
    optimizer = keras.optimizers.SGD(rate)
    for x, y in zip(*batches, strict=True):
        with tf.GradientTape() as tape:
            loss = CROSS_ENTROPY(y, model(x, training=True))
        variables = [v.value for v in model.trainable_variables]
        optimizer.apply(tape.gradient(loss, variables), model.trainable_variables)
    return model


def assert_at(params_P, model_state, model):
    """Holds that weights and statistics are those of the Keras model."""
    expected = [v.numpy() for v in model.non_trainable_variables]
    assert len(model_state) == len(expected) == 14  # 7 means, 7 variances
    for ours, theirs in zip(model_state, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    theirs = helpers.flat([v.numpy() for v in model.trainable_variables])
    np.testing.assert_allclose(params_P, theirs, rtol=1e-4, atol=1e-5)


def test_pure_functions_move_the_statistics_as_keras_does():
    task = helpers.tiny_resnet_task()
    batches = task.minibatches(0, 0, STEPS)
    params_P, state = helpers.constants(task.initial(3))
    fresh = helpers.flat(state)
    for batch in zip(*batches, strict=True):
        seen = task.loss(params_P, state, batch)[1]
        _, grads_P, state = task.value_and_grad(params_P, state, batch)
        np.testing.assert_allclose(helpers.flat(seen), helpers.flat(state), rtol=1e-5)
        params_P -= RATE * grads_P
    assert_at(params_P, state, trained_by_keras(task, 3, batches, RATE))
    # 5 steps of momentum .99 go 1 − .99⁵ = 4.9 % of the way.
    assert np.max(np.abs(helpers.flat(state) - fresh)) > 0.02


def test_unroll_carries_the_statistics():
    """An SGD teacher, and a student with a zero head, which moves no weight."""
    task = helpers.tiny_resnet_task()
    who = helpers.players(teachers=(rules.SGD(RATE),))
    carry = helpers.started(task, who, warmup=0)
    batches = task.minibatches(1, 0, STEPS)
    weights = helpers.weights_of(who.student)
    still = {k: tf.zeros_like(v) if "head" in k else v for k, v in weights.items()}

    def truncation(weights, with_gradient):
        return meta_step.truncation(
            task,
            who,
            Objective(alpha=0.1),
            weights,
            carry,
            helpers.constants(batches),
            with_gradient,
        )

    _, after, _ = truncation(still, False)
    seed = derive_seed(0, "initial")
    (teacher,) = after.teachers
    keras_model = trained_by_keras(task, seed, batches, RATE)
    assert_at(teacher.params_P, teacher.model_state, keras_model)
    keras_model = trained_by_keras(task, seed, batches, 0.0)
    assert_at(after.student.params_P, after.student.model_state, keras_model)

    gradient, after, metrics = truncation(weights, True)
    assert np.isfinite(helpers.flat((gradient, metrics.loss))).all()
    assert np.linalg.norm(helpers.flat(gradient)) > 1e-3
    assert np.any(after.student.params_P != carry.student.params_P)


def quick_model():
    """Returns a net whose statistics have moved far after a few steps."""
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(momentum=0.5),
            keras.layers.Dense(3),
        ]
    )


def test_fit_and_evaluation_use_the_statistics():
    task = Task("quick", quick_model, helpers.blobs(), CROSS_ENTROPY, 8)
    record = evaluation.train_once(tf_amalgam.SGD(RATE), task, seed=0, epochs=2)
    steps = 2 * (96 // 8)
    seed = derive_seed(0, "minibatches", task.name)
    batches = task.minibatches(seed, 0, steps)
    model = trained_by_keras(task, derive_seed(0, "initial", task.name), batches, RATE)
    x, y = task.dataset.validation
    expected = float(CROSS_ENTROPY(y, model(x, training=False)))
    assert record["curves"]["val_loss"][-1] == pytest.approx(expected, rel=1e-4)
    params = [v.value for v in model.trainable_variables]
    state = [v.value for v in model.non_trainable_variables]
    params_P = tf.concat([tf.reshape(part, -1) for part in params], 0)
    held_out = float(task.held_out_loss(params_P, state, (x, y)))
    assert held_out == pytest.approx(expected, rel=1e-5)
    # Fresh statistics would give another loss.
    fresh = task.initial(0)[1]
    without = float(task.held_out_loss(params_P, fresh, (x, y)))
    assert abs(without - expected) > 0.1 * expected


def test_residual_net_is_evaluated():
    task = helpers.tiny_resnet_task()
    record = evaluation.train_once(tf_amalgam.SGD(RATE), task, seed=0, epochs=2)
    assert not record["diverged"]
    assert record["curves"]["loss"][1] < record["curves"]["loss"][0]
    assert np.isfinite(record["test"]["loss"])


NORMALIZERS = {
    "batch": keras.layers.BatchNormalization,
    "layer": keras.layers.LayerNormalization,
    "group": lambda: keras.layers.GroupNormalization(groups=2),
}


@pytest.mark.parametrize("name", NORMALIZERS)
def test_second_derivative_equals_finite_differences(float64, name):
    """TensorFlow's own moments give another Hessian (they hold the mean fixed)."""

    def model():
        return keras.Sequential(
            [
                keras.Input((5,)),
                keras.layers.Dense(4),
                NORMALIZERS[name](),
                keras.layers.Dense(3),
            ]
        )

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)  # in float64
    task = Task(name, model, helpers.blobs(), loss, 8)
    params_P, state = task.initial(0)
    batch = tuple(part[0] for part in task.minibatches(0, 0, 1))
    direction_P = np.random.default_rng(0).normal(size=params_P.shape)

    def gradient(at_P):
        return task.value_and_grad(at_P, state, batch)[1]

    with tf.GradientTape() as tape:
        at_P = tf.constant(params_P)
        tape.watch(at_P)
        grads_P = gradient(at_P)
    curved_P = tape.gradient(grads_P, at_P, output_gradients=direction_P)
    h = 1e-6
    ends = [gradient(tf.constant(params_P + s * h * direction_P)) for s in (1, -1)]
    differences_P = (ends[0] - ends[1]) / (2 * h)
    np.testing.assert_allclose(curved_P, differences_P, rtol=1e-6, atol=1e-8)
    # The first dense layer, before the normalization, bends too.
    assert np.linalg.norm(curved_P[:20]) > 1e-2


def test_tensorflow_is_left_as_it_was():
    original = tf.nn.moments
    with exact_moments:
        with exact_moments:
            assert tf.nn.moments is not original
        assert tf.nn.moments is not original
        x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype("float32")
        for axes, keep in (([0, 1], False), ([2], True)):
            ours = tf.nn.moments(x, axes, keepdims=keep)
            for mine, theirs in zip(
                ours, original(x, axes, keepdims=keep), strict=True
            ):
                assert mine.shape == theirs.shape
                np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-7)
    assert tf.nn.moments is original
    with pytest.raises(ValueError, match="inside"), exact_moments:
        raise ValueError("inside")
    assert tf.nn.moments is original


def test_a_warm_up_moves_the_statistics():
    task = Task("quick", quick_model, helpers.blobs(), CROSS_ENTROPY, 8)
    who = helpers.players(teachers=("adam",))
    before = helpers.constants(meta_step.initial_carry(task, who, 0, 0.0))
    batches = task.minibatches(0, 0, STEPS)
    after = meta_step.warm_up(
        task, who, before, helpers.constants(batches), RATE, False
    )
    model = trained_by_keras(task, derive_seed(0, "initial"), batches, RATE)
    expected = helpers.flat([v.numpy() for v in model.non_trainable_variables])
    for side in (after.student, *after.teachers):
        found = helpers.flat(side.model_state)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - helpers.flat(task.initial(0)[1])).max() > 0.1


def test_a_validation_carries_the_statistics():
    """A student that takes the steps of SGD; the last look is after its last step."""
    task = Task("quick", quick_model, helpers.blobs(), CROSS_ENTROPY, 8)
    student = rules.make_rule("learned_scalars", base="sgd")
    weights = helpers.constants(student.init_weights(0))
    who = meta_step.Players(student, (), ())
    carry = helpers.constants(meta_step.initial_carry(task, who, 0, 0.0))
    batches = task.minibatches(0, 0, 20)
    held_out = tuple(map(tf.constant, task.dataset.validation))
    _, final = alone.held_out_score(
        task, student, weights, carry, helpers.constants(batches), held_out
    )
    step = meta_step.student_step(task, student, weights, carry.scale_P)
    params_P, rule_state, state = carry.student[:3]
    for i, batch in enumerate(zip(*batches, strict=True)):
        _, grads_P, state = task.value_and_grad(params_P, state, batch)
        params_P, rule_state = step(
            grads_P, params_P, rule_state, tf.constant(i + 1, tf.float32)
        )
    start = task.held_out_loss(
        carry.student.params_P, carry.student.model_state, held_out
    )
    expected = np.log(float(task.held_out_loss(params_P, state, held_out)))
    expected -= np.log(float(start))
    assert float(final) == pytest.approx(expected, rel=1e-4)
    fresh = float(task.held_out_loss(params_P, task.initial(0)[1], held_out))
    assert abs(np.log(fresh) - np.log(float(start)) - expected) > 0.01
