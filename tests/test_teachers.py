"""Each teacher, step by step, against NumPy and against Keras' own optimizers."""

import keras
import numpy as np
import pytest

import tf_amalgam
from tf_amalgam import rules
from tf_amalgam.layout import Layout

LAYOUT = Layout(("w",), ((6,),))
STEPS = 12
B1, B2, EPS = 0.9, 0.999, 1e-10


def gradients():
    """Gradients whose size, sign and noise differ by coordinate and time."""
    generator = np.random.default_rng(0)
    drift = np.array([3.0, -1.0, 0.1, 1e-3, 0.0, -20.0])
    noise = generator.normal(size=(STEPS, 6)) * np.abs(drift) * 0.8
    grads = drift + noise
    grads[:, 4] = 0.0
    return grads


def run(rule, grads):
    """Returns the deltas `[STEPS, P]` of a rule in float64."""
    state, deltas = rule.init_state(LAYOUT, "float64"), []
    for t, g in enumerate(grads, start=1):
        delta, state = rule.update({}, g, np.zeros(6), state, LAYOUT, np.float64(t))
        deltas.append(np.asarray(delta))
    return np.stack(deltas)


def moments(grads, normalizer, beta_1=B1, beta_2=B2):
    """Yields (g, m̂, v̂), written out once more in NumPy."""
    m, v = np.zeros(6), np.zeros(6)
    for t, g in enumerate(grads, start=1):
        m = m + (1 - beta_1) * (g - m)
        v = v + (1 - beta_2) * (g * g - v)
        one = {
            "bias_corrected": (1 - beta_1**t, 1 - beta_2**t),
            "constant": (1 - beta_1, 1 - beta_2),
            "none": (1.0, 1.0),
        }[normalizer]
        yield g, m / one[0], v / one[1]


def agreement(g, m, v):
    return np.tanh(m / np.sqrt(v + EPS)) * np.tanh(g / np.sqrt(v + EPS))


FORMULAS = {
    "sgd": lambda g, m, v: g,
    "momentum": lambda g, m, v: m,
    "rmsprop": lambda g, m, v: g / np.sqrt(v + EPS),
    "adam": lambda g, m, v: m / np.sqrt(v + EPS),
    "addsign": lambda g, m, v: g * (1 + agreement(g, m, v)),
    "powersign": lambda g, m, v: g * np.exp(agreement(g, m, v)),
}


