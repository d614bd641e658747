"""Choice: the mixture by hand, as a student, as a teacher, as a Keras optimizer."""

import dataclasses
import itertools
import math
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_amalgam
from tests import helpers
from tests.test_meta_gradient import directional_error
from tf_amalgam import alone, files, meta_step, rules, saved, tasks, workdir
from tf_amalgam.layout import Layout
from tf_amalgam.meta_step import Players
from tf_amalgam.meta_train import Trainer
from tf_amalgam.objective import Objective
from tf_amalgam.rules import SGD, Adam, Choice, Momentum, make_rule

LAYOUT = Layout(("conv", "kernel", "bias"), ((2, 1, 1, 2), (3, 2), (3,)))
POOL = (SGD(learning_rate=0.1), Momentum(learning_rate=0.3), Adam(learning_rate=0.02))


def test_weight_counts_of_the_paper():
    for pool, count in (("small", 5_482), ("large", 5_886)):
        fresh = make_rule("choice", "released", pool=pool).init_weights(0)
        assert sum(v.size for v in fresh.values()) == count


def test_released_learning_rates_in_a_choice_pool():
    def rates(pool, preset="released"):
        return [m.learning_rate for m in make_rule("choice", preset, pool=pool).pool]

    assert rates("large") == [2.0, 2.0, 0.005, 0.02, 1.0, 1.0]
    assert rates("sgd_adam") == [0.2, 0.02]
    assert rates("small") == [0.02, 0.005]
    assert rates("small", "paper") == [0.005, 0.005]
    said = rules.choice_pool("large", "released", "direct")
    assert said == rules.make_pool("large", "released")
    said = rules.choice_pool("small", "paper", "released")
    assert [member.learning_rate for member in said] == [0.02, 0.005]
    with pytest.raises(ValueError, match="Unknown choice_rates 'drect'.*'direct'"):
        rules.choice_pool("small", "paper", "drect")


def test_a_step_equals_one_built_of_keras_layers(float64):
    rule = Choice(pool=POOL, units=5)
    weights = rule.init_weights(3)
    cells = [keras.layers.LSTMCell(5) for _ in range(2)]
    for i, (cell, inputs) in enumerate(zip(cells, (3 + 1 + 3, 5), strict=True)):
        cell.build((None, inputs))
        names = ("kernel", "recurrent_kernel", "bias")
        cell.set_weights([weights[f"lstm_{i}/{name}"] for name in names])
    states = [[tf.zeros((LAYOUT.size, 5))] * 2 for _ in cells]
    pool_states = [member.init_state(LAYOUT, "float64") for member in POOL]
    state = rule.init_state(LAYOUT, "float64")
    generator = np.random.default_rng(0)
    theta = tf.zeros(LAYOUT.size, tf.float64)
    for t in range(1, 4):
        g = tf.constant(generator.normal(size=LAYOUT.size))
        step = tf.constant(float(t), tf.float64)
        updates = []
        for k, member in enumerate(POOL):
            delta, pool_states[k] = member.update(
                {}, g, theta, pool_states[k], LAYOUT, step
            )
            updates.append(delta)
        updates = np.stack(updates, 1)
        time = np.full((LAYOUT.size, 1), (t - 1) / 2000.0)
        ranks = np.zeros((LAYOUT.size, 3))
        ranks[4:10, 1] = 1.0  # the kernel; the convolution's rank 4 has no place
        ranks[10:, 0] = 1.0  # the bias
        x = np.concatenate([updates, time, ranks], 1)
        for i, cell in enumerate(cells):
            x, states[i] = cell(x, states[i])
        logits = x @ weights["head/kernel"] + weights["head/bias"]
        mix = np.exp(logits) / np.sum(np.exp(logits), 1, keepdims=True)
        delta, state = rule.update(weights, g, theta, state, LAYOUT, step)
        np.testing.assert_allclose(delta, np.sum(mix * updates, 1), rtol=1e-10)
    assert np.std(mix) > 1e-3


