"""Scale against NumPy, tensor by tensor, and by what each level can and cannot know."""

import keras
import numpy as np
import pytest

import tf_amalgam
from tests import helpers, test_meta_gradient
from tf_amalgam.layout import Layout
from tf_amalgam.objective import Objective
from tf_amalgam.rules import Scale
from tf_amalgam.rules.gru import gru_step, init_gru

LAYOUT = Layout(("a", "b", "c"), ((3, 2), (4,), ()))
SIZES = (6, 4, 1)
STEPS = 6
PARTS = ("kernel", "recurrent_kernel", "bias")
FIRST, SECOND = slice(0, 6), slice(6, 10)  # coordinates of the first two tensors


def gradients(layout=LAYOUT):
    generator = np.random.default_rng(1)
    size = np.geomspace(1e-3, 30, layout.size)
    return generator.normal(size=(STEPS, layout.size)) * size


def trained(rule, amount=0.2):
    """Returns float64 weights off the fresh ones: every head says something."""
    generator = np.random.default_rng(2)
    return {
        k: v.astype("float64") + amount * generator.normal(size=v.shape)
        for k, v in rule.init_weights(3).items()
    }


def trajectory(rule, weights, grads, layout=LAYOUT):
    state, deltas, states = rule.init_state(layout, "float64"), [], []
    for t, g in enumerate(grads, start=1):
        delta, state = rule.update(
            weights, g, np.zeros(layout.size), state, layout, np.float64(t)
        )
        deltas.append(np.asarray(delta))
        states.append(state)
    return np.stack(deltas), states


def test_gru_equals_keras(float64):
    weights = {k: v.astype("float64") for k, v in init_gru("g", 3, 5, 7).items()}
    weights["g/bias"] = np.random.default_rng(0).normal(size=(2, 15))
    cell = keras.layers.GRUCell(5)
    cell.build((None, 3))
    cell.set_weights([weights[f"g/{p}"] for p in PARTS])
    generator = np.random.default_rng(1)
    hidden, theirs = np.zeros((5, 4)), [keras.ops.zeros((4, 5), "float64")]
    for _ in range(4):
        x = generator.normal(size=(4, 3))
        hidden = gru_step(x.T, hidden, *(weights[f"g/{p}"] for p in PARTS))
        _, theirs = cell(keras.ops.convert_to_tensor(x), theirs)
    assert np.abs(hidden).max() > 0.1
    np.testing.assert_allclose(hidden, theirs[0].numpy().T, rtol=1e-12)


def test_fresh_gru_is_drawn_as_keras_draws():
    weights = init_gru("g", 3, 5, 7)
    shapes = {k: v.shape for k, v in weights.items()}
    cell = keras.layers.GRUCell(5)
    cell.build((None, 3))
    assert list(shapes.values()) == [tuple(w.shape) for w in cell.weights]
    recurrent = weights["g/recurrent_kernel"]
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(5), atol=1e-6)
    np.testing.assert_array_equal(weights["g/bias"], 0.0)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def numpy_gru(x, h, weights, name):
    w, u, (b, c) = (weights[f"{name}/{p}"] for p in PARTS)
    n = len(u)
    z = sigmoid(x @ w[:, :n] + b[:n] + h @ u[:, :n] + c[:n])
    r = sigmoid(x @ w[:, n : 2 * n] + b[n : 2 * n] + h @ u[:, n : 2 * n] + c[n : 2 * n])
    new = np.tanh(x @ w[:, 2 * n :] + b[2 * n :] + r * (h @ u[:, 2 * n :] + c[2 * n :]))
    return z * h + (1 - z) * new


