"""The guard: what it lets pass, what it takes back, and that it then does no harm."""

import functools
import json
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_amalgam
from benchmarks import climbs
from tests import helpers
from tests.test_optimizer import model, trained
from tf_amalgam import guard, rules
from tf_amalgam.guard import Guard, Watch, out_of_bounds
from tf_amalgam.optimizers import optimizer_for


def weights_that(**changes):
    """Returns fresh RNNProp weights with some replaced."""
    weights = rules.RNNProp().init_weights(0)
    return weights | {k: np.full_like(weights[k], v) for k, v in changes.items()}


# Its head says +α wherever it is, whatever the gradient.
BLIND = weights_that(**{"head/kernel": 0.0, "head/bias": 5.0})


def learned_sgd(rate, **options):
    """Returns gradient descent as a learned rule, which may be guarded."""
    return tf_amalgam.LearnedScalars(
        base="sgd", initial_learning_rate=rate, warmup_steps=40, **options
    )


# Whatever its steps are, only the loss counts.
BY_LOSS = {"size": 1e9, "cosine": -1.0}


def test_a_well_behaved_optimizer_is_left_alone():
    options = {"base": "adam", "initial_learning_rate": 0.01, "warmup_steps": 4}
    plain, losses = trained(tf_amalgam.LearnedScalars(**options))
    optimizer = tf_amalgam.LearnedScalars(guard=True, **options)
    guarded, guarded_losses = trained(optimizer)
    np.testing.assert_allclose(guarded, plain, rtol=1e-5, atol=1e-7)
    assert guarded_losses == pytest.approx(losses, rel=1e-5)
    assert set(optimizer.guard_report.values()) == {0}
    assert tf_amalgam.RNNProp().guard_report == {}


def test_steps_out_of_bounds_are_the_fallbacks():
    """The blind rule's first step after the warm-up is refused."""
    optimizer = tf_amalgam.RNNProp(
        BLIND, warmup_steps=3, guard=Guard(size=5.0, patience=1000)
    )
    guarded, _ = trained(optimizer, 2)
    fallback, _ = trained(tf_amalgam.Adam(guard.ADAM.learning_rate, warmup_steps=3), 2)
    np.testing.assert_allclose(guarded, fallback, rtol=1e-4, atol=1e-6)
    report = optimizer.guard_report
    assert (report["out_of_bounds"], report["fallback_steps"]) == (1, 24 - 3)
    assert report["fallback_left"] == 1000 - 20


def test_while_the_fallback_stays_recurrent_state_is_at_its_start():
    """Moments go on, so that the rule finds them when it is back."""
    optimizer = tf_amalgam.RNNProp(
        BLIND, warmup_steps=3, guard=Guard(size=5.0, patience=1000)
    )
    trained(optimizer, 1)
    state = dict(
        zip(
            rules.RNNProp().init_state(optimizer._layout)._fields,
            optimizer._state[0],
            strict=True,
        )
    )
    assert np.abs(state["m"].numpy()).max() > 0
    for name in rules.RNNProp.recurrent:
        np.testing.assert_array_equal(state[name].numpy(), 0.0)


def test_the_fallback_stays_longer_each_time():
    optimizer = tf_amalgam.RNNProp(
        BLIND, warmup_steps=0, guard=Guard(size=5.0, patience=2)
    )
    trained(optimizer, 2)  # 24 steps: 1 + 2, 1 + 8, 1 + 11 of 32
    report = optimizer.guard_report
    assert (report["out_of_bounds"], report["fallback_steps"]) == (3, 24)
    assert report["fallback_left"] == 32 - 11


def test_weights_that_explode_move_nothing_that_is_not_finite():
    """A cell that overflows: the state starts anew when the fallback takes over."""
    weights = weights_that(**{"lstm_0/kernel": np.float32(3e38)})
    optimizer = tf_amalgam.RNNProp(weights, warmup_steps=2, guard=Guard(patience=3))
    guarded, losses = trained(optimizer, 2)
    assert np.all(np.isfinite(guarded))
    assert losses[-1] < losses[0]
    assert all(np.all(np.isfinite(v.numpy())) for v in optimizer.variables)


