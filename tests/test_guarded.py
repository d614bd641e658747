"""Single steps under guard, worked by hand: what comes back, and in which state."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_amalgam
from tests import helpers
from tests.test_optimizer import DATA, FEATURES, trained
from tf_amalgam.guard import BROKEN, SETTLING, Guard

NAN, INF = float("nan"), float("inf")
# Only the loss counts, and a first fallback outlasts every test.
BY_LOSS = Guard(size=1e9, cosine=-1.0, patience=1000)


def learned_sgd(guard=BY_LOSS, rate=0.1, **options):
    """Returns gradient descent as a learned rule under guard."""
    return tf_amalgam.LearnedScalars(
        base="sgd",
        initial_learning_rate=rate,
        guard=guard,
        **{"warmup_steps": 0, **options},
    )


def step(optimizer, variables, grads, loss):
    """Takes a step as `fit` does, the loss being known."""
    optimizer.scale_loss(tf.constant(loss, "float32"))
    optimizer.apply(
        [None if g is None else tf.constant(g, "float32") for g in grads], variables
    )


def in_one_program(optimizer, variable):
    """Returns a step of one variable as a function of the loss, for hundreds."""
    optimizer.build([variable])

    @tf.function(autograph=False)
    def program(loss):
        optimizer.scale_loss(loss)
        optimizer.apply([tf.fill(variable.shape, 0.01)], [variable])

    return lambda loss: program(tf.constant(loss, "float32"))


def until(seen):
    """Yields until something is seen, for one step each; fails where it never is."""
    for _ in range(2000):
        if seen():
            return
        yield
    raise AssertionError("2,000 steps in vain")


def settle(optimizer, variables, grads=None):
    """Lets the loss fall until the guard knows it; returns the last loss.

    The first three hundred steps, in which little gained is nothing, are over.
    """
    losses = np.linspace(2.0, 1.0, int(SETTLING) + 5)
    for loss in losses:
        step(
            optimizer,
            variables,
            grads or [np.full(v.shape, 0.1) for v in variables],
            loss,
        )
        optimizer._kept.watch.trial.assign(0.0)
    return losses[-1]


def test_lost_parameters_come_back():
    """Parameters, loss and gradients are NaN, as after a real explosion."""
    variable, optimizer = keras.Variable([1.0, 2.0]), learned_sgd()
    settle(optimizer, [variable])
    # Where the loss was lowest: what the last step was taken from.
    best = variable.numpy() + 0.1 * 0.1
    variable.assign([NAN, INF])
    for _ in range(int(BROKEN)):
        assert optimizer.guard_report["loss_climbed"] == 0
        step(optimizer, [variable], [[NAN, NAN]], NAN)
    np.testing.assert_allclose(variable.numpy(), best, rtol=1e-6)
    assert optimizer.guard_report["loss_climbed"] == 1
    assert optimizer.guard_report["gradient_not_finite"] == BROKEN
    step(optimizer, [variable], [[1.0, -1.0]], 1.0)
    moved = variable.numpy() - best
    np.testing.assert_allclose(moved, [-0.005, 0.005], rtol=1e-3)  # Adam's first


@pytest.mark.parametrize(("warmup_steps", "start"), [(0, 3.0), (30, 1.0)])
def test_what_the_warm_up_gained_does_not_count(warmup_steps, start):
    variable = keras.Variable([1.0, 2.0])
    optimizer = learned_sgd(warmup_steps=warmup_steps)
    for loss in [3.0, *[1.0] * 29, *[0.5] * 5]:
        step(optimizer, [variable], [[0.1, 0.1]], loss)
    assert float(optimizer._kept.watch.start) == pytest.approx(start, rel=0.05)


def test_what_was_there_when_variables_were_made_is_not_where_it_began():
    """Weights that were loaded after `build` come back, not those of before."""
    variable, optimizer = keras.Variable([1.0, 2.0]), learned_sgd()
    optimizer.build([variable])
    variable.assign([5.0, 6.0])
    for _ in range(int(BROKEN)):
        step(optimizer, [variable], [[0.0, 0.0]], NAN)
    assert optimizer.guard_report["loss_climbed"] == 1
    np.testing.assert_array_equal(variable.numpy(), [5.0, 6.0])


def test_it_begins_where_the_first_loss_is_known():
    """Steps before it, of loops that tell of none, are nothing to come back to."""
    variable, optimizer = keras.Variable([1.0, 2.0]), learned_sgd()
    optimizer.apply([tf.constant([3.0, 4.0])], [variable])
    began = variable.numpy()
    assert np.abs(began - [1.0, 2.0]).min() > 0.1
    for _ in range(int(BROKEN)):
        step(optimizer, [variable], [[0.5, 0.5]], NAN)
    assert optimizer.guard_report["loss_climbed"] == 1
    np.testing.assert_array_equal(variable.numpy(), began)


def test_it_begins_where_a_huge_loss_was_told_of():
    """Which counts for none; what then explodes is not where it began."""
    variable, optimizer = keras.Variable([1.0, 2.0]), learned_sgd()
    step(optimizer, [variable], [[3.0, 4.0]], 1e20)
    for _ in range(int(BROKEN)):
        step(optimizer, [variable], [[0.5, 0.5]], INF)
    assert optimizer.guard_report["loss_climbed"] == 1
    np.testing.assert_array_equal(variable.numpy(), [1.0, 2.0])


def test_a_model_without_an_input_is_built_with_its_first_step():
    """Its weights have no values yet while that step is traced."""
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")

    def fitted(*first):
        keras.utils.set_random_seed(0)
        net = keras.Sequential([*first, keras.layers.Dense(3), keras.layers.Dense(1)])
        net.compile(tf_amalgam.load("choice-small", guard=True, warmup_steps=2), "mse")
        net.fit(x, x[:, :1], batch_size=16, epochs=2, shuffle=False, verbose=0)
        return net

    late, usual = fitted(), fitted(keras.Input((4,)))
    watch = late.optimizer._kept.watch
    assert (float(watch.seen), float(watch.falls)) == (8.0, 0.0)
    np.testing.assert_allclose(
        helpers.flat(late.get_weights()),
        helpers.flat(usual.get_weights()),
        rtol=1e-4,
        atol=1e-6,
    )


def test_a_loss_may_be_several_numbers():
    """As `fit` has it with reduction="none"."""
    variable, optimizer = keras.Variable([1.0, 2.0]), learned_sgd()
    step(optimizer, [variable], [[0.1, 0.1]], [1.0, 3.0])
    assert float(optimizer._kept.watch.start) == 2.0


def test_one_odd_minibatch_takes_nothing_back():
    variable, optimizer = keras.Variable([1.0, 2.0]), learned_sgd()
    settle(optimizer, [variable])
    for loss in (INF, 1.0, NAN, 0.9, 1e25, 1.0):
        before = variable.numpy()
        step(optimizer, [variable], [[0.5, 0.5]], loss)
        np.testing.assert_allclose(variable.numpy(), before - 0.05, rtol=1e-6)
    assert optimizer.guard_report["loss_climbed"] == 0


def test_a_huge_loss_at_first_does_not_pass_for_noise():
    """Its square is beyond float32; a climb is a climb after it, too."""
    variable, optimizer = keras.Variable([1.0, 2.0]), learned_sgd()
    step(optimizer, [variable], [[0.1, 0.1]], 1e25)
    settle(optimizer, [variable])
    assert np.isfinite(float(optimizer._kept.watch.variance))
    for _ in range(60):
        step(optimizer, [variable], [[0.1, 0.1]], 1e3)
        if optimizer.guard_report["loss_climbed"]:
            break
    assert optimizer.guard_report["loss_climbed"] == 1


def test_losses_that_are_huge_from_the_beginning_are_no_climb():
    """Squares of targets of 1e10, say: the guard says nothing of them."""
    variable, optimizer = keras.Variable([1.0, 2.0]), learned_sgd()
    for _ in range(5):
        step(optimizer, [variable], [[0.1, 0.1]], 1e20)
    np.testing.assert_allclose(variable.numpy(), [0.95, 1.95], rtol=1e-6)
    assert optimizer.guard_report["loss_climbed"] == 0


def test_what_comes_back_is_exact():
    """Also from far away, where a difference would be rounded."""
    variable, optimizer = keras.Variable([-0.167, 0.746, -0.59]), learned_sgd()
    settle(optimizer, [variable])
    best = variable.numpy() + np.float32(0.1) * np.float32(0.1)
    variable.assign([1e7, -1e7, 1e7])
    for _ in range(60):
        step(optimizer, [variable], [[0.0, 0.0, 0.0]], 1e3)
        if optimizer.guard_report["loss_climbed"]:
            break
    np.testing.assert_allclose(variable.numpy(), best, rtol=1e-6)


def test_what_had_no_gradient_stays():
    """One head, then another: it goes back to where it began, not to zero."""
    first, second = keras.Variable([1.0, 2.0]), keras.Variable([5.0, 5.0])
    optimizer = learned_sgd()
    optimizer.build([first, second])
    settle(optimizer, [first, second], [[0.1, 0.1], None])
    np.testing.assert_array_equal(second.numpy(), 5.0)
    there = first.numpy()
    for _ in range(60):
        step(optimizer, [first, second], [None, [1.0, 1.0]], 1e3)
        if optimizer.guard_report["loss_climbed"]:
            break
    np.testing.assert_array_equal(second.numpy(), 5.0)
    np.testing.assert_array_equal(first.numpy(), there)


def test_one_without_a_gradient_at_first_goes_back_to_what_was_loaded():
    """A second head's variables were other ones when the optimizer was built."""
    first, second = keras.Variable([1.0, 2.0]), keras.Variable([5.0, 5.0])
    optimizer = learned_sgd()
    optimizer.build([first, second])
    second.assign([7.0, 8.0])
    settle(optimizer, [first, second], [[0.1, 0.1], None])
    for _ in range(60):
        step(optimizer, [first, second], [[0.1, 0.1], [1.0, 1.0]], 1e3)
        if optimizer.guard_report["loss_climbed"]:
            break
    np.testing.assert_array_equal(second.numpy(), [7.0, 8.0])