def test_softmax_is_safe_for_huge_logits():
    rule = Choice(pool=POOL)
    weights = rule.init_weights(0)
    weights["head/bias"] = np.array([500.0, -500.0, 0.0], "float32")
    g = tf.ones(LAYOUT.size)
    mixture = rule.mix(weights, g, g, rule.init_state(LAYOUT), LAYOUT, tf.constant(1.0))
    np.testing.assert_allclose(mixture.weights_KP[0], 1.0, rtol=1e-6)
    np.testing.assert_allclose(mixture.delta_P, -0.1 * g, rtol=1e-5)


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_the_optimizer_tells_its_mixing_weights(chunk_size):
    """After two steps: those of the second, worked out by the rule itself."""
    options = {"warmup_steps": 0, "chunk_size": chunk_size}
    optimizer = tf_amalgam.load("choice-rule-small", **options)
    with pytest.raises(ValueError, match="no mixing weights yet"):
        optimizer.mixing_weights()
    # Two variables of one path are two entries all the same.
    first = keras.Variable(np.ones((2, 3)), name="w")
    second = keras.Variable(np.ones(4), name="w")
    layout = Layout(("w", "w"), ((2, 3), (4,)))
    rule, params = optimizer.rule, np.ones(10, "float32")
    state, generator = rule.init_state(layout), np.random.default_rng(0)
    for n in (1, 2):
        g = generator.normal(size=10).astype("float32")
        optimizer.apply([g[:6].reshape(2, 3), g[6:]], [first, second])
        weights = optimizer.rule_weights
        mixture = rule.mix(weights, g, params, state, layout, np.float32(n))
        state, params = mixture.state, params + mixture.delta_P.numpy()
    told = optimizer.mixing_weights()
    assert [w.shape for w in told.values()] == [(2, 3, 2), (4, 2)]
    flat = np.concatenate([w.reshape(-1, 2) for w in told.values()])
    assert np.ptp(flat[:, 0]) > 1e-4
    np.testing.assert_allclose(flat.T, mixture.weights_KP.numpy(), rtol=1e-5)


def test_a_variable_without_numbers_has_no_mixing_weights():
    optimizer = tf_amalgam.load("choice-rule-small", warmup_steps=0)
    none, two = keras.Variable(np.ones((0, 3))), keras.Variable(np.ones(2))
    optimizer.apply([tf.ones((0, 3)), tf.ones(2)], [none, two])
    told = optimizer.mixing_weights()
    assert [w.shape for w in told.values()] == [(0, 3, 2), (2, 2)]


def test_hard_variant_takes_one_member_and_gumbel_noise_in_training():
    rule = Choice(pool=POOL, hardness=10.0)
    weights = {k: 3.0 * v for k, v in rule.init_weights(1).items()}
    g = tf.constant(np.random.default_rng(0).normal(size=LAYOUT.size), tf.float32)
    arguments = (weights, g, g, rule.init_state(LAYOUT), LAYOUT, tf.constant(1.0))
    used = rule.mix(*arguments).weights_KP.numpy()
    assert set(np.unique(used)) <= {0.0, 1.0}
    np.testing.assert_array_equal(used.sum(0), 1.0)
    assert rule.noise_shape(LAYOUT) == (3, LAYOUT.size)
    half = np.full((3, LAYOUT.size), 0.5, "float32")
    soft = Choice(pool=POOL).mix(*arguments).weights_KP.numpy()
    sharp = rule.mix(*arguments, noise=half).weights_KP.numpy()
    # Equal noise for all shifts the logits alike: a softmax at temperature 1/10.
    np.testing.assert_allclose(
        sharp, soft**10 / np.sum(soft**10, 0, keepdims=True), rtol=1e-3, atol=1e-6
    )
    low = half.copy()
    low[0] = 1.0 - 1e-6  # a huge Gumbel number: the first member wins everywhere
    np.testing.assert_allclose(rule.mix(*arguments, noise=low).weights_KP[0], 1.0)


def test_learned_rates_start_at_one():
    plain, scaled = Choice(pool=POOL), Choice(pool=POOL, rate_range=2.0)
    g = tf.constant(np.random.default_rng(0).normal(size=LAYOUT.size), tf.float32)

    def delta(rule, weights):
        state = rule.init_state(LAYOUT)
        return rule.update(weights, g, g, state, LAYOUT, tf.constant(1.0))[0]

    weights = scaled.init_weights(0)
    np.testing.assert_array_equal(
        delta(scaled, weights), delta(plain, plain.init_weights(0))
    )
    weights["rate/bias"] = np.full(3, 50.0, "float32")  # tanh = 1
    np.testing.assert_allclose(
        delta(scaled, weights),
        np.exp(2.0) * delta(plain, plain.init_weights(0)),
        rtol=1e-5,
    )


