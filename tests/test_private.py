"""Private gradients: noise, sensitivity, an independent loop, and the meta-gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_amalgam
from tests import helpers
from tests.test_meta_gradient import directional_error, truncation
from tf_amalgam import meta_step, privacy
from tf_amalgam.objective import Objective
from tf_amalgam.privacy import Mechanism, imported
from tf_amalgam.private_gradients import clipped, private_gradient, seeded_query
from tf_amalgam.tasks import conv, private, quadratic
from tf_amalgam.tasks.task import Task

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def noiseless(clip, task=None):
    return private(task or helpers.tiny_task(), clip, 0.0, None)


def first_batch(task, seed=0):
    return tuple(tf.constant(part[0]) for part in task.minibatches(seed, 0, 1))


def example_gradients(task, params_P, batch):
    """Returns `[B, P]`, one example at a time through the plain task."""
    x, y = batch[:2]
    rows = [
        task.value_and_grad(params_P, (), (x[b : b + 1], y[b : b + 1]))[1]
        for b in range(len(x))
    ]
    return np.stack(rows)


def clipped_by_hand(grads_BP, clip):
    norms_B = np.linalg.norm(grads_BP, axis=1, keepdims=True)
    return grads_BP * np.minimum(1.0, clip / norms_B)


# A clip in the midst of the examples' norms, so that both branches are taken.
MIDDLE = 1.9


def test_equals_a_loop_over_examples(float64):
    plain = helpers.tiny_task()
    task = noiseless(MIDDLE)
    params_P = tf.constant(task.initial(0)[0])
    batch = first_batch(task)
    grads_BP = example_gradients(plain, params_P, batch)
    norms_B = np.linalg.norm(grads_BP, axis=1)
    assert 2 <= np.sum(norms_B > MIDDLE) <= 6
    loss, grads_P, _ = task.value_and_grad(params_P, (), batch)
    expected = clipped_by_hand(grads_BP, MIDDLE).mean(axis=0)
    np.testing.assert_allclose(grads_P, expected, rtol=1e-10, atol=1e-14)
    assert float(loss) == pytest.approx(float(plain.loss(params_P, (), batch[:2])[0]))


def test_convolutions_equal_a_loop_over_examples(float64):
    """Minibatches prepared and raw."""
    plain = conv("digits", filters=((3, 3), (4, 2)), batch_size=4)
    task = noiseless(0.5, plain)
    params_P = tf.constant(task.initial(0)[0], "float64")
    batch = first_batch(task)
    grads_BP = example_gradients(plain, params_P, batch)
    expected = clipped_by_hand(grads_BP, 0.5).mean(axis=0)
    for each in (batch, task.prepare(batch)):
        _, grads_P, _ = task.value_and_grad(params_P, (), each)
        np.testing.assert_allclose(grads_P, expected, rtol=1e-9, atol=1e-14)


def test_huge_clip_without_noise_is_the_plain_gradient(float64):
    plain, task = helpers.tiny_task(), noiseless(1e9)
    params_P = tf.constant(task.initial(0)[0])
    batch = first_batch(task)
    loss, grads_P, state = task.value_and_grad(params_P, (), batch)
    same, expected, _ = plain.value_and_grad(params_P, (), batch[:2])
    assert float(loss) == pytest.approx(float(same))
    np.testing.assert_allclose(grads_P, expected, rtol=1e-10)
    assert state == ()


def test_one_example_moves_the_sum_by_the_clip_at_most(float64):
    """Squared errors, whose gradients grow without bound."""
    task = noiseless(MIDDLE, quadratic(6, noise=1.0, batch_size=8))
    params_P = tf.constant(task.initial(0)[0])
    x, y, seed = first_batch(task)

    def total(x, y):
        return len(x) * task.value_and_grad(params_P, (), (x, y, seed))[1].numpy()

    whole = total(x, y)
    huge = tf.concat([-1e6 * x[:1], x[1:]], axis=0)
    alone = total(huge[:1], y[:1])
    assert np.linalg.norm(alone) == pytest.approx(MIDDLE, rel=1e-12)
    added = np.linalg.norm(total(huge, y) - total(x[1:], y[1:]))
    assert added == pytest.approx(MIDDLE, rel=1e-9)
    changed = np.linalg.norm(total(huge, y) - whole)
    assert 0.1 * MIDDLE < changed <= 2 * MIDDLE


NUMBERS = 40_000


def noise(mechanism, seed, examples=8, **options):
    """Returns the private gradient of a loss that does not depend on θ."""
    return private_gradient(
        lambda params_P, x: (0.0 * tf.reduce_sum(params_P) + x, ()),
        tf.zeros(NUMBERS),
        tf.ones(examples),
        mechanism,
        tf.constant(seed),
        **options,
    ).grads_P.numpy()


@pytest.mark.parametrize(
    ("clip", "multiplier", "batch_size"), [(1.0, 1.1, 8), (0.5, 4.0, 3)]
)
def test_noise_has_the_stated_deviation(clip, multiplier, batch_size):
    draws = 10
    found = np.stack(
        [noise(Mechanism(clip, multiplier), (0, i), batch_size) for i in range(draws)]
    )
    stddev, count = clip * multiplier / batch_size, found.size
    # Five standard errors of the mean and of the standard deviation.
    assert abs(found.mean()) < 5 * stddev / np.sqrt(count)
    assert abs(found.std() / stddev - 1) < 5 / np.sqrt(2 * count)
    fourth = np.mean((found / stddev) ** 4)
    assert abs(fourth - 3) < 5 * np.sqrt(96 / count)  # Gaussian, not of other shape
    correlations = np.corrcoef(found) - np.eye(draws)
    assert np.abs(correlations).max() < 5 / np.sqrt(NUMBERS)  # steps are independent


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_parts_of_a_minibatch_sum_to_the_whole(replicas):
    """Each part adds its share of the one noise of the whole minibatch."""
    mechanism = Mechanism(1.0, 1.1)
    parts = [
        noise(mechanism, (3, 4), 8 // replicas, batch_size=8, replicas=replicas)
        for _ in range(replicas)
    ]
    np.testing.assert_allclose(sum(parts), noise(mechanism, (3, 4), 8), rtol=1e-6)


def their_query(clip, stddev):
    """TensorFlow Privacy's own, untouched."""
    name = "tensorflow_privacy.privacy.dp_query.gaussian_query"
    return imported(name).GaussianSumQuery(clip, stddev)