@pytest.mark.parametrize("rule", [tf_amalgam.RNNProp, tf_amalgam.Scale])
def test_what_had_no_gradient_begins_anew_with_all_others(rule):
    """Its moments are of the explosion, too, and the count of steps is of all."""
    first, second = keras.Variable([1.0, 2.0]), keras.Variable([3.0, 4.0])
    guard = Guard(size=1e9, cosine=-1.0, patience=4)
    optimizer = rule(warmup_steps=0, guard=guard)
    optimizer.build([first, second])
    settle(optimizer, [first, second])
    for _ in range(60):
        step(optimizer, [first, second], [[1e4, -1e4], [1e4, 1e4]], 1e3)
        if optimizer.guard_report["loss_climbed"]:
            break
    start = second.numpy()
    step(optimizer, [first, second], [[1.0, -1.0], None], 1.0)
    np.testing.assert_array_equal(second.numpy(), start)
    [state] = optimizer._state
    for part in state:
        whole = (
            part.numpy().reshape(*part.shape[:-2], -1)
            if rule is tf_amalgam.RNNProp
            else part.numpy()
        )
        assert np.abs(whole).max() < 10.0, part.name
    # The fallback's second step of it is Adam's after gradients of 0 and 0.5.
    step(optimizer, [first, second], [[1.0, -1.0], [0.5, -0.5]], 1.0)
    averages = (0.1 * 0.5 / (1 - 0.9**2), 0.001 * 0.25 / (1 - 0.999**2))
    moved = guard.fallback.learning_rate * averages[0] / np.sqrt(averages[1])
    np.testing.assert_allclose(start - second.numpy(), [moved, -moved], rtol=1e-3)


