"""How distances become one loss."""

import numpy as np
import pytest
import tensorflow as tf

from tf_amalgam import amalgamation


def test_mean_and_min_max_by_hand():
    distances = tf.constant([1.0, -2.0, 4.0])
    assert float(amalgamation.combine(distances, "mean")) == 1.0
    assert float(amalgamation.combine(distances, "min_max")) == 4.0
    several = tf.stack([distances, 2.0 * distances])
    for scheme, losses in (("mean", [1.0, 2.0]), ("min_max", [4.0, 8.0])):
        found = amalgamation.combine(several, scheme)
        np.testing.assert_array_equal(found, losses)


def test_min_max_pulls_towards_the_farthest_alone():
    distances = tf.constant([1.0, -2.0, 4.0])
    with tf.GradientTape() as tape:
        tape.watch(distances)
        loss = amalgamation.combine(distances, "min_max")
    np.testing.assert_array_equal(tape.gradient(loss, distances), [0.0, 0.0, 1.0])


def test_released_distance_is_in_scaled_coordinates():
    student, teacher = tf.constant([1.0, 5.0]), tf.constant([0.0, 1.0])
    scale = tf.constant([1.0, 2.0])
    paper = amalgamation.log_distance(student, teacher, scale, "paper")
    released = amalgamation.log_distance(student, teacher, scale, "released")
    assert float(paper) == pytest.approx(0.5 * np.log(17.0))
    assert float(released) == pytest.approx(np.log(2.5) - np.log(2.0), rel=1e-6)


@pytest.mark.parametrize(
    ("check", "word"),
    [(amalgamation.check_scheme, "minmax"), (amalgamation.check_distance, "l2")],
)
def test_unknown_names_list_the_known(check, word):
    with pytest.raises(ValueError, match=f"{word}.*Known: "):
        check(word)
