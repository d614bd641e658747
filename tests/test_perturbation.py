"""Noise on weights and inputs: sizes, balls, and where it enters the meta-gradient."""

import math

import numpy as np
import pytest
import tensorflow as tf

import tf_amalgam
from tests import helpers
from tests.test_meta_gradient import directional_error
from tf_amalgam import meta_step, perturbation, rules
from tf_amalgam.objective import Objective
from tf_amalgam.perturbation import ADVERSARIAL, GAUSSIAN, KINDS, Perturbation
from tf_amalgam.settings import PERTURBED

SEED = tf.constant([3, 7])


def weights():
    generator = np.random.default_rng(0)
    shapes = {"kernel": (30, 40), "bias": (400,)}
    return {k: tf.constant(generator.normal(size=s)) for k, s in shapes.items()}


def gradient():
    generator = np.random.default_rng(1)
    return {
        k: tf.constant(generator.normal(size=w.shape)) for k, w in weights().items()
    }


def drawn(kind, radius, seed=SEED):
    start = weights()
    noisy = perturbation.add_noise(Perturbation(kind, radius), start, seed)
    return {k: (noisy[k] - start[k]).numpy() for k in start}


def attacked(kind, radius, steps=1, step_size=None):
    """Returns ψ after all steps up one and the same gradient."""
    how = Perturbation(kind, radius, steps, step_size)
    psi = {k: tf.zeros_like(w) for k, w in weights().items()}
    for _ in range(steps):
        psi = perturbation.ascend(how, psi, gradient(), weights())
    return {k: v.numpy() for k, v in psi.items()}


def test_gaussian_noise_has_the_deviation_asked_for():
    for psi in drawn("gaussian", 0.2).values():
        # The standard error of a deviation from n draws is σ/√(2n).
        assert np.std(psi) == pytest.approx(0.2, rel=4 / np.sqrt(2 * psi.size))
        assert abs(np.mean(psi)) < 4 * 0.2 / np.sqrt(psi.size)


def test_relative_noise_is_relative_to_each_tensor():
    """σ‖w‖/√|w| (Eq. 5)."""
    for name, psi in drawn("gaussian_relative", 0.1).items():
        expected = 0.1 * np.linalg.norm(weights()[name]) / np.sqrt(psi.size)
        assert np.std(psi) == pytest.approx(expected, rel=4 / np.sqrt(2 * psi.size))


def test_noise_depends_on_its_seed_alone():
    first, again = drawn("gaussian", 1.0), drawn("gaussian", 1.0)
    np.testing.assert_array_equal(helpers.flat(first), helpers.flat(again))
    for other in ([3, 8], [4, 7]):
        new = drawn("gaussian", 1.0, tf.constant(other))
        assert abs(np.corrcoef(helpers.flat(new), helpers.flat(first))[0, 1]) < 0.1
    tensors = list(first.values())
    mixed = np.corrcoef(tensors[0].ravel()[:400], tensors[1])[0, 1]
    assert abs(mixed) < 0.2  # the tensors of one draw are independent


def test_normalized_attack_by_hand():
    """ψ = r‖w‖∇/‖∇‖ (Eq. 6): its length is r‖w‖, its direction the gradient's."""
    for name, psi in attacked("normalized", 0.01).items():
        g, w = gradient()[name].numpy(), weights()[name].numpy()
        assert np.linalg.norm(psi) == pytest.approx(0.01 * np.linalg.norm(w))
        assert np.sum(psi * g) == pytest.approx(np.linalg.norm(psi) * np.linalg.norm(g))


def test_clipped_attack_keeps_a_short_gradient_and_cuts_a_long_one():
    long = attacked("clipped", 1e-3)
    short = attacked("clipped", 1e3)
    for name, w in weights().items():
        assert np.linalg.norm(long[name]) == pytest.approx(
            1e-3 * np.linalg.norm(w.numpy())
        )
        np.testing.assert_allclose(short[name], gradient()[name])


