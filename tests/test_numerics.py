"""Distances that are safe at zero, finite checks, named seeds."""

import numpy as np
import pytest
import tensorflow as tf

from tf_amalgam import numerics


def value_and_gradient(function, x):
    x = tf.constant(x, "float64")
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return float(value), tape.gradient(value, x).numpy()


DISTANCES = {
    "log_norm": numerics.log_norm,
    "log_half_squares": numerics.log_half_squares,
    "huber": lambda x: numerics.log_half_squares(x, huber_delta=0.5),
}


@pytest.mark.parametrize("name", DISTANCES)
def test_safe_at_zero(name):
    value, gradient = value_and_gradient(DISTANCES[name], [0.0, 0.0, 0.0])
    assert np.isfinite(value)
    np.testing.assert_array_equal(gradient, 0.0)


def test_log_norm_by_hand():
    value, gradient = value_and_gradient(numerics.log_norm, [3.0, 4.0])
    assert value == pytest.approx(np.log(5.0))
    np.testing.assert_allclose(gradient, [3 / 25, 4 / 25])


@pytest.mark.parametrize("name", DISTANCES)
def test_a_lost_teacher_is_not_near(name):
    for lost in (np.nan, np.inf):
        value, _ = value_and_gradient(DISTANCES[name], [1.0, lost])
        assert not value < 1e30


def test_logarithms_of_losses():
    """What rounding takes below 0 is 0; what is below 0 has none."""
    losses = tf.constant([2.0, 0.0, -1e-6, -1e-4, -0.5, np.nan, np.inf], "float64")
    least = np.log(1e-10)
    expected = [np.log(2.0), least, least, least, np.nan, np.nan, np.inf]
    np.testing.assert_allclose(numerics.log_loss(losses), expected, rtol=1e-9)
    slopes = numerics.log_loss_slope(losses, 3.0)
    np.testing.assert_allclose(slopes, [1.5, 3e10, 0, 0, 0, np.nan, 0], rtol=1e-9)


def test_log_half_squares_by_hand():
    value, gradient = value_and_gradient(numerics.log_half_squares, [3.0, 4.0])
    assert value == pytest.approx(np.log(12.5) - np.log(2.0))
    np.testing.assert_allclose(gradient, [3 / 12.5, 4 / 12.5])


def test_huber_by_hand():
    # 0.3 is quadratic: .045; 2 is linear: .5·(2 − .25) = .875.
    value, _ = value_and_gradient(DISTANCES["huber"], [0.3, -2.0])
    assert value == pytest.approx(np.log(0.045 + 0.875) - np.log(2.0))


def test_seeds_are_named():
    seeds = {
        numerics.derive_seed(root, *names)
        for root in (0, 1)
        for names in (("a",), ("b",), ("a", 1), ("a", 2))
    }
    assert len(seeds) == 8
    assert all(0 <= seed < 2**31 for seed in seeds)
    # Folders of replicates, and runs that go on, know theirs by these numbers.
    known = (numerics.derive_seed(0, "a", 1), numerics.derive_seed(7, "replicate", 3))
    assert known == (1731415988, 817118245)