def test_clipping_is_that_of_tensorflow_privacy():
    """Record by record, below, at and above the clip, and a record of 0."""
    directions_BP = np.random.default_rng(3).normal(size=(8, 50))
    directions_BP /= np.linalg.norm(directions_BP, axis=1, keepdims=True)
    norms_B = np.array([0.0, 1e-3, 0.5, MIDDLE, 1.01 * MIDDLE, 10.0, 1e6, 1e12])
    records_BP = tf.constant(norms_B[:, None] * directions_BP, "float32")
    theirs = their_query(MIDDLE, 0.0)
    params = theirs.derive_sample_params(theirs.initial_global_state())
    expected = [theirs.preprocess_record(params, record) for record in records_BP]
    ours = seeded_query(Mechanism(MIDDLE, 0.0, None), (0, 0))
    found = clipped(ours, records_BP)
    # Two units in the last place: a graph sums the squares in another order.
    np.testing.assert_allclose(found, expected, rtol=2.4e-7)
    np.testing.assert_allclose(
        np.linalg.norm(found, axis=1), np.minimum(norms_B, MIDDLE), rtol=1e-6
    )


def test_noise_is_distributed_as_that_of_tensorflow_privacy():
    theirs = their_query(0.5, 2.0)
    zeros = tf.zeros(10 * NUMBERS)
    expected, _, event = theirs.get_noised_result(zeros, theirs.initial_global_state())
    ours = seeded_query(Mechanism(0.5, 4.0), (0, 1))
    found, _, same = ours.get_noised_result(zeros, ours.initial_global_state())
    # Five standard errors of the ratio of two measured deviations.
    tolerance = 5 / np.sqrt(10 * NUMBERS)
    assert abs(np.std(found) / np.std(expected) - 1) < tolerance
    assert abs(np.mean(found) - np.mean(expected)) < tolerance * 2.0 * np.sqrt(2)
    assert float(event.noise_multiplier) == same.noise_multiplier == 4.0


