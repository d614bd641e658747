"""Checkpoints of the released code: written here, and the authors' own."""

import re

import numpy as np
import pytest

import tf_amalgam
from tests import helpers
from tf_amalgam import evaluation, saved, tasks
from tf_amalgam.rules import RNNProp

WEIGHTS = RNNProp().init_weights(11)


@pytest.fixture
def prefix(tmp_path):
    prefix = tmp_path / "mean" / "3" / "weights"
    helpers.released_checkpoint(prefix, WEIGHTS)
    return prefix


@pytest.mark.parametrize("given", ["weights", "weights.index", ""])
def test_weights_arrive_with_the_released_preset(prefix, tmp_path, given):
    """Given as a prefix, as the index file, as the folder."""
    path = prefix.parent / given
    output = tf_amalgam.import_checkpoint(path, tmp_path / "mine.npz")
    rule, weights, header = saved.read(output)
    assert rule == RNNProp(normalizer="constant")
    assert weights.keys() == WEIGHTS.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(value, WEIGHTS[name], err_msg=name)
    assert (header["warmup_steps"], header["warmup_learning_rate"]) == (100, 0.05)
    assert header["about"] == {
        "source": "mean/3/weights",
        "preset": "released",
        "licence": "MIT, Copyright (c) 2021 Tianshu Huang",
    }


def test_loaded_optimizer_walks_as_one_with_these_weights(prefix, tmp_path):
    output = tf_amalgam.import_checkpoint(prefix, tmp_path / "mine.npz")
    task = helpers.tiny_task()
    options = {"warmup_steps": 3, "warmup_learning_rate": 0.05}
    expected = tf_amalgam.RNNProp(WEIGHTS, normalizer="constant", **options)
    other = tf_amalgam.RNNProp(WEIGHTS, **options)  # bias-corrected
    loaded, made, other = (
        evaluation.train_once(optimizer, task, seed=0, epochs=1)["batch_losses"]
        for optimizer in (tf_amalgam.load(output, warmup_steps=3), expected, other)
    )
    np.testing.assert_array_equal(loaded, made)
    assert np.abs(np.subtract(loaded, other)).max() > 1e-3


@pytest.mark.parametrize("scheme", ["mean", "min-max", "choice-small", "choice-large"])
def test_the_authors_students_train(authors_weights, tmp_path, scheme):
    """Imported as they were released, they train a network that they never saw."""
    output = tf_amalgam.import_checkpoint(
        authors_weights / scheme / "1", tmp_path / "theirs.npz"
    )
    header = saved.read(output)[2]
    assert header["about"]["source"] == f"{scheme}/1/weights"
    # 100 warm-up steps, one epoch and a bit, then the student's own.
    task = tasks.mlp("digits", batch_size=16)
    record = evaluation.train_once(tf_amalgam.load(output), task, seed=0, epochs=5)
    losses = record["curves"]["val_loss"]
    assert losses[-1] < 0.4 * losses[0]


def refused(path, tmp_path, message, error=ValueError, **options):
    output = tmp_path / "mine.npz"
    with pytest.raises(error, match=message):
        tf_amalgam.import_checkpoint(path, output, **options)
    assert not output.exists()


def test_nothing_there(tmp_path):
    for path in ("weights", "folder/weights.index"):
        refused(tmp_path / path, tmp_path, "There is no checkpoint", FileNotFoundError)


def test_a_folder_without_or_with_two(prefix, tmp_path):
    refused(tmp_path, tmp_path, "one checkpoint .*found none", FileNotFoundError)
    helpers.released_checkpoint(prefix.with_name("best"), WEIGHTS)
    refused(prefix.parent, tmp_path, "found best, weights", FileNotFoundError)


DAMAGE = {
    "no index": lambda prefix: prefix.with_suffix(".index").write_text("hello"),
    "data gone": lambda prefix: next(prefix.parent.glob("*.data*")).unlink(),
    "data cut": lambda prefix: next(prefix.parent.glob("*.data*")).write_bytes(b"1"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged(prefix, tmp_path, damage):
    DAMAGE[damage](prefix)
    refused(prefix, tmp_path, re.escape(str(prefix)) + " is not a TensorFlow check")


def test_other_variables_are_named(tmp_path):
    less = {k: v for k, v in WEIGHTS.items() if k != "head/bias"}
    helpers.released_checkpoint(tmp_path / "a", less, **{"network/gate": np.ones(3)})
    refused(
        tmp_path / "a",
        tmp_path,
        "of rnnprop. Missing: network/delta/bias; not expected: network/gate.",
    )
    helpers.released_checkpoint(tmp_path / "b", WEIGHTS, **{"network/gate": np.ones(3)})
    refused(tmp_path / "b", tmp_path, "Missing: none; not expected: network/gate.")


def test_a_keras_model_is_no_student(tmp_path):
    import tensorflow as tf

    model = helpers.tiny_model()
    tf.train.Checkpoint(model=model).write(str(tmp_path / "model"))
    refused(tmp_path / "model", tmp_path, "not expected: model/")


def test_another_network_is_no_rnnprop(tmp_path):
    """A Choice network has the same names and other shapes."""
    choice = {
        **WEIGHTS,
        "lstm_0/kernel": np.ones((6, 80), "float32"),
        "head/kernel": np.ones((20, 2), "float32"),
        "head/bias": np.ones(2, "float32"),
    }
    helpers.released_checkpoint(tmp_path / "choice", choice)
    refused(
        tmp_path / "choice",
        tmp_path,
        r"choice holds no weights of rnnprop.*head/bias: expected \(1,\), received",
    )


def test_unknown_rule_and_preset(prefix, tmp_path):
    refused(prefix, tmp_path, "Unknown rule to import 'adam'.*rnnprop", rule="adam")
    refused(prefix, tmp_path, "Unknown preset 'relaesd'.*'released'", preset="relaesd")
