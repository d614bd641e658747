"""The coordinates that a student is taught while a teacher leads."""

import numpy as np
import pytest
import tensorflow as tf

from tests import helpers
from tf_amalgam import meta_step, rules, sample
from tf_amalgam.layout import Layout
from tf_amalgam.objective import Objective
from tf_amalgam.rules.registry import make_rule

LARGE = Layout(("kernel",), ((sample.SIZE + 1000,),))


@pytest.fixture
def small_samples(monkeypatch):
    """Samples of 11 of the tiny task's 39 coordinates."""
    monkeypatch.setattr(sample, "SIZE", 11)


def test_a_sample_is_drawn_by_its_seed_without_replacement():
    rule, numbers = make_rule("rnnprop"), tf.range(LARGE.size)
    places = [sample.sample_of(rule, LARGE, tf.constant(s)) for s in (0, 0, 1)]
    first, again, other = (found.of(numbers).numpy() for found in places)
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    assert len(np.unique(first)) == sample.SIZE == places[0].layout.size
    assert first.max() > LARGE.size - 100
    assert first.min() < 100


def test_what_is_put_into_its_places(small_samples):
    some = sample.sample_of(make_rule("rnnprop"), Layout(("a",), ((39,),)), 3)
    state = (tf.random.normal((2, 3, 39)), tf.random.normal((39,)))
    doubled = tf.nest.map_structure(lambda part: 2.0 * part, some.of(state))
    after = some.into(state, doubled)
    for before, now in zip(state, after, strict=True):
        ratio = (now / before).numpy().reshape(-1, 39)
        assert (ratio == ratio[0]).all()
        assert sorted(ratio[0]) == [1.0] * 28 + [2.0] * 11
    for found, expected in zip(some.of(after), doubled, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["scale", "choice"])
def test_some_rules_need_all_coordinates(name):
    options = {"pool": rules.make_pool("small", "paper")} if name == "choice" else {}
    found = sample.sample_of(make_rule(name, **options), LARGE, 0)
    assert found.layout == LARGE
    assert found.of(1.0) == 1.0
    assert found.into(1.0, 2.0) == 2.0


def test_few_coordinates_are_all_taken():
    layout = Layout(("kernel",), ((sample.SIZE,),))
    assert sample.sample_of(make_rule("rnnprop"), layout, 0).layout == layout


def forced(task, who, carry, batches, **options):
    objective = Objective(scheme="mean", alpha=1.0, teacher_forcing=True, **options)
    weights = helpers.weights_of(who.student)
    return meta_step.truncation(task, who, objective, weights, carry, batches)


def test_a_teacher_goes_the_same_way_whatever_is_taught(float64, monkeypatch):
    """Of the student only the sample's states move."""
    task, who = helpers.tiny_task(), helpers.players()
    carry = helpers.started(task, who)
    batches = helpers.constants(task.minibatches(0, 3, 6))
    _, all_after, _ = forced(task, who, carry, batches)
    monkeypatch.setattr(sample, "SIZE", 11)
    gradient, some_after, metrics = forced(task, who, carry, batches)
    np.testing.assert_allclose(
        helpers.flat(some_after.teachers), helpers.flat(all_after.teachers), rtol=1e-12
    )
    places = sample.sample_of(who.student, task.layout, carry.seed)
    for before, whole, some in zip(
        tf.nest.flatten(carry.student.rule_state),
        tf.nest.flatten(all_after.student.rule_state),
        tf.nest.flatten(some_after.student.rule_state),
        strict=True,
    ):
        expected = places.into(before, places.of(whole))
        np.testing.assert_allclose(some, expected, rtol=1e-12)
    assert np.any(helpers.flat(gradient) != 0.0)
    assert np.isfinite(float(metrics.loss))