@pytest.mark.parametrize("rule", [tf_amalgam.RNNProp, tf_amalgam.Choice])
def test_after_it_everything_begins_anew(rule):
    """The explosion's gradients are forgotten: by fallback and optimizer."""
    variable = keras.Variable([1.0, 2.0, 3.0])
    guard = Guard(size=1e9, cosine=-1.0, patience=4)
    optimizer = rule(warmup_steps=0, guard=guard)
    settle(optimizer, [variable])
    for _ in range(60):
        step(optimizer, [variable], [[1e4, -1e4, 1e4]], 1e3)
        if optimizer.guard_report["loss_climbed"]:
            break
    start, gradients = variable.numpy(), np.array([[1.0, -2.0, 0.5]] * 4, "float32")
    fresh = rule(warmup_steps=0)
    adam, known = tf_amalgam.Adam(guard.fallback.learning_rate), keras.Variable(start)
    for n, gradient in enumerate(gradients):
        step(optimizer, [variable], [gradient], 1.0)
        adam.apply([tf.constant(gradient)], [known])
        np.testing.assert_allclose(variable.numpy(), known.numpy(), rtol=1e-5)
        assert optimizer.guard_report["fallback_left"] == 3 - n
    # Then its own steps, with moments of these four gradients alone.
    state = fresh.rule.init_state(optimizer._layout)
    for n, gradient in enumerate(gradients):
        state = fresh.rule.observe(gradient, state, np.float32(n + 1))
    delta, _ = fresh.rule.update(
        fresh.rule_weights,
        gradients[0],
        known.numpy(),
        state,
        optimizer._layout,
        np.float32(5),
    )
    before = variable.numpy()
    step(optimizer, [variable], [gradients[0]], 1.0)
    moved = variable.numpy() - before
    assert np.abs(moved).max() > 1e-4
    np.testing.assert_allclose(moved, np.asarray(delta), rtol=1e-3, atol=1e-6)