def test_fgsm_by_hand():
    for name, psi in attacked("fgsm", 0.5).items():
        np.testing.assert_array_equal(psi, 0.5 * np.sign(gradient()[name]))


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_pgd_stays_in_its_ball_and_reaches_its_edge(steps):
    """Up one gradient the best point of the ball is known."""
    two, inf = attacked("pgd_l2", 0.5, steps), attacked("pgd_linf", 0.5, steps)
    for name, g in gradient().items():
        g = g.numpy()
        np.testing.assert_allclose(two[name], 0.5 * g / np.linalg.norm(g), rtol=1e-9)
        np.testing.assert_allclose(inf[name], 0.5 * np.sign(g))


def test_pgds_first_of_ten_steps_is_a_quarter_of_the_radius():
    """2.5·radius/steps (Madry et al. 2018)."""
    start = {k: tf.zeros_like(w) for k, w in weights().items()}
    for kind, size in (("pgd_l2", np.linalg.norm), ("pgd_linf", np.abs)):
        how = Perturbation(kind, 0.5, steps=10)
        for psi in perturbation.ascend(how, start, gradient(), weights()).values():
            np.testing.assert_allclose(size(psi.numpy()), 0.125)


def test_pgd_takes_the_steps_it_is_told():
    for name, psi in attacked("pgd_l2", 1.0, steps=3, step_size=0.1).items():
        assert np.linalg.norm(psi) == pytest.approx(0.3), name


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_attacks_up_a_gradient_whose_square_is_no_number(size):
    """A meta-gradient of that length is clipped by the optimizer, and used."""
    single = [
        {k: tf.cast(value, "float32") for k, value in part.items()}
        for part in (weights(), gradient())
    ]
    w, g = single
    huge = {k: size * value for k, value in g.items()}
    zero = {k: tf.zeros_like(value) for k, value in w.items()}
    for kind in ("normalized", "clipped", "pgd_l2"):
        how = Perturbation(kind, 0.1)
        expected = helpers.flat(perturbation.ascend(how, zero, g, w))
        found = helpers.flat(perturbation.ascend(how, zero, huge, w))
        if kind == "clipped" and size < 1.0:
            expected = helpers.flat(huge)
        np.testing.assert_allclose(found, expected, rtol=1e-4, err_msg=kind)


def test_no_gradient_no_attack():
    zero = {k: tf.zeros_like(w) for k, w in weights().items()}
    for kind in ADVERSARIAL:
        psi = perturbation.ascend(Perturbation(kind, 0.1), zero, zero, weights())
        assert not np.any(helpers.flat(psi)), kind


# In a truncation.

TASK = helpers.tiny_task


def truncation(objective, who=None, phi=None, seed=0):
    task = TASK()
    who = who or helpers.players()
    carry = helpers.started(task, who, seed)
    phi = phi or helpers.weights_of(who.student)
    batches = helpers.constants(task.minibatches(1, 3, 5))
    return meta_step.truncation(task, who, objective, phi, carry, batches), carry


@pytest.mark.slow
def test_radius_zero_is_the_identity():
    expected = helpers.flat(truncation(Objective())[0])
    for kind in KINDS:
        found = truncation(Objective(perturbation=Perturbation(kind, 0.0)))[0]
        np.testing.assert_array_equal(helpers.flat(found), expected, err_msg=kind)


@pytest.mark.parametrize("kind", GAUSSIAN)
def test_gaussian_is_the_truncation_at_noisy_weights(float64, kind):
    noise = Perturbation(kind, 0.05)
    who = helpers.players()
    found, carry = truncation(Objective(perturbation=noise), who)
    seed = tf.stack([carry.seed, carry.step])
    noisy = perturbation.add_noise(noise, helpers.weights_of(who.student), seed)
    expected, _ = truncation(Objective(), who, noisy)
    plain, _ = truncation(Objective(), who)
    np.testing.assert_allclose(helpers.flat(found), helpers.flat(expected))
    assert np.abs(helpers.flat(found[0]) - helpers.flat(plain[0])).max() > 1e-4