def test_rates_may_begin_with_a_rule_without_any():
    plain, scaled = Choice(pool=POOL), Choice(pool=POOL, rate_range=2.0)
    weights = plain.init_weights(3)
    begun = scaled.weights_of(plain, weights)
    assert begun.keys() == scaled.init_weights(0).keys()
    for name, value in begun.items():
        expected = weights.get(name, np.zeros_like(value))
        np.testing.assert_array_equal(value, expected, name)
    assert scaled.weights_of(scaled, begun) == begun
    assert plain.weights_of(plain, weights) == weights
    for other in (scaled, Choice(pool=POOL[:2]), Choice(pool=POOL, units=4)):
        assert plain.weights_of(other, weights) is None
        assert other is scaled or scaled.weights_of(other, weights) is None


def test_learned_rates_follow_the_time():
    """From 1 on, each member's in its own way, by the logarithm of a time."""
    plain, scaled = Choice(pool=POOL), Choice(pool=POOL, rate_range=2.0)
    g = tf.constant(np.random.default_rng(0).normal(size=LAYOUT.size), tf.float32)
    weights = scaled.init_weights(0)
    weights["rate/time"] = slopes = np.array([-0.5, 0.0, 0.25], "float32")
    state = plain.init_state(LAYOUT)
    for done in (0, 100, 1000):
        arguments = (g, g, state, LAYOUT, tf.constant(1.0 + done))
        moved = [
            member.update({}, *arguments[:2], s, *arguments[3:])[0]
            for member, s in zip(POOL, state.pool, strict=True)
        ]
        mixed = plain.mix(plain.init_weights(0), *arguments).weights_KP
        rates = np.exp(2.0 * np.tanh(slopes * np.log(1.0 + done / 100.0)))
        expected = np.sum(mixed * np.stack(moved) * rates[:, None], axis=0)
        found = scaled.update(weights, *arguments)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-8)


def test_rates_may_begin_to_fall_with_time():
    """As (1 + t/rate_time)^(-rate_decay), also those of a rule trained without any."""
    plain = Choice(pool=POOL)
    falling = Choice(pool=POOL, rate_range=3.0, rate_time=1000.0, rate_decay=0.5)
    g = tf.constant(np.random.default_rng(0).normal(size=LAYOUT.size), tf.float32)
    learned = plain.init_weights(3)
    weights = falling.weights_of(plain, learned)
    assert Choice(**falling.get_config()) == falling
    for done in (0, 300, 5000):
        arguments = (g, g, plain.init_state(LAYOUT), LAYOUT, tf.constant(1.0 + done))
        expected = plain.update(learned, *arguments)[0] / np.sqrt(1.0 + done / 1000.0)
        found = falling.update(weights, *arguments)[0]
        np.testing.assert_allclose(found, expected, rtol=0.03, atol=1e-8)


def test_one_huge_gradient_does_not_lose_a_coordinate():
    rule = Choice(rate_range=3.0, rate_agreement=0.5)
    layout, state = Layout(("bias",), ((2,),)), None
    weights = rule.init_weights(0)
    state = rule.init_state(layout)
    params_P = np.ones(2, "float32")
    for step, g in enumerate([1.0, 1e25, 1.0], 1):
        grads_P = np.array([g, 1.0], "float32")
        delta_P, state = rule.update(
            weights, grads_P, params_P, state, layout, np.float32(step)
        )
        assert np.isfinite(np.asarray(delta_P)).all()
    assert np.abs(np.asarray(delta_P)[1]) > 0.0