def test_noise_of_an_explosion_is_forgotten():
    """Average and its noise are again what they were, so a second climb is seen."""
    variable, optimizer = keras.Variable([1.0]), learned_sgd()
    settle(optimizer, [variable])
    watch = optimizer._kept.watch
    before = float(watch.average), float(watch.variance)
    for _ in until(lambda: optimizer.guard_report["loss_climbed"]):
        step(optimizer, [variable], [[0.01]], 1e6)
    # Where the average was lowest: a step earlier at most.
    after = float(watch.average), float(watch.variance)
    assert after == pytest.approx(before, rel=0.05)


def test_a_fall_has_one_reason():
    """The second loss that is none, and a step that is out of bounds: it climbed."""
    guard = Guard(size=10.0, cosine=-1.0, patience=100)
    variable, optimizer = keras.Variable([1.0, 2.0]), learned_sgd(guard)
    settle(optimizer, [variable])
    step(optimizer, [variable], [[0.1, 0.1]], NAN)
    assert optimizer.guard_report["fallback_steps"] == 0
    step(optimizer, [variable], [[1e3, -1e3]], NAN)
    report = optimizer.guard_report
    assert (report["loss_climbed"], report["out_of_bounds"]) == (1, 0)
    assert report["fallback_left"] == 100


def after_a_fall(optimizer, variable, gain):
    """Lets the loss explode, the fallback gain .01 a step, then the optimizer `gain`.

    Returns the report after each of the optimizer's steps.
    """
    settle(optimizer, [variable])
    take_step = in_one_program(optimizer, variable)
    for _ in until(lambda: optimizer.guard_report["loss_climbed"]):
        take_step(1e6)
    loss, reports = float(optimizer._kept.watch.average), []
    for _ in until(lambda: not optimizer.guard_report["fallback_left"]):
        take_step(loss := loss - 0.01)
    for _ in range(400):
        take_step(loss := loss - gain)
        reports.append(optimizer.guard_report)
    return reports


@pytest.mark.parametrize(("gain", "lags"), [(0.006, False), (0.002, True)])
def test_who_fell_must_keep_up_with_the_fallback(gain, lags):
    """At half its pace; seen after `patience` steps."""
    guard = Guard(size=1e9, cosine=-1.0, patience=100)
    optimizer = learned_sgd(guard)
    reports = after_a_fall(optimizer, keras.Variable([1.0]), gain)
    seen = [report["gained_too_little"] for report in reports]
    assert seen[98] == 0
    assert bool(seen[99]) == bool(seen[-1]) == lags
    if lags:
        # Averages of gradients, of .01 each, began anew.
        m, v = (part.numpy() for part in optimizer._kept.fallback[0])
        np.testing.assert_allclose(m, 0.01, rtol=1e-4)
        np.testing.assert_allclose(v, 1e-4 * (1.0 - 0.999**300), rtol=1e-4)
        assert reports[99]["fallback_left"] == 400  # four times as long
        assert reports[99]["loss_climbed"] == 1