def numpy_scale(weights, grads):
    """Yields deltas `[P]`: the method once more, in NumPy, one tensor after another."""

    def head(h, name):
        return (h @ weights[f"{name}/kernel"] + weights[f"{name}/bias"])[:, 0]

    whole = np.zeros(10)
    tensors = [
        {
            "m": [np.zeros(n)] * 4,
            "v": [np.zeros(n)] * 4,
            "h": np.zeros((n, 20)),
            "up": np.zeros(10),
            "eta": np.full(n, np.log(1e-3)),
            "rel": np.zeros(n),
        }
        for n in SIZES
    ]
    gamma = sigmoid(weights["rate_momentum"])
    for g_P in grads:
        deltas = []
        for t, g in zip(tensors, np.split(g_P, np.cumsum(SIZES)[:-1]), strict=True):
            n = len(g)
            b1, b2 = sigmoid(head(t["h"], "beta_1")), sigmoid(head(t["h"], "beta_2"))
            powers = [0.5**s for s in range(4)]
            t["m"] = [
                b1**p * m + (1 - b1**p) * g for p, m in zip(powers, t["m"], strict=True)
            ]
            t["v"] = [
                b2**p * v + (1 - b2**p) * g**2
                for p, v in zip(powers, t["v"], strict=True)
            ]
            pairs = zip(t["m"], t["v"], strict=True)
            scaled = np.stack([m / np.sqrt(v + 1e-10) for m, v in pairs], 1)
            logs = np.stack([np.log(v + 1e-10) for v in t["v"]], 1)
            x = np.concatenate(
                [
                    scaled,
                    logs - logs.mean(1, keepdims=True),
                    t["rel"][:, None],
                    np.tile(t["up"], (n, 1)),
                    np.tile(whole, (n, 1)),
                ],
                1,
            )
            t["h"] = numpy_gru(x, t["h"], weights, "parameter")
            seen = np.concatenate([t["h"].mean(0), whole])
            t["up"] = numpy_gru(seen, t["up"], weights, "tensor")
            eta = t["eta"] + head(t["h"], "rate_change")
            t["eta"] = gamma * t["eta"] + (1 - gamma) * eta
            t["rel"] = eta - eta.mean()
            direction = head(t["h"], "direction") + head(scaled, "shortcut")
            deltas.append(-(np.exp(eta) + 1e-2) * direction)
        whole = numpy_gru(
            np.mean([t["up"] for t in tensors], 0), whole, weights, "global"
        )
        yield np.concatenate(deltas)


def test_against_numpy():
    rule = Scale()
    weights, grads = trained(rule), gradients()
    ours, _ = trajectory(rule, weights, grads)
    assert np.abs(ours).max() > 1e-3
    np.testing.assert_allclose(ours, list(numpy_scale(weights, grads)), rtol=1e-8)


def test_weight_count():
    count = lambda rule: sum(w.size for w in rule.init_weights(0).values())  # noqa: E731
    assert count(Scale()) == 5070
    assert count(Scale(shortcut=False)) == 5065


def test_state_has_a_column_for_each_tensor_and_one_for_all():
    state = Scale().init_state(LAYOUT)
    assert state.hidden_parameter.shape == (20, 11)
    assert state.hidden_tensor.shape == (10, 3)
    assert state.hidden_global.shape == (10, 1)
    numbers = sum(np.size(part) for part in state) - 3 * 10 - 10
    assert 4 * numbers / LAYOUT.size == 120  # bytes a parameter, as its docs say


@pytest.mark.parametrize("shortcut", [True, False])
def test_fresh_weights_move_nothing_but_are_not_asleep(shortcut):
    """Zero direction heads, shortcut or not; states follow all the same."""
    rule = Scale(shortcut=shortcut)
    weights = {k: v.astype("float64") for k, v in rule.init_weights(0).items()}
    deltas, states = trajectory(rule, weights, gradients())
    np.testing.assert_array_equal(deltas, 0.0)
    assert np.abs(states[-1].hidden_global).max() > 1e-3