def test_rates_may_begin_to_follow_how_far_gradients_agree():
    """Three coordinates: gradients that agree, know nothing of others, take turns."""
    blind = Choice(pool=POOL, rate_range=3.0, rate_decay=0.5)
    rule = dataclasses.replace(blind, rate_agreement=0.6)
    assert Choice(**rule.get_config()) == rule
    assert "rate_agreement" not in blind.get_config()  # as in records of before
    learned = {**blind.init_weights(3), "rate/bias": np.full(3, 0.1, "float32")}
    weights = rule.weights_of(blind, learned)
    assert weights.keys() == rule.init_weights(0).keys()
    np.testing.assert_array_equal(weights["rate/bias"], learned["rate/bias"])
    np.testing.assert_allclose(weights["rate/agreement"], 0.2)
    plain = Choice(pool=POOL)
    begun = rule.weights_of(plain, plain.init_weights(3))
    assert begun.keys() == weights.keys()
    assert blind.weights_of(rule, weights) is None

    layout = Layout(("a",), ((300,),))
    steps = 400
    noise = np.random.default_rng(0).normal(size=(steps, 100))
    grads = np.concatenate(
        [
            np.full((steps, 100), 0.3),
            noise,
            np.outer((-1.0) ** np.arange(steps), np.full(100, 0.3)),
        ],
        axis=1,
    ).astype("float32")
    seen, unseen = rule.init_state(layout), blind.init_state(layout)
    m = squares = agreed = np.zeros(300)
    for i, g in enumerate(grads):
        m = 0.9 * m + 0.1 * g
        squares = 0.98 * squares + 0.02 * g**2
        agreed = 0.98 * agreed + 0.02 * m**2
        if i < steps - 1:
            step = tf.constant(i + 1.0)
            seen = rule.observe(tf.constant(g), seen, step)
            unseen = blind.observe(tf.constant(g), unseen, step)
    arguments = (layout, tf.constant(float(steps)))
    g = tf.constant(grads[-1])
    found, seen = rule.update(weights, g, g, seen, *arguments)
    expected, _ = blind.update(learned, g, g, unseen, *arguments)
    np.testing.assert_allclose(seen.agreement.agreed, agreed, rtol=1e-3)
    kernel = 0.1 - 0.5 / 3.0 * np.log(1.0 + (steps - 1) / 100.0)
    independent = 0.1 / 1.9
    told = 0.5 * np.log((agreed / independent) / squares)
    ratio = np.exp(3.0 * (np.tanh(kernel + 0.2 * told) - np.tanh(kernel)))
    np.testing.assert_allclose(found / expected, ratio, rtol=1e-3)
    together, apart, turns = np.split(told, 3)
    assert together.min() > 1.4
    assert abs(apart.mean()) < 0.2
    assert turns.max() < -1.4


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": 1},
        {"hardness": 3.0},
        {"rate_range": 1.0, "rate_time": 2.0, "rate_decay": 0.5},
        {"rate_range": 1.0, "rate_agreement": 0.5},
    ],
)
def test_meta_gradient_of_a_choice_rule(float64, options):
    rule = Choice(pool=POOL, units=4, **options)
    who = Players(rule, (), ())
    error, size = directional_error(helpers.tiny_task(), who, Objective())
    assert size > 1e-4
    assert error < 1e-6


@pytest.mark.parametrize("forcing", [False, True])
def test_meta_gradient_beside_a_choice_teacher(float64, forcing):
    teacher = Choice(pool=POOL, units=4)
    student = make_rule("rnnprop")
    who = Players(student, (teacher,), (helpers.weights_of(teacher, 5),))
    objective = Objective(
        scheme="choice", alpha=0.3, segment=3, teacher_forcing=forcing
    )
    error, _ = directional_error(helpers.tiny_task(), who, objective)
    assert error < 1e-6


SMALL = {
    "truncation_steps": 5,
    "stages": ((5, 1), (10, 1)),
    "choice_stages": ((5, 1), (10, 1)),
    "period": 1,
    "meta_batch": 2,
    "scaling": 1.0,
    "warmup_steps": 2,
    "validation_optimizees": 1,
    "replicas": 1,
    "progress": False,
    "scheme": "choice",
}


@pytest.fixture(scope="module")
def seen():
    """The players of every truncation that `finished` has traced, in order."""
    return []


@pytest.fixture(scope="module")
def finished(tmp_path_factory, seen):
    folder, original = tmp_path_factory.mktemp("choice"), meta_step.truncation

    def spy(task, players, *arguments, **options):
        seen.append(players)
        return original(task, players, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meta_step, "truncation", spy)
        amalgam = tf_amalgam.amalgamate(helpers.tiny_task(), workdir=folder, **SMALL)
    return amalgam, folder