@pytest.mark.parametrize(
    ("gained", "lags", "warmup_steps"),
    [
        (0.08, True, 0),
        (0.12, False, 120),
        pytest.param(0.12, False, 0, marks=pytest.mark.slow),
        pytest.param(0.08, True, 120, marks=pytest.mark.slow),
    ],
)
def test_who_gains_too_little_at_first_is_compared(gained, lags, warmup_steps):
    """A tenth of the loss in 300 steps; what the warm-up gained does not count."""
    guard = Guard(size=1e9, cosine=-1.0, patience=100)
    optimizer = learned_sgd(guard, warmup_steps=warmup_steps)
    variable, reports = keras.Variable([1.0]), []
    warm = [*np.linspace(20.0, 10.0, 20), *[10.0] * 100][:warmup_steps]
    way = [*warm, *(10.0 - gained * np.arange(300) / 30.0)]
    # Those that lag begin again from where they were.
    way += [*(10.0 - gained * np.arange(250) / 30.0)] if lags else [way[-1]] * 250
    take_step = in_one_program(optimizer, variable)
    for loss in way:
        before = variable.numpy()
        take_step(loss)
        reports.append(optimizer.guard_report)
        told = [report["gained_too_little"] for report in reports[-2:]]
        if told == [0, 1]:
            assert variable.numpy() > before + 0.25  # 300 steps of .001 taken back
            # One loss has no noise; none at all would call anything a climb.
            assert optimizer._kept.watch.variance.numpy() > 0.0
    seen = [report["gained_too_little"] for report in reports[warmup_steps:]]
    assert seen[290] == 0
    assert seen[320] == seen[-1] == lags
    if lags:
        assert reports[-1]["fallback_steps"] == 101
        assert reports[-1]["loss_climbed"] == 0


def test_a_long_warm_up_is_not_heard():
    """It gains nothing in more than the first steps that count; what follows does."""
    guard = Guard(size=1e9, cosine=-1.0, patience=20)  # 60 steps are heard
    optimizer = learned_sgd(guard, warmup_steps=100)
    take_step = in_one_program(optimizer, keras.Variable([1.0]))
    for loss in (*[10.0] * 100, *np.linspace(9.9, 5.0, 80)):
        take_step(loss)
    assert set(optimizer.guard_report.values()) == {0}


def test_fresh_parameters_are_not_given_up_for_a_little():
    """At first what is a tenth lower is kept, then the lowest."""
    optimizer = learned_sgd(Guard(size=1e9, cosine=-1.0, patience=30))  # first: 90
    take_step, kept = in_one_program(optimizer, keras.Variable([1.0])), []
    for loss in [*[10.0] * 5, *[9.5] * 30, *[8.5] * 80, *[8.4] * 20]:
        take_step(loss)
        kept.append(float(optimizer._kept.best.numpy()[0]))
    assert kept[0] == kept[34] == 1.0
    # Of losses near 9.6 and then 8.5 the average is below 9 after some 15.
    assert kept[85] == kept[88] == pytest.approx(1.0 - 0.001 * 50, abs=0.01)
    assert kept[-1] == pytest.approx(1.0 - 0.001 * 134, rel=1e-4)


@pytest.mark.parametrize(("change", "lagging"), [(-2e-4, 0), (2e-4, 1)])
def test_who_fell_may_gain_little_where_the_fallback_lost(change, lagging):
    """But must not lose, not even less than the fallback did."""
    guard = Guard(size=1e9, cosine=-1.0, patience=100)
    optimizer = learned_sgd(guard)
    settle(optimizer, [variable := keras.Variable([1.0])])
    take_step = in_one_program(optimizer, variable)
    for _ in until(lambda: optimizer.guard_report["loss_climbed"]):
        take_step(1e6)
    loss = float(optimizer._kept.watch.average)
    for _ in range(300):
        take_step(loss := loss + 0.0005)
        if not optimizer.guard_report["fallback_left"]:
            break
    for _ in range(150):
        take_step(loss := loss + change)
    assert optimizer.guard_report["gained_too_little"] == lagging


@pytest.mark.parametrize("first", [0.0, INF])
def test_a_first_loss_that_says_nothing(first):
    variable, optimizer = keras.Variable([1.0]), learned_sgd()
    for loss in (first, *np.linspace(2.0, 1.0, 60)):
        step(optimizer, [variable], [[0.01]], loss)
    assert set(optimizer.guard_report.values()) == {0}


def test_the_average_of_the_weights_goes_back_too():
    variable = keras.Variable([1.0, 2.0])
    optimizer = learned_sgd(use_ema=True, ema_momentum=0.5)
    settle(optimizer, [variable])
    best = variable.numpy() + 0.1 * 0.1
    variable.assign([NAN, NAN])
    for _ in range(int(BROKEN)):
        step(optimizer, [variable], [[NAN, NAN]], NAN)
    (average,) = optimizer._model_variables_moving_average
    np.testing.assert_allclose(average.numpy(), best, rtol=1e-6)


