"""Every learned rule under every kind of noise, in a truncation on a quadratic."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests import helpers
from tests.conformance.test_rules import LEARNED, RULES, trained
from tf_amalgam import meta_step, tasks
from tf_amalgam.meta_step import Players
from tf_amalgam.objective import Objective
from tf_amalgam.perturbation import ADVERSARIAL, KINDS, Perturbation

STEPS = 3


def perturbed(kind, radius, **options):
    return {"perturbation": Perturbation(kind, radius, **options)}


# Noise as a function of its size; attacks of two steps use what the first one found.
NOISE = {
    "gaussian": functools.partial(perturbed, "gaussian"),
    "gaussian, inner steps": functools.partial(
        perturbed, "gaussian", redrawn="inner_step"
    ),
    "gaussian_relative": functools.partial(perturbed, "gaussian_relative"),
    **{kind: functools.partial(perturbed, kind, steps=2) for kind in ADVERSARIAL},
    "input": lambda size: {"input_noise": size},
}


# Members of a pool are alike, and a little noise moves a mixture of them by little.
pytestmark = pytest.mark.usefixtures("float64")


def test_every_kind_is_here():
    assert set(KINDS) <= set(NOISE)


@functools.cache
def scene(name):
    """Returns what a truncation of this rule takes, at weights off the fresh ones."""
    task, rule = tasks.quadratic(dimensions=3, seed=None), RULES[name]
    players = Players(rule, (), ())
    weights = {k: tf.constant(w) for k, w in trained(rule).items()}
    carry = helpers.started(task, players, warmup=1)
    batches = helpers.constants(task.minibatches(0, 1, STEPS))
    return task, players, weights, carry, batches


def run(name, **noise):
    """Returns the meta-gradient, the loss of each step, and the meta loss."""
    task, players, weights, carry, batches = scene(name)
    gradient, _, metrics = meta_step.truncation(
        task, players, Objective(**noise), weights, carry, batches
    )
    losses_T = metrics.student_losses_T.numpy()
    return helpers.flat(gradient), losses_T, float(metrics.loss)


@functools.cache
def clean(name):
    return run(name)


# Noise knows nothing of rules: a recurrent one and one that couples coordinates under
# every kind, every rule under a few; the others are slow.
QUICK = ("rnnprop", "scale")
FEW = ("input", "normalized")
PAIRS = [
    pytest.param(
        *(name, noise),
        marks=[pytest.mark.slow] * (name not in QUICK and noise not in FEW),
    )
    for name in LEARNED
    for noise in NOISE
]


@pytest.mark.parametrize(("name", "noise"), PAIRS)
def test_noise_moves_the_meta_gradient(name, noise):
    expected, losses_T, loss = clean(name)
    size = np.linalg.norm(expected)
    assert size > 1e-4
    found, noisy_T, noisy = run(name, **NOISE[noise](0.1))
    assert np.all(np.isfinite(found))
    assert np.linalg.norm(found - expected) > 1e-5 * size
    # The first loss comes before any step; all later ones are another student's.
    assert noisy_T[0] == losses_T[0]
    assert np.all(np.abs(noisy_T[1:] - losses_T[1:]) > 1e-10 * losses_T[1:])
    if noise in ADVERSARIAL:
        assert noisy > loss


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("name", helpers.slow_if(lambda n: n not in QUICK, LEARNED))
def test_noise_of_size_zero_is_none(name, noise):
    for found, expected in zip(
        run(name, **NOISE[noise](0.0)), clean(name), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