@pytest.mark.parametrize("normalizer", ["bias_corrected", "constant", "none"])
@pytest.mark.parametrize("name", rules.TEACHERS)
def test_against_numpy(name, normalizer):
    options = {} if name == "sgd" else {"normalizer": normalizer}
    rule = rules.make_rule(name, learning_rate=0.3, **options)
    grads = gradients()
    expected = [-0.3 * FORMULAS[name](*row) for row in moments(grads, normalizer)]
    np.testing.assert_allclose(run(rule, grads), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("beta_2", [0.9, 0.99])
def test_rmsprop_decay_is_its_own(beta_2):
    rule = rules.RMSProp(learning_rate=0.3, beta_2=beta_2, normalizer="none")
    expected = [
        -0.3 * g / np.sqrt(v + EPS)
        for g, _, v in moments(gradients(), "none", B1, beta_2)
    ]
    np.testing.assert_allclose(run(rule, gradients()), expected, rtol=1e-9, atol=1e-13)


def keras_steps(optimizer, grads):
    """Returns the deltas `[STEPS, P]` of a Keras optimizer in float64."""
    variable = keras.Variable(np.zeros(6), dtype="float64")
    deltas, before = [], np.zeros(6)
    for g in grads:
        optimizer.apply([keras.ops.convert_to_tensor(g)], [variable])
        now = np.asarray(variable)
        deltas.append(now - before)
        before = now
    return np.stack(deltas)


# Keras adds its epsilon outside the root, so both are made negligible, and the
# coordinate without gradient left out.
TINY = 1e-30
MOVING = [0, 1, 2, 3, 5]
PAIRS = {
    "sgd": (rules.SGD(0.2), lambda: keras.optimizers.SGD(0.2)),
    # Keras' heavy ball sums: m = .9·m + lr·g; ours averages: 10 times smaller.
    "momentum": (
        rules.Momentum(0.2, normalizer="none"),
        lambda: keras.optimizers.SGD(0.02, momentum=0.9),
    ),
    "adam": (
        rules.Adam(0.2, beta_1=0.8, beta_2=0.95, epsilon=TINY),
        lambda: keras.optimizers.Adam(0.2, beta_1=0.8, beta_2=0.95, epsilon=TINY),
    ),
    "rmsprop": (
        rules.RMSProp(0.2, beta_2=0.9, epsilon=TINY, normalizer="none"),
        lambda: keras.optimizers.RMSprop(0.2, rho=0.9, epsilon=TINY),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_against_keras(float64, name):
    rule, reference = PAIRS[name]
    grads = gradients()
    ours, theirs = (
        run(rule, grads)[:, MOVING],
        keras_steps(reference(), grads)[:, MOVING],
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_against_optax():
    optax = pytest.importorskip("optax", reason="Optax is not installed")
    grads = gradients().astype("float32")
    pairs = [
        (rules.Adam(0.2, epsilon=1e-6), optax.adam(0.2, eps=0.0, eps_root=1e-6)),
        (
            rules.RMSProp(0.2, beta_2=0.9, epsilon=1e-6, normalizer="none"),
            optax.rmsprop(0.2, decay=0.9, eps=1e-6, eps_in_sqrt=True),
        ),
        (rules.Momentum(0.2, normalizer="none"), optax.sgd(0.02, momentum=0.9)),
        (rules.SGD(0.2), optax.sgd(0.2)),
    ]
    for rule, reference in pairs:
        state, expected = reference.init(np.zeros(6, "float32")), []
        for g in grads:
            delta, state = reference.update(g, state)
            expected.append(delta)
        np.testing.assert_allclose(run(rule, grads), expected, rtol=2e-4, atol=1e-7)


def test_smooth_signs_tend_to_signs():
    """Far from zero tanh is sign: AddSign doubles g where m and g agree (Eq. 7)."""
    grads = np.full((3, 6), 5.0)
    rule = rules.AddSign(1.0, normalizer="constant", beta_1=0.99)
    last = run(rule, grads)[-1]
    m_over_root = (5 * (1 - 0.99**3) / 0.01) / np.sqrt(25 * (1 - B2**3) / (1 - B2))
    assert last[0] == pytest.approx(
        -5 * (1 + np.tanh(m_over_root) * np.tanh(1 / np.sqrt(2.997001))), rel=1e-6
    )


def test_pools_and_presets():
    assert [r.name for r in rules.make_pool("small")] == ["adam", "rmsprop"]
    assert [r.name for r in rules.make_pool("large")] == list(rules.TEACHERS)
    paper, released = (rules.make_rule("rmsprop", p) for p in rules.PRESETS)
    assert (paper.beta_2, paper.normalizer) == (0.999, "bias_corrected")
    assert (released.beta_2, released.normalizer) == (0.9, "none")
    assert rules.make_rule("adam", "released").normalizer == "constant"
    assert rules.make_rule("adam").learning_rate == 0.005


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rules.make_pool(["adma"]), r"Unknown teacher 'adma'.*'adam'\?"),
        (lambda: rules.make_pool(["rnnprop"]), "Unknown teacher"),
        (
            lambda: rules.make_pool([tf_amalgam.Adam(0.003)]),
            r"Give its rule, tf_amalgam\.rules\.Adam\(learning_rate",
        ),
        (
            lambda: rules.make_pool([tf_amalgam.load("rnnprop")]),
            "A pool holds analytic rules.*received RNNProp",
        ),
        (lambda: rules.make_pool("tiny"), "Known: small, large"),
        (lambda: rules.make_pool([]), "at least one teacher"),
        (lambda: rules.make_pool(["adam", "adam"]), "twice"),
        (lambda: rules.make_rule("adam", "print"), "Unknown preset"),
        (lambda: rules.make_rule("adam", beta1=0.5), "Its hyperparameters: .*beta_1"),
        (
            lambda: rules.make_pool([rules.RNNProp(), "adam"]),
            r"A pool holds analytic rules \(sgd, .*received RNNProp\(",
        ),
        (lambda: rules.make_pool([rules.Choice()]), "scheme='choice' and choice="),
        (lambda: rules.Adam(-1.0), "learning_rate must be a finite number above 0"),
        (lambda: rules.Adam(float("nan")), "finite number above 0, received nan"),
        (lambda: rules.Adam(float("inf")), "finite number above 0, received inf"),
        (lambda: rules.SGD(float("-inf")), "finite number above 0, received -inf"),
        (lambda: rules.Adam(0.1, epsilon=float("nan")), "epsilon must be a finite"),
        (lambda: rules.Adam(0.1, beta_2=1.0), r"beta_2 must be in \[0, 1\)"),
        (rules.Adam, r"Adam needs a learning_rate(?s:.)*grid-search"),
        (lambda: rules.Adam(0.1, epsilon=0.0), "epsilon"),
        (
            lambda: rules.Adam(learning_rate=0.1, normalizer="hat"),
            "normalizer must be one of",
        ),
        (lambda: rules.RNNProp(units=0), "units"),
        (lambda: rules.rule_class("lstm"), "Unknown rule"),
    ],
)
def test_mistakes_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()