@pytest.mark.parametrize(
    "kind", helpers.slow_if(lambda k: k != "pgd_linf", ADVERSARIAL)
)
def test_attacks_raise_the_meta_loss(float64, kind):
    radius = 1e-3 if kind in ("normalized", "clipped") else 1e-2
    before = float(truncation(Objective())[0][2].loss)
    noise = Perturbation(kind, radius, steps=1)
    after = float(truncation(Objective(perturbation=noise))[0][2].loss)
    assert after > before


def test_each_attack_step_goes_up_from_where_the_last_one_ended(float64):
    who, radius = helpers.players(), 2.0**-9
    phi, noise = helpers.weights_of(who.student), Perturbation("fgsm", radius, steps=2)
    at = phi
    for _ in range(2):
        (gradient, *_), _ = truncation(Objective(), who, at)
        at = {k: w + radius * tf.sign(gradient[k]) for k, w in at.items()}
    # The second step is not the first one again.
    (gradient, *_), _ = truncation(Objective(), who, phi)
    stale = {k: w + 2.0 * radius * tf.sign(gradient[k]) for k, w in phi.items()}
    assert helpers.flat(stale).tolist() != helpers.flat(at).tolist()
    (expected, *_), _ = truncation(Objective(), who, at)
    (found, *_), _ = truncation(Objective(perturbation=noise), who, phi)
    np.testing.assert_allclose(
        helpers.flat(found), helpers.flat(expected), rtol=1e-10, atol=1e-14
    )


@pytest.mark.slow
def test_more_attack_steps_find_more(float64):
    losses = [
        float(
            truncation(
                Objective(perturbation=Perturbation("normalized", 2e-3, steps=n))
            )[0][2].loss
        )
        for n in (1, 3)
    ]
    assert losses[1] > losses[0]


@pytest.mark.parametrize(
    "objective",
    [
        Objective(perturbation=Perturbation("gaussian", 0.05)),
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in (
                Objective(
                    perturbation=Perturbation("gaussian", 0.05, redrawn="inner_step")
                ),
                Objective(
                    input_noise=0.1,
                    segment=3,
                    perturbation=Perturbation("gaussian", 0.02, redrawn="inner_step"),
                ),
            )
        ),
        Objective(input_noise=0.3),
        Objective(
            teacher_forcing=True,
            input_noise=0.1,
            perturbation=Perturbation("gaussian", 0.02, redrawn="inner_step"),
        ),
    ],
)
def test_noisy_meta_gradient_equals_finite_differences(float64, objective):
    """The way back draws what the way forward drew, segments included."""
    error, size = directional_error(TASK(), helpers.players(), objective)
    assert size > 1e-3
    assert error < 1e-6