def test_the_average_goes_back_where_too_little_was_gained():
    guard = Guard(size=1e9, cosine=-1.0, patience=20)  # 60 steps are heard
    optimizer = learned_sgd(guard, use_ema=True, ema_momentum=0.5)
    optimizer.build([variable := keras.Variable([1.0, 2.0])])
    for _ in until(lambda: optimizer.guard_report["gained_too_little"]):
        step(optimizer, [variable], [[0.1, 0.1]], 10.0)
    (average,) = optimizer._model_variables_moving_average
    np.testing.assert_array_equal(variable.numpy(), [1.0, 2.0])
    np.testing.assert_array_equal(average.numpy(), [1.0, 2.0])


def test_it_goes_back_to_what_was_best_before_the_step():
    """Also where the loss is lower than ever at the step that gained too little."""
    guard = Guard(size=1e9, cosine=-1.0, patience=20)
    optimizer = learned_sgd(guard)
    optimizer.build([variable := keras.Variable([1.0, 2.0])])
    loss, seen = 100.0, []
    for _ in until(lambda: optimizer.guard_report["gained_too_little"] == 2):
        seen.append(variable.numpy())
        # The fallback gains a thousand times as much.
        loss -= 1.0 if optimizer.guard_report["fallback_left"] else 1e-3
        step(optimizer, [variable], [[0.1, 0.1]], loss)
    np.testing.assert_array_equal(variable.numpy(), seen[-2])
    assert np.all(seen[-1] != seen[-2])


def test_a_schedule_that_begins_at_zero_is_no_fault_of_the_warm_up():
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, 1000, warmup_target=1.0, warmup_steps=50
    )
    optimizer = tf_amalgam.load(
        "choice-large", learning_rate=schedule, guard=True, warmup_steps=20
    )
    trained(optimizer, 1)
    assert optimizer.guard_report["out_of_bounds"] == 0


# Before a guard sees anything; the plain one is in every other test.
ELEMENTWISE = ("plain", "clipvalue", "global_clipnorm", "weight_decay", "schedule")


@pytest.mark.parametrize(
    "feature", helpers.slow_if(lambda name: name in ELEMENTWISE, FEATURES)
)
def test_a_guard_that_does_not_act_changes_nothing(feature):
    """Clipping, decay, averages and the rest, beside the same without a guard."""
    options = {k: v() if callable(v) else v for k, v in FEATURES[feature].items()}
    adam = {"base": "adam", "initial_learning_rate": 0.01, "warmup_steps": 4}
    plain, _ = trained(tf_amalgam.LearnedScalars(**adam, **options), 2)
    optimizer = tf_amalgam.LearnedScalars(**adam, guard=True, **options)
    guarded, _ = trained(optimizer, 2)
    assert set(optimizer.guard_report.values()) == {0}
    np.testing.assert_allclose(guarded, plain, rtol=1e-4, atol=1e-6)


def test_a_loss_of_before_is_not_kept_by_a_program():
    """Scaled eagerly, applied in a program, which would see the first one for ever."""
    variable = keras.Variable([1.0, 2.0])
    optimizer = learned_sgd(warmup_steps=2)
    optimizer.build([variable])
    program = tf.function(lambda grad: optimizer.apply([grad], [variable]))
    for _ in range(320):
        optimizer.scale_loss(tf.constant(1.0))
        program(tf.constant([1e-3, 1e-3]))
    assert optimizer.guard_report["gained_too_little"] == 0
    assert float(optimizer._kept.watch.seen) == 0


def test_a_private_model_tells_no_loss():
    """It asks how the optimizer scales losses; the 1 that it asks with is none."""
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    private = tf_amalgam.private_model(net, 1.0, 0.1)
    optimizer = learned_sgd(warmup_steps=2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    private.compile(optimizer, loss)
    x, y = (part[:8] for part in DATA)
    private.fit(x, y, batch_size=8, epochs=4, verbose=0)
    assert float(optimizer._kept.watch.seen) == 0
    assert int(optimizer.iterations) == 4


def test_a_wrong_gradient_is_named():
    """Of two variables whose gradients are exchanged, the sizes add up."""
    first = keras.Variable(np.ones((2, 3)), name="first")
    second = keras.Variable(np.ones(3), name="second")
    optimizer = tf_amalgam.load("choice-large")
    with pytest.raises(ValueError, match=r"gradient of first has shape \(3,\).*2, 3"):
        optimizer.apply([tf.ones(3), tf.ones((2, 3))], [first, second])
    with pytest.raises(ValueError, match=r"gradient of first has shape \(3, 2\)"):
        optimizer.apply([tf.ones((3, 2)), tf.ones(3)], [first, second])
    np.testing.assert_array_equal(first.numpy(), 1.0)
