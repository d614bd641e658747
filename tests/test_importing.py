"""Checkpoints of the released code: written here, and the authors' own."""

import re

import numpy as np
import pytest

import tf_amalgam
from tests import helpers
from tests.test_reporting import planted, record
from tf_amalgam import evaluation, frames, rules, saved, tasks
from tf_amalgam.lineup import lineup
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
    about = dict(header["about"])
    assert [about.pop(key) for key in ("scheme", "note")] == [
        "mean",
        "Not read from the checkpoint: scheme guessed from the folder, "
        "teachers guessed from the folder.",
    ]
    assert [teacher["rule"] for teacher in about.pop("teachers")] == ["adam", "rmsprop"]
    assert about == {
        "source": "mean/3/weights",
        "preset": "released",
        "licence": "MIT, Copyright (c) 2021 Tianshu Huang",
    }


def imported(folder, scheme_folder, **options):
    """Imports made-up weights out of a folder of this name; returns what is said."""
    helpers.released_checkpoint(folder / scheme_folder / "1" / "weights", WEIGHTS)
    output = tf_amalgam.import_checkpoint(
        folder / scheme_folder / "1", folder / "mine.npz", **options
    )
    return output, saved.read(output)[2]["about"]


LARGE = list(rules.POOLS["large"])


@pytest.mark.parametrize(
    ("folder", "scheme", "pool"),
    [
        ("mean", "mean", ["adam", "rmsprop"]),
        ("min-max", "min_max", ["adam", "rmsprop"]),
        ("choice-small", "choice", ["adam", "rmsprop"]),
        ("choice-large", "choice", LARGE),
    ],
)
def test_released_folders_say_how_their_students_were_trained(
    tmp_path, folder, scheme, pool
):
    """In the words of `amalgamate`, so that they take part as its students do."""
    output, about = imported(tmp_path, folder)
    assert about["scheme"] == scheme
    teachers, preset = about["teachers"], "released"
    if scheme == "choice":
        (choice,) = teachers
        assert [member["rule"] for member in choice["pool"]] == pool
        assert choice == rules.as_config(rules.make_rule("choice", preset, pool=pool))
    else:
        expected = [rules.as_config(rule) for rule in rules.make_pool(pool, preset)]
        assert teachers == expected
    (one,) = lineup(
        {"theirs": output}, preset="paper", warmup_steps=1, warmup_learning_rate=0.01
    )
    assert one.trained["scheme"] == scheme
    assert one.trained["teachers"] == pool
    # An amalgamated optimizer, however much better others learned by themselves.
    found = [r for r in planted() if r["kind"] != "learned"]
    found += [
        record("Train", "ours", 0, seed) | {"optimizer": "alone", "trained": {}}
        for seed in range(3)
    ]
    ours = [record("Train", "noisy", 0, seed) for seed in range(3)]
    found += [r | {"optimizer": "theirs", "trained": one.trained} for r in ours]
    assert frames.reference_of(frames.runs(found)) == "theirs"


@pytest.mark.parametrize(
    ("given", "scheme", "teachers"),
    [
        ({"scheme": "mean", "teachers": "small"}, "mean", ["adam", "rmsprop"]),
        ({"scheme": "mean", "teachers": "sgd,adam"}, "mean", ["sgd", "adam"]),
        ({"scheme": "mean", "teachers": ("sgd",)}, "mean", ["sgd"]),
        ({"scheme": "min_max", "teachers": "adam"}, "min_max", ["adam"]),
        ({"scheme": "choice", "teachers": "large"}, "choice", ["choice"]),
    ],
)
def test_what_is_said_is_kept(tmp_path, given, scheme, teachers):
    _, about = imported(tmp_path, "elsewhere", **given)
    assert about["scheme"] == scheme
    assert [teacher["rule"] for teacher in about["teachers"]] == teachers
    assert about["note"] == (
        "Not read from the checkpoint: scheme said on import, teachers said on import."
    )


def test_what_is_said_goes_before_what_is_guessed(tmp_path):
    _, about = imported(tmp_path, "mean", teachers="large")
    assert about["scheme"] == "mean"
    assert [teacher["rule"] for teacher in about["teachers"]] == LARGE
    assert "guessed from the folder, teachers said on import" in about["note"]


def test_a_folder_of_another_name_says_nothing(tmp_path):
    _, about = imported(tmp_path, "elsewhere")
    assert set(about) == {"source", "preset", "licence"}


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


def test_unknown_or_half_said_training(prefix, tmp_path):
    def said(message, path=prefix, **options):
        refused(path, tmp_path, message, **options)

    said("Unknown amalgamation scheme 'minmax'.*'min_max'", scheme="minmax")
    said("Unknown teacher 'adma'.*'adam'", teachers="adma,sgd")
    said("Unknown teacher pool 'smal'.*'small'", teachers="smal")
    other = tmp_path / "elsewhere" / "1" / "weights"
    helpers.released_checkpoint(other, WEIGHTS)
    said("scheme='mean' and teachers=None were given.*Give both", other, scheme="mean")
    said("scheme=None and teachers='small' were", other, teachers="small")


def test_unknown_rule_and_preset(prefix, tmp_path):
    refused(prefix, tmp_path, "Unknown rule to import 'adam'.*rnnprop", rule="adam")
    refused(prefix, tmp_path, "Unknown preset 'relaesd'.*'released'", preset="relaesd")