@pytest.mark.parametrize("warmup_steps", [0, 5])
def test_gradients_that_are_not_finite_move_nothing(warmup_steps):
    optimizer = tf_amalgam.RNNProp(warmup_steps=warmup_steps, guard=True)
    variable = keras.Variable(np.ones(3))
    optimizer.apply([tf.constant([1.0, np.nan, 2.0])], [variable])
    np.testing.assert_array_equal(variable.numpy(), 1.0)
    assert optimizer.guard_report["gradient_not_finite"] == 1
    assert all(np.all(np.isfinite(v.numpy())) for v in optimizer.variables)
    optimizer.apply([tf.constant([1.0, -1.0, 2.0])], [variable])
    assert np.all(variable.numpy() != 1.0)


def climb(losses, watch=None, given=None):
    """Returns the watch after these losses, and at which of them it rose."""
    watch, rose = watch or Watch(*np.zeros(len(Watch._fields), "float32")), []
    seen = tf.function(functools.partial(guard.with_loss, given or Guard()))
    for i, loss in enumerate(np.float32(losses)):
        watch = tf.nest.map_structure(tf.constant, watch)
        watch, _, climbed = seen(watch, tf.constant(loss))
        if bool(climbed):
            rose.append(i)
    return watch, rose


def test_a_loss_that_climbs_is_seen_and_noise_is_not():
    generator = np.random.default_rng(0)
    falling = 2.0 * np.exp(-np.arange(300) / 60.0)
    noisy = np.float32(falling + 0.1 * generator.normal(size=300))
    watch, rose = climb(noisy)
    assert rose == []
    assert float(watch.best) == pytest.approx(falling[-1], abs=0.1)
    # A plateau is no climb, for a long time; nor is a loss below zero.
    assert climb(np.float32(0.1 * generator.normal(size=2000)))[1] == []
    assert climb(noisy - 5.0)[1] == []
    # Back to half of what was gained: seen when the average is there.
    _, rose = climb([np.float32(1.0)] * 30, watch)
    assert 5 <= rose[0] <= 25
    # The first may come of an odd minibatch, the second does not.
    assert climb([np.float32("nan")] * 2, watch)[1] == [1]


@pytest.mark.parametrize(("falls", "seen"), [(0.0, False), (1.0, True)])
def test_who_fell_before_may_lose_no_more_than_noise(falls, seen):
    """A tenth of what was gained, five times what 8 standard deviations are."""
    generator = np.random.default_rng(0)
    falling = 2.0 * np.exp(-np.arange(600) / 60.0)
    watch, rose = climb(np.float32(falling + 0.02 * generator.normal(size=600)))
    assert rose == []
    _, rose = climb([np.float32(0.2)] * 100, watch._replace(bounds=falls))
    assert bool(rose) == seen


def test_recorded_trainings_that_climbed():
    falling = 2.0 * np.exp(-np.arange(200) / 40.0)
    jump = np.where(np.arange(200) < 150, falling, 2.0)
    shown = {"fell": falling, "jumped": jump, "short": jump[:100]}
    settings = {"warmup_steps": 100}
    found = [
        {"task": name, "batch_losses": list(v), "settings": settings}
        for name, v in shown.items()
    ]
    ((record, (step, average, best)),) = climbs.climbs(found, Guard())
    assert record["task"] == "jumped"
    assert 150 < step < 180
    assert best < 0.1 < average


@pytest.mark.parametrize("warmup_steps", [0, 400])
def test_what_the_warm_up_gained_does_not_count(warmup_steps):
    """Of 2 nats the warm-up gained 1.7: .2 lost is much of the rest alone."""
    steps = np.arange(1500)
    losses = np.where(steps < 1200, 2.0 * np.exp(-steps / 200.0), 0.2)
    settings = {"warmup_steps": warmup_steps}
    record = {"batch_losses": list(losses), "settings": settings}
    assert len(climbs.climbs([record], Guard())) == (warmup_steps > 0)