def test_decays_start_at_beta_and_its_roots():
    """One timescale after another averages over twice the time: .9, √.9, ⁴√.9, …"""
    rule = Scale()
    weights = {k: v.astype("float64") for k, v in rule.init_weights(0).items()}
    grads = gradients()
    state = trajectory(rule, weights, grads)[1][-1]
    for found, power, beta in ((state.m, 1, 0.9), (state.v, 2, 0.999)):
        expected = np.zeros((4, 11))
        for g in grads:
            for s in range(4):
                decay = beta ** (1.0 / 2**s)
                expected[s] = decay * expected[s] + (1 - decay) * g**power
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_step_is_direction_times_rate():
    """A constant direction: every step is −(exp(log .001) + .01)·direction."""
    rule = Scale(shortcut=False)
    weights = {k: v.astype("float64") for k, v in rule.init_weights(0).items()}
    weights["direction/bias"] = np.array([2.0])
    deltas, _ = trajectory(rule, weights, gradients())
    np.testing.assert_allclose(deltas, -0.022, rtol=1e-6)


def test_log_rates_accumulate_through_the_gate():
    """Δη = .5 at each step: η̄ grows by (1 − σ(γ))·.5, η runs .5 ahead of it."""
    rule = Scale(rate_momentum_logit=0.0)
    weights = {k: v.astype("float64") for k, v in rule.init_weights(0).items()}
    weights["rate_change/bias"] = np.array([0.5])
    weights["direction/bias"] = np.array([1.0])
    deltas, states = trajectory(rule, weights, gradients())
    np.testing.assert_allclose(states[3].log_rate, np.log(1e-3) + 4 * 0.25)
    np.testing.assert_allclose(
        deltas[3], -(1e-3 * np.exp(3 * 0.25 + 0.5) + 0.01), rtol=1e-6
    )
    np.testing.assert_allclose(states[3].relative_log_rate, 0.0, atol=1e-12)


def cut(weights, inputs, name, rows):
    """Returns the weights with some inputs of a unit ignored."""
    kernel = weights[f"{name}/kernel"].copy()
    assert len(kernel) == inputs
    kernel[rows] = 0.0
    return {**weights, f"{name}/kernel": kernel}


def effect(weights):
    """Returns where a changed gradient of the first tensor's first coordinate shows."""
    rule, grads = Scale(), gradients()
    changed = grads.copy()
    changed[:, 0] += 1.0
    ends = [trajectory(rule, weights, g)[0] for g in (grads, changed)]
    return ends[0] != ends[1]


def test_news_travels_one_level_a_step():
    """Own coordinate at once, its tensor and all others one step later."""
    different = effect(trained(Scale()))
    assert different[0, 0]
    assert not different[0, 1:].any()
    assert different[1].all()


def test_tensors_know_each_other_through_the_global_unit_alone():
    weights = trained(Scale())
    deaf = cut(weights, 29, "parameter", slice(19, 29))
    deaf = cut(deaf, 30, "tensor", slice(20, 30))
    different = effect(deaf)
    assert different[1:, FIRST].all()
    assert not different[:, 6:].any()


def test_coordinates_know_each_other_through_units_above_alone():
    """And through the relative learning rate."""
    deaf = cut(trained(Scale()), 29, "parameter", slice(8, 29))
    different = effect(deaf)
    assert different[:, 0].all()
    assert not different[:, 1:].any()


def test_a_tensor_without_coordinates_changes_nothing_but_the_count():
    rule = Scale()
    layout = Layout(("none", "bias"), ((0,), (3,)))
    weights, state = rule.init_weights(0), rule.init_state(layout)
    rng = np.random.default_rng(0)
    for step in range(1, 4):
        grads_P = rng.normal(size=3).astype("float32")
        delta_P, state = rule.update(
            weights, grads_P, np.ones(3, "float32"), state, layout, np.float32(step)
        )
    assert np.isfinite(np.asarray(delta_P)).all()