def noisy(task=None, clip=MIDDLE):
    return private(task or helpers.tiny_task(), clip, 1.1)


def test_noise_is_a_function_of_the_seed():
    task = noisy()
    params_P = tf.constant(task.initial(0)[0])
    x, y, seed = first_batch(task)
    first, again, other = (
        task.value_and_grad(params_P, (), (x, y, s))[1].numpy()
        for s in (seed, seed, seed + 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_noise_seeds_belong_to_minibatches():
    task = noisy()
    seeds = task.minibatches(1, 0, 6)[2]
    assert seeds.shape == (6, 2)
    assert len({tuple(seed) for seed in seeds}) == 6
    np.testing.assert_array_equal(task.minibatches(1, 3, 3)[2], seeds[3:])
    assert np.all(task.minibatches(2, 0, 6)[2] != seeds)
    with pytest.raises(ValueError, match="one without a seed"):
        task.value_and_grad(tf.constant(task.initial(0)[0]), (), first_batch(task)[:2])


@pytest.mark.parametrize(
    "objective",
    [
        Objective(alpha=0.3, segment=3),
        pytest.param(Objective(scheme="mean", alpha=0.3), marks=pytest.mark.slow),
        pytest.param(
            Objective(alpha=0.3, teacher_forcing=True), marks=pytest.mark.slow
        ),
    ],
)
def test_meta_gradient_equals_finite_differences(float64, objective):
    """Through clipping, on both sides of the clip, with noise."""
    error, size = directional_error(noisy(), helpers.players(), objective)
    assert size > 1e-3
    assert error < 1e-6


@pytest.mark.slow
def test_a_first_order_meta_gradient_is_another(float64):
    objective = Objective(alpha=0.3, second_order=False)
    assert directional_error(noisy(), helpers.players(), objective)[0] > 1e-3


@pytest.mark.slow
def test_two_halves_equal_one_whole():
    task, who = noisy(), helpers.players()
    carry, weights = helpers.started(task, who), helpers.weights_of(who.student)
    objective = Objective(alpha=0.3)
    whole = truncation(task, who, objective, 6, False)(weights, carry)[1]
    halves = carry
    for start in (3, 6):
        batches = helpers.constants(task.minibatches(1, start, 3))
        halves = tf.function(
            lambda c, b: meta_step.truncation(
                task, who, objective, weights, c, b, False
            )[1]
        )(halves, batches)
    np.testing.assert_array_equal(helpers.flat(halves), helpers.flat(whole))


def amalgamated(task, replicas):
    options = {"replicas": replicas, "meta_batch": 2, "stages": ((8, 1),)}
    options |= {"truncation_steps": 4, "warmup_steps": 2, "period": 1, "seed": 0}
    lesson = {**helpers.LESSON, **options}
    return helpers.flat(tf_amalgam.amalgamate(task, **lesson).weights)


@pytest.mark.slow
def test_replicas_do_not_change_what_is_learned():
    """Every optimizee of the meta-batch has its own noise, on whatever device."""
    single, mirrored = (amalgamated(noisy(), replicas) for replicas in (1, 2))
    noise_moved = np.abs(single - amalgamated(noiseless(MIDDLE), 1)).max()
    assert noise_moved > 1e-3
    np.testing.assert_allclose(mirrored, single, atol=1e-2 * noise_moved)


def test_examples_without_a_gradient_have_a_second_derivative():
    """At ∇ℓ = 0 the norm has no derivative; clipping is the identity there."""
    center = tf.constant([[1.0, 2.0], [1.0, 2.5]])
    for clip in (1e-3, 10.0):
        params_P = tf.constant([1.0, 2.0])  # the first example's minimum
        with tf.GradientTape() as tape:
            tape.watch(params_P)
            grads_P = private_gradient(
                lambda params_P, c: (0.5 * tf.reduce_sum((params_P - c) ** 2), ()),
                params_P,
                center,
                Mechanism(clip, 0.0, None),
                tf.constant([0, 0]),
            ).grads_P
        jacobian = tape.gradient(grads_P, params_P, output_gradients=tf.ones(2))
        # The first example adds I/2; the second, when clipped, only C/n across.
        second = [0.5, 0.5] if clip > 1 else [0.5 * clip / 0.5, 0.0]
        np.testing.assert_allclose(jacobian, np.add(0.5, second), rtol=1e-5)


def with_layer(layer):
    return lambda: keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4), layer(), keras.layers.Dense(3)]
    )