@pytest.mark.parametrize("warmup_steps", [0, 100])
def test_the_way_down_is_no_noise(warmup_steps):
    """From 50 to 1 in the warm-up, then, slowly, back to 20."""
    losses = [*np.linspace(50.0, 1.0, 20), *[1.0] * 80, *np.linspace(1.0, 20.0, 400)]
    record = {"batch_losses": losses, "settings": {"warmup_steps": warmup_steps}}
    found = climbs.climbs([record], Guard())
    seen_at = found[0][1][0] if found else len(losses)
    assert (seen_at < 200) == (warmup_steps > 0)


def test_a_climbing_loss_is_taken_back():
    """Parameters return to where the loss was lowest; the fallback goes on there."""
    free, _ = trained(learned_sgd(100.0), 12)
    optimizer, net = learned_sgd(100.0, guard=Guard(**BY_LOSS, patience=500)), model()
    guarded, losses = trained(optimizer, 12, net)
    assert np.abs(free).max() > 10.0 * np.abs(guarded).max()
    assert optimizer.guard_report["loss_climbed"] == 1
    fallback, _ = trained(tf_amalgam.Adam(0.005, warmup_steps=40), 12)
    assert losses[-1] < losses[0]
    start = helpers.flat(model().get_weights())
    moved = np.abs(fallback - start).max()
    assert np.abs(guarded - fallback).max() < moved


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("bounds", "'out_of_bounds': 1"),
        ("climbs", "'loss_climbed': 1"),
        ("lags", "'gained_too_little': 1"),
    ],
)
def test_the_log_tells_of_each_reason(reason, told, caplog):
    optimizer = tf_amalgam.RNNProp(guard=True)
    optimizer.build([keras.Variable([1.0])])
    watch = optimizer._kept.watch
    getattr(watch, reason).assign(1.0)
    watch.fallback_steps.assign(1.0)
    with caplog.at_level(logging.WARNING):
        optimizer.finalize_variable_values([])
    assert "the guard fell back" in caplog.text
    assert told in caplog.text


def test_the_log_tells_of_steps_that_were_left_out(caplog):
    """A gradient that is not finite makes nobody fall back."""
    optimizer = tf_amalgam.RNNProp(guard=True)
    optimizer.build([variable := keras.Variable([1.0])])
    with caplog.at_level(logging.WARNING):
        optimizer.finalize_variable_values([])
        assert not caplog.text
        optimizer.apply([tf.constant([np.nan])], [variable])
        optimizer.finalize_variable_values([])
    assert "the guard left steps out: {'gradient_not_finite': 1" in caplog.text
    assert "fell back" not in caplog.text


@pytest.mark.parametrize(
    ("start", "end", "back", "share", "seen"),
    [
        # Most of what was gained, but less than a tenth of the loss at the start.
        (1.0, 0.85, 0.97, 0.2, False),
        (1.0, 0.85, 1.02, 0.2, True),
        # The share that is asked for.
        (2.0, 0.1, 0.7, 0.2, True),
        (2.0, 0.1, 0.7, 0.5, False),
        (2.0, 0.1, 0.4, 0.2, False),
        (2.0, 0.1, 0.4, 0.1, True),
    ],
)
def test_how_much_of_the_gain_may_be_lost(start, end, back, share, seen):
    losses = np.append(np.linspace(start, end, 3000), 100 * [back])
    assert bool(climb(losses, given=Guard(climb=share))[1]) == seen


@pytest.mark.parametrize(("length", "out"), [(2.9, False), (3.1, True)])
def test_how_long_a_step_may_be(length, out):
    fallback = np.array([0.3, -0.4], "float32")
    found = out_of_bounds(Guard(size=3.0), length * fallback, fallback, np.array(False))
    assert bool(found) == out