def test_one_call_trains_the_choice_rule_and_the_student(finished):
    amalgam, folder = finished
    assert amalgam.finished
    assert amalgam.choice.finished
    rule, weights, header = saved.read(folder / "choice")
    assert [m.name for m in rule.pool] == ["adam", "rmsprop"]
    np.testing.assert_array_equal(
        helpers.flat(weights), helpers.flat(amalgam.choice.weights)
    )
    fresh = helpers.flat(saved.read(folder / "choice" / "untrained.npz")[1])
    assert np.any(helpers.flat(weights) != fresh)
    assert header["about"]["alpha"] == 0.0
    # The time of both halves (the paper's Table 4 counts so).
    assert amalgam.about["seconds"] > amalgam.choice.about["seconds"] > 0.0
    # The student's distance is to that teacher, which moves as that rule does.
    assert "distance/choice" in amalgam.history[0]
    assert [t["rule"] for t in amalgam.about["teachers"]] == ["choice"]
    assert "choice/" in (folder / "README.md").read_text()


def test_the_teacher_is_the_trained_rule(finished, seen):
    """Its weights in the truncation are the best ones of the first half."""
    amalgam, _ = finished
    assert seen[0].teachers == ()
    assert seen[-1].teachers == (amalgam.choice.rule,)
    np.testing.assert_array_equal(
        helpers.flat(seen[-1].teacher_weights), helpers.flat(amalgam.choice.weights)
    )


def test_mixing_weights_are_written_and_drawn(finished):
    amalgam, folder = finished
    rows = files.read_csv(folder / "choice" / "mixing.csv")
    assert len(rows) == 10 * 4  # steps of a validation × tensors
    assert {row["tensor"] for row in rows} == set(helpers.tiny_task().layout.titles)
    for row in rows:
        assert row["adam"] + row["rmsprop"] == pytest.approx(1.0)
    last = amalgam.choice.validations[-1]
    assert last["mixing/adam"] + last["mixing/rmsprop"] == pytest.approx(1.0)
    assert (folder / "choice" / "mixing.png").stat().st_size > 1000
    assert not (folder / "mixing.csv").exists()


def mixed_by_hand(task, rule, weights, carry, batches):
    """Returns `[T, N, K]`: one step after another, each tensor's own coordinates."""
    theta, state = carry.start_params_P.numpy(), carry.student.rule_state
    scale = carry.scale_P.numpy()
    borders = np.cumsum([0, *(np.prod(shape) for shape in task.layout.shapes)])
    trace = []
    for t in range(len(batches[0])):
        batch = tuple(part[t] for part in batches)
        _, g, _ = task.value_and_grad(tf.constant(theta), (), batch)
        step = tf.cast(carry.step + t + 1, tf.float32)
        mixture = rule.mix(weights, scale * g, theta / scale, state, task.layout, step)
        used = mixture.weights_KP.numpy()
        ends = itertools.pairwise(borders)
        trace.append([used[:, start:end].mean(axis=1) for start, end in ends])
        theta = theta + scale * mixture.delta_P.numpy()
        state = mixture.state
    return np.array(trace)