def test_each_example_draws_its_own_dropout():
    plain = Task(
        "dropout",
        with_layer(lambda: keras.layers.Dropout(0.5, seed=3)),
        helpers.blobs(),
        CROSS_ENTROPY,
        64,
    )
    task = noiseless(1e9, plain)
    params_P, state = task.initial(0)
    params_P = tf.constant(params_P)
    x, y, seed = first_batch(task)
    x, y = tf.repeat(x[:1], 64, axis=0), tf.repeat(y[:1], 64, axis=0)
    losses = {
        round(float(task.value_and_grad(params_P, state, (x[:n], y[:n], seed))[0]), 5)
        for n in (1, 2, 3, 4, 5)
    }
    assert len(losses) > 2  # 16 masks of 4 units; the mean over examples moves
    _, _, after = task.value_and_grad(params_P, state, (x, y, seed))
    _, _, expected = plain.value_and_grad(params_P, state, (x, y))
    np.testing.assert_array_equal(helpers.flat(after), helpers.flat(expected))
    assert np.any(helpers.flat(after) != helpers.flat(state))
    alone, _, _ = task.value_and_grad(params_P, state, (x[:1], y[:1], seed))
    same, _, _ = plain.value_and_grad(params_P, state, (x[:1], y[:1]))
    assert float(alone) == pytest.approx(float(same), rel=1e-6)


def batch_normalized():
    return Task(
        "normal",
        with_layer(keras.layers.BatchNormalization),
        helpers.blobs(),
        CROSS_ENTROPY,
        8,
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: private(batch_normalized()), "BatchNormalization.*per-example"),
        (lambda: private(noisy()), "private already"),
        (lambda: private(helpers.tiny_task(), -1.0), "l2_norm_clip"),
        (lambda: private(helpers.tiny_task(), 1.0, 0.0), "epsilon is infinite"),
        (lambda: private(helpers.tiny_task(), delta=1.5), "delta"),
        (lambda: private(helpers.tiny_task(), delta=1 / 96), "nothing about 96"),
    ],
)
def test_bad_private_tasks_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_layers_that_update_a_state_are_refused():
    plain = Task(
        "spectral",
        with_layer(lambda: keras.layers.SpectralNormalization(keras.layers.Dense(4))),
        helpers.blobs(),
        CROSS_ENTROPY,
        8,
    )
    task = private(plain)
    params_P, state = task.initial(0)
    with pytest.raises(ValueError, match="updates a state in training"):
        task.value_and_grad(tf.constant(params_P), state, first_batch(task))


def test_description_says_how_private():
    described = noisy().describe()
    assert described["name"] == "tiny-DP"
    assert described["privacy"] == {
        "l2_norm_clip": MIDDLE,
        "noise_multiplier": 1.1,
        "delta": 1e-5,
    }
    report = noisy().privacy_report(12)
    assert report["steps"] == 12
    assert report["epsilon"] > 1.0


def test_epsilon_is_of_the_training_examples():
    task = helpers.tiny_task()
    few = type(task.dataset.train)(*(part[:40] for part in task.dataset.train))
    task.dataset = task.dataset._replace(validation=few, test=few)
    report = private(task, noise_multiplier=1.1, delta=1e-3).privacy_report(12)
    expected = privacy.epsilon(12, 8, 96, 1.1, 1e-3)
    assert report["epsilon"] == expected
    assert expected != pytest.approx(privacy.epsilon(12, 8, 80, 1.1, 1e-3), rel=1e-3)