@pytest.mark.parametrize(
    ("cosine", "along", "warm", "out"),
    [
        (0.0, -1.0, False, True),
        (0.0, -1.0, True, False),  # plain gradient descent may go against averages
        (0.0, 0.01, False, False),
        (-1.0, -1.0, False, False),
        (0.9, 0.8, False, True),
        (0.7, 0.8, False, False),
    ],
)
def test_a_step_against_the_fallbacks_is_out_of_bounds(cosine, along, warm, out):
    fallback = np.array([1.0, 0.0], "float32")
    step = np.array([along, np.sqrt(1.0 - along**2)], "float32")
    found = out_of_bounds(Guard(cosine=cosine), step, fallback, np.array(warm))
    assert bool(found) == out


@pytest.mark.parametrize(
    "fallback", [rules.Momentum(0.01), rules.RMSProp(0.02), rules.SGD(0.03)]
)
def test_the_fallback_is_the_one_that_was_given(fallback):
    """And its steps are those of the rule alone."""
    variables = [keras.Variable([1.0, -2.0]) for _ in range(2)]
    guarded = tf_amalgam.RNNProp(
        warmup_steps=0, guard=Guard(fallback=fallback, size=1e-9, patience=100)
    )
    alone = optimizer_for(fallback, {})
    for gradient in ([0.5, -0.1], [0.2, 0.3], [-0.1, 0.4]):
        for optimizer, variable in zip((guarded, alone), variables, strict=True):
            optimizer.apply([tf.constant(gradient)], [variable])
    assert guarded.guard_report["fallback_steps"] == 3
    np.testing.assert_allclose(*(v.numpy() for v in variables), rtol=1e-5)
    assert np.abs(variables[0].numpy() - [1.0, -2.0]).min() > 1e-4


def test_several_replicas_judge_no_loss():
    """Each would by its own, and fall back in another step."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        net, optimizer = model(), tf_amalgam.RNNProp(guard=True)
    trained(optimizer, 1, net)
    assert optimizer.iterations.numpy() > 0
    assert optimizer._kept.watch.seen.numpy() == 0.0
    single = tf_amalgam.RNNProp(guard=True)
    trained(single, 1)
    assert float(single._kept.watch.seen) == int(single.iterations)


@pytest.mark.parametrize(
    ("replicas", "compiled"),
    [(1, True), *(pytest.param(n, False, marks=pytest.mark.slow) for n in (1, 2))],
)
def test_wherever_keras_runs_it(replicas, compiled, tmp_path, caplog):
    """Replicas, XLA, a file in the middle of a fall; and the log says so."""
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    with strategy.scope():
        net = model()
        optimizer = tf_amalgam.RNNProp(
            BLIND, warmup_steps=3, guard=Guard(size=5.0, patience=5), chunk_size=20
        )
    with caplog.at_level(logging.WARNING):
        weights, _ = trained(optimizer, 1, net, jit_compile=compiled)
    assert "the guard fell back" in caplog.text
    same = tf_amalgam.RNNProp(BLIND, warmup_steps=3, guard=Guard(size=5.0, patience=5))
    plain, _ = trained(same, 1)
    np.testing.assert_allclose(weights, plain, atol=2e-4)
    assert optimizer.guard_report == same.guard_report
    if replicas == 1:
        net.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        assert again.optimizer.guard == optimizer.guard
        assert again.optimizer.guard_report == optimizer.guard_report


def test_config():
    given = Guard(fallback=rules.Momentum(0.5), patience=7)
    config = json.loads(json.dumps(given.get_config()))
    assert Guard.of(config) == given
    assert Guard.of(True) == Guard()
    assert Guard.of(False) is None
    optimizer = tf_amalgam.RNNProp(guard=given)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.guard == given


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Guard(fallback=rules.RNNProp()), "must be an analytic rule"),
        (lambda: tf_amalgam.Adam(guard=True), "guard goes with learned optimizers"),
        (lambda: Guard(size=0.0), "size must be a finite number above 0"),
        (lambda: Guard(cosine=2.0), r"cosine must be in \[-1, 1\)"),
        (lambda: tf_amalgam.RNNProp(guard="yes"), "guard must be True, False or"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