def test_permuted_tensors_give_the_permuted_step():
    rule = Scale()
    weights, grads = trained(rule), gradients()
    swapped = Layout(("b", "a", "c"), ((4,), (3, 2), ()))
    order = np.r_[6:10, 0:6, 10]
    plain, _ = trajectory(rule, weights, grads)
    ours, _ = trajectory(rule, weights, grads[:, order], swapped)
    np.testing.assert_allclose(ours, plain[:, order], rtol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timescales": 0}, "timescales must be a finite number above 0"),
        ({"beta_2": 1.0}, r"beta_2 must be in \[0, 1\)"),
        ({"beta_1": 0.0}, "beta_1 must be a finite number above 0"),
    ],
)
def test_mistakes_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        Scale(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"segment": 1},
        pytest.param({"segment": 3}, marks=pytest.mark.slow),
        {"teacher_forcing": True},
    ],
)
def test_meta_gradient_equals_finite_differences(float64, monkeypatch, options):
    """Through a whole truncation, whose rule states have rows of three kinds."""
    weights = helpers.constants(trained(Scale(), 0.1))
    monkeypatch.setattr(helpers, "weights_of", lambda rule: weights)
    who = helpers.players(student="scale")
    error, size = test_meta_gradient.directional_error(
        helpers.tiny_task(), who, Objective(alpha=0.3, **options)
    )
    assert size > 1e-3
    assert error < 1e-6


def steps_of_keras(weights, shapes, grads):
    """Returns the variables after the Keras optimizer's steps; None is no gradient."""
    variables = [keras.Variable(np.zeros(shape)) for shape in shapes]
    weights = {k: v.astype("float32") for k, v in weights.items()}
    optimizer = tf_amalgam.Scale(weights, warmup_steps=0)
    optimizer.build(variables)
    for row in grads:
        optimizer.apply(row, variables)
    return [v.numpy() for v in variables]


def steps_of_rule(weights, shapes, grads):
    """Returns the same for the rule itself, on a layout of these tensors alone."""
    layout = Layout(tuple("abc")[: len(shapes)], shapes)
    flat = [
        np.concatenate([np.ravel(g) for g in row]).astype("float64") for row in grads
    ]
    deltas, _ = trajectory(Scale(), weights, flat, layout)
    return layout.split(deltas.sum(axis=0))


SHAPES = ((3, 2), (4,), ())


def rows_of_gradients():
    generator = np.random.default_rng(8)
    return [
        [generator.normal(size=shape).astype("float32") for shape in SHAPES]
        for _ in range(STEPS)
    ]


def test_keras_optimizer_equals_the_rule():
    weights, grads = trained(Scale()), rows_of_gradients()
    theirs = steps_of_rule(weights, SHAPES, grads)
    for found, expected in zip(
        steps_of_keras(weights, SHAPES, grads), theirs, strict=True
    ):
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_keras_optimizer_leaves_a_tensor_without_gradient_alone():
    """As if the others were the whole model."""
    weights, grads = trained(Scale()), rows_of_gradients()
    without = [[a, None, c] for a, _, c in grads]
    first, second, third = steps_of_keras(weights, SHAPES, without)
    np.testing.assert_array_equal(second, 0.0)
    expected = steps_of_rule(
        weights, (SHAPES[0], SHAPES[2]), [[a, c] for a, _, c in grads]
    )
    np.testing.assert_allclose(first, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(third, expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_it_learns_a_family_of_quadratics():
    """Of four seeds the means were 3.5 to 3.9, the least of any member 1.6."""
    task = helpers.quadratics()
    amalgam = tf_amalgam.amalgamate(task, student="scale", **helpers.FAMILY_LESSON)
    assert abs(amalgam.validations[0]["score"]) < 1e-6  # fresh weights move nothing
    gains = helpers.gains_on_fresh_members(amalgam, task)
    assert np.mean(gains) > 2.5
    assert np.min(gains) > 0.8