def test_mixing_trace_is_the_mix_of_each_step():
    """By step, tensor and member, which all differ by far more than the tolerance."""
    task, rule = helpers.tiny_task(), Choice(pool=POOL, units=6)
    generator = np.random.default_rng(8)
    weights = {
        k: tf.constant(v + 2.0 * generator.normal(size=v.shape), tf.float32)
        for k, v in rule.init_weights(2).items()
    }
    carry = helpers.started(task, Players(rule, (), ()))
    batches = helpers.constants(task.minibatches(4, 3, 6))
    expected = mixed_by_hand(task, rule, weights, carry, batches)
    assert expected.shape == (6, 4, 3)
    for axis in range(3):  # no two steps, tensors or members are alike
        pairs = itertools.combinations(np.moveaxis(expected, axis, 0), 2)
        assert min(np.abs(one - other).max() for one, other in pairs) > 3e-3
    found = alone.mixing_trace(task, rule, weights, carry, batches)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_mixing_rows_and_shares_are_those_of_the_trace(finished, tmp_path):
    """The file's rows by step, tensor and member; a validation's means over both."""
    trace = np.random.default_rng(0).uniform(size=(3, 2, 2))
    folder = workdir.Workdir(tmp_path, finished[0].about)
    folder.save_mixing(trace, ("kernel", "bias"), ("adam", "sgd"), "mixing.csv")
    rows = files.read_csv(tmp_path / "mixing.csv")
    assert [(row["step"], row["tensor"]) for row in rows] == [
        (t, name) for t in (1, 2, 3) for name in ("kernel", "bias")
    ]
    found = [[row["adam"], row["sgd"]] for row in rows]
    np.testing.assert_allclose(np.reshape(found, trace.shape), trace, rtol=1e-6)
    mixer, folder = finished[0].choice, finished[1] / "choice"
    rows = files.read_csv(folder / "mixing.csv")
    validations = [row for row in mixer.validations if row["stage"] == 1]
    best = min(validations, key=lambda row: row["score"])
    for name in ("adam", "rmsprop"):
        mean = np.mean([row[name] for row in rows])
        assert mean == pytest.approx(best[f"mixing/{name}"], rel=1e-5)


def test_interrupted_in_either_half_it_continues(finished, tmp_path, monkeypatch):
    whole, _ = finished
    for _ in range(2):  # 3 updates of the Choice rule, then 3 of the student
        with helpers.interrupted_after(2):
            tf_amalgam.amalgamate(helpers.tiny_task(), workdir=tmp_path, **SMALL)
    again = tf_amalgam.amalgamate(helpers.tiny_task(), workdir=tmp_path, **SMALL)
    np.testing.assert_array_equal(
        helpers.flat(again.weights), helpers.flat(whole.weights)
    )
    assert again.history == whole.history
    assert again.choice.history == whole.choice.history
    # Both are over, and need no checkpoints any more.
    for part in (tmp_path, tmp_path / "choice"):
        shutil.rmtree(part / "checkpoints")
    monkeypatch.setattr(Trainer, "step", None)
    over = tf_amalgam.amalgamate(helpers.tiny_task(), workdir=tmp_path, **SMALL)
    for found, expected in ((over, again), (over.choice, again.choice)):
        assert found.finished
        np.testing.assert_array_equal(
            helpers.flat(found.weights), helpers.flat(expected.weights)
        )


def test_a_shared_choice_rule_is_taken_as_it_is(finished, tmp_path):
    first, folder = finished
    amalgam = tf_amalgam.amalgamate(
        helpers.tiny_task(), workdir=tmp_path, choice=folder / "choice", **SMALL
    )
    assert amalgam.choice is None
    assert amalgam.about["teachers"][0]["sha256"]
    assert not (tmp_path / "choice").exists()
    np.testing.assert_array_equal(
        helpers.flat(amalgam.weights), helpers.flat(first.weights)
    )


def test_a_choice_rule_is_given_by_what_differs(tmp_path):
    with helpers.interrupted_after(1):
        tf_amalgam.amalgamate(
            helpers.tiny_task(),
            workdir=tmp_path,
            preset="released",
            choice={"rate_range": 3.0},
            **SMALL,
        )
    rule, weights, _ = saved.read(tmp_path / "choice")
    pool = rules.choice_pool("small", "released")
    assert rule == Choice(pool=pool, rate_range=3.0)
    assert np.any(weights["rate/bias"])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"pool": POOL}, "give that as teachers"),
        ({"rate": 3.0}, "Its hyperparameters: pool, units, .*rate_range"),
        ({"rate_range": -1.0}, "rate_range must be a finite number from 0"),
    ],
)
def test_choice_fields_out_of_place(choice, message):
    with pytest.raises(ValueError, match=message):
        tf_amalgam.amalgamate(helpers.tiny_task(), choice=choice, **SMALL)


def test_a_choice_rule_is_trained_without_random_scaling(finished):
    """The amalgamation target alone is scaled (C.3), unless said otherwise."""
    clean, _ = finished
    assert (clean.settings.scaling, clean.choice.settings.scaling) == (1.0, 0.0)
    scaled = tf_amalgam.amalgamate(helpers.tiny_task(), choice_scaling=1.0, **SMALL)
    assert scaled.choice.settings.scaling == 1.0
    assert scaled.choice.history != clean.choice.history