def test_noise_differs_between_steps_and_optimizees(float64):
    """Read off the steps of a rule that takes what it sees times -1."""
    task = TASK()
    rule = rules.make_rule("learned_scalars", base="sgd", initial_learning_rate=1.0)
    weights, state = helpers.weights_of(rule), rule.init_state(task.layout, "float64")
    ones_P = tf.ones(task.layout.size, tf.float64)

    def noise(root, step):
        noisy = (Objective(input_noise=0.5), tf.constant(root))
        step_fn = meta_step.student_step(task, rule, weights, ones_P, noisy)
        moved_P, _ = step_fn(0.0 * ones_P, 0.0 * ones_P, state, tf.constant(step))
        return -np.asarray(moved_P) / 0.5

    drawn = {(r, t): noise(r, t) for r in (3, 4) for t in (1.0, 2.0)}
    for (root, step), found in drawn.items():
        seed = tf.constant([root, int(step)])
        expected = perturbation.normal(
            ones_P.shape, seed, meta_step.INPUT_STREAM, tf.float64
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    apart = np.corrcoef(list(drawn.values())) - np.eye(4)
    assert np.abs(apart).max() < 0.9
    who = helpers.players()
    carries = [helpers.started(TASK(), who, seed) for seed in (0, 1)]
    assert int(carries[0].seed) != int(carries[1].seed)


def test_noise_reaches_the_meta_updates():
    """Of a whole run; and a run with radius 0 is the run without."""

    def losses(**noise):
        lesson = {**helpers.FAMILY_LESSON, "stages": ((20, 1),), "period": 2, **noise}
        return tf_amalgam.amalgamate(
            helpers.quadratics(), student="learned_scalars", **lesson
        ).history

    clean = losses()
    for noise in (
        {"perturbation": Perturbation("gaussian", 0.5)},
        {"perturbation": Perturbation("fgsm", 0.5)},
        {"input_noise": 1.0},
    ):
        noisy = losses(**noise)
        for with_noise, without in zip(noisy, clean, strict=True):
            assert abs(with_noise["meta_loss"] - without["meta_loss"]) > 1e-3
    assert losses(perturbation=Perturbation("gaussian", 0.0)) == clean


# Two members crawl; the third suits curvatures from .1 to 1.
MIXTURE = rules.Choice(pool=tuple(map(rules.SGD, (1e-3, 1e-2, 1.0))), units=4)


@pytest.mark.slow
@pytest.mark.parametrize(("student", "gain"), [("rnnprop", 1.5), (MIXTURE, 2.0)])
def test_a_perturbed_student_still_learns(student, gain):
    """Of three seeds the gains were 2.2 to 2.6, and 2.8 to 2.9 of the mixture.

    A tenth of the weights' norm is noise, a hundred times the paper's best.
    """
    noise, task = Perturbation("gaussian_relative", 0.1), helpers.quadratics()
    amalgam = tf_amalgam.amalgamate(
        task, student=student, perturbation=noise, **helpers.FAMILY_LESSON
    )
    assert np.mean(helpers.gains_on_fresh_members(amalgam, task)) > gain
    if student is MIXTURE:
        first, last = amalgam.validations[0], amalgam.validations[-1]
        assert first["mixing/sgd_3"] < 0.5
        assert last["mixing/sgd_3"] > 0.9


def test_what_a_perturbation_leaves_to_the_preset():
    released = PERTURBED["released"]
    assert Perturbation("adversarial").under(**released).kind == "clipped"
    assert Perturbation("adversarial").under(**PERTURBED["paper"]).kind == "normalized"
    drawn = Perturbation("gaussian").under(**released)
    assert (drawn.kind, drawn.redrawn) == ("gaussian", "inner_step")
    assert Perturbation("gaussian").under(**PERTURBED["paper"]).redrawn == "meta_step"
    # What is said stays.
    said = Perturbation("gaussian", redrawn="meta_step")
    assert said.under(**released) == said
    assert Perturbation("normalized").under(**released).kind == "normalized"
    # Outside a preset: as the paper.
    start, rise = weights(), {k: tf.ones_like(v) for k, v in weights().items()}
    psi = {k: tf.zeros_like(v) for k, v in start.items()}
    found = [
        perturbation.ascend(Perturbation(kind, 0.1), psi, rise, start)
        for kind in ("adversarial", "normalized")
    ]
    np.testing.assert_array_equal(helpers.flat(found[0]), helpers.flat(found[1]))
    assert Perturbation("gaussian").draws("meta_step")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "gausian"}, "Did you mean 'gaussian'"),
        ({"radius": -1e-3}, "radius must be a finite number from 0, received -0.001"),
        ({"steps": 0}, "steps must be a whole number from 1"),
        ({"step_size": 0.0}, "step_size must be a finite number above 0"),
        ({"radius": math.inf}, "radius must be a finite number from 0, received inf"),
        ({"radius": "0.1"}, "radius must be a finite number from 0.*'0.1'"),
        ({"kind": "gaussian", "steps": 5}, "takes no steps; received steps=5"),
        ({"kind": "gaussian", "step_size": 0.1}, "takes no steps; received steps=1"),
        ({"kind": "fgsm", "step_size": 0.1}, "a step of fgsm is as long as its radius"),
        ({"redrawn": "epoch"}, "Unknown redrawn"),
        ({"kind": "fgsm", "redrawn": "inner_step"}, "goes with Gaussian noise only"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        Perturbation(**options)