@pytest.mark.slow
def test_each_replicate_has_its_own(finished):
    runs = [
        tf_amalgam.amalgamate(helpers.tiny_task(), replicate=i, **SMALL) for i in (0, 1)
    ]
    starts = [run.choice.history[0]["first_loss"] for run in (*runs, finished[0])]
    assert len(set(starts)) == 3


def test_it_is_a_keras_optimizer(finished):
    """The Keras optimizer walks as the pure rule does, from file to fit."""
    _, folder = finished
    optimizer = tf_amalgam.load(folder / "choice", warmup_steps=2)
    assert type(optimizer).__name__ == "Choice"
    task = helpers.tiny_task()
    model = task.build_model(0)
    model.compile(optimizer=optimizer, loss=task.compile_arguments()["loss"])
    x, y = task.dataset.train
    model.fit(x[:40], y[:40], batch_size=8, shuffle=False, verbose=0)
    rule, weights, header = saved.read(folder / "choice")
    theta = tf.constant(task.initial(0)[0])
    state = rule.init_state(task.layout)
    for t in range(5):
        batch = (x[8 * t : 8 * t + 8], y[8 * t : 8 * t + 8])
        _, g, _ = task.value_and_grad(theta, (), batch)
        step = tf.constant(float(t + 1))
        if t < 2:
            state = rule.observe(g, state, step)
            theta -= header["warmup_learning_rate"] * g
        else:
            delta, state = rule.update(weights, g, theta, state, task.layout, step)
            theta += delta
    found = np.concatenate([np.ravel(v) for v in model.get_weights()])
    np.testing.assert_allclose(found, theta, rtol=1e-5, atol=1e-6)


def test_it_finds_the_best_member_of_a_quadratic_pool():
    """One member's rate suits the quadratic, the other crawls."""
    good, slow = rules.SGD(learning_rate=1.0), rules.SGD(learning_rate=1e-3)
    amalgam = tf_amalgam.amalgamate(
        tasks.quadratic(dimensions=5, condition=2.0),
        student=Choice(pool=(slow, good), units=8),
        teachers=(),
        stages=((20, 4),),
        truncation_steps=20,
        period=5,
        meta_batch=2,
        meta_learning_rate=0.02,
        scaling=0.0,
        warmup_steps=0,
        validation_optimizees=1,
        progress=False,
    )
    first, last = amalgam.validations[0], amalgam.validations[-1]
    assert 0.3 < first["mixing/sgd_2"] < 0.7
    assert last["mixing/sgd_2"] > 0.9
    assert last["score"] < first["score"] - 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": ()}, "at least two analytic rules"),
        ({"pool": POOL[:1]}, "at least two analytic rules"),
        ({"pool": (*POOL, rules.RNNProp())}, "at least two analytic rules"),
        ({"pool": (*POOL, POOL[0])}, "stands twice in the pool"),
        (
            {"pool": POOL, "hardness": math.inf},
            "hardness must be a finite number from 0",
        ),
        (
            {"pool": POOL, "rate_range": math.nan},
            "rate_range must be a finite number from 0",
        ),
        ({"pool": POOL, "hardness": -1.0}, "hardness must be a finite number from 0"),
        (
            {"pool": POOL, "rate_range": -1.0},
            "rate_range must be a finite number from 0",
        ),
        (
            {"pool": POOL, "rate_decay": -1.0},
            "rate_decay must be a finite number from 0",
        ),
        (
            {"pool": POOL, "rate_agreement": -1.0},
            "rate_agreement must be a finite number from 0",
        ),
        ({"pool": POOL, "rate_time": 0.0}, "rate_time must be a finite number above 0"),
        (
            {"pool": POOL, "rate_agreement": 0.5},
            "rate_agreement=0.5 is of learned rates",
        ),
        (
            {"pool": POOL, "rate_decay": 0.5},
            "of learned rates, of which there are none",
        ),
        ({"pool": POOL, "layers": 0}, "layers must be a finite number above 0"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        Choice(**options)
