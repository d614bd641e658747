"""Who takes part in an evaluation: every kind, replicates, equal warm-up, mistakes."""

import pathlib
import shutil

import keras
import numpy as np
import pytest

import tf_amalgam
from tests import helpers
from tf_amalgam import rules, saved
from tf_amalgam.lineup import KerasOptimizer, keras_names, lineup
from tf_amalgam.warm_up import OWN_WEIGHTS, WarmUp

SHARED = (keras.optimizers.SGD(), tf_amalgam.SGD())
TERMS = {"preset": "paper", "warmup_steps": 7, "warmup_learning_rate": 0.02}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of replicates of which one is not there, as `amalgamate` leaves it."""
    folder = tmp_path_factory.mktemp("lineup")
    for i in (0, 2, 10):
        options = {**helpers.SHORT_LESSON, "stages": ((20, 1),), "period": 1, "seed": i}
        with helpers.eagerly():
            tf_amalgam.amalgamate(
                tf_amalgam.tasks.quadratic(dimensions=4, batch_size=8),
                teachers=("adam",),
                workdir=folder / f"replicate-{i}",
                **options,
            )
    return folder


def test_every_kind_takes_part_with_the_same_warm_up(folder):
    found = lineup(
        {
            "adam": "adam",
            "sgd": rules.SGD(0.5),
            "fresh": tf_amalgam.RNNProp,
            "shipped": "min-max-small",
            "path": folder / "replicate-2",
            "lion": "keras.Lion",
            "adamw": KerasOptimizer("AdamW", 0.25),
            "made": lambda: keras.optimizers.SGD(0.125),
            "choice": tf_amalgam.Choice,
        },
        **TERMS,
    )
    assert [one.kind for one in found] == [
        *("analytic", "analytic", "learned", "learned", "learned"),
        *("keras", "keras", "keras", "choice"),
    ]
    for one in found:
        first, second = one.make(), one.make()
        assert first is not second
        assert isinstance(first, keras.optimizers.Optimizer)
        assert one.config["warmup_steps"] == 7
        assert one.config["warmup_learning_rate"] == pytest.approx(0.02)
        assert ("weights_sha256" in one.config) == (one.kind in ("learned", "choice"))
    by = {one.label: one for one in found}
    assert by["adamw"].config["learning_rate"] == pytest.approx(0.25)
    assert by["lion"].config["class"] == "keras.Lion"
    assert by["made"].make().optimizer is not by["made"].make().optimizer
    assert (
        by["path"].config["weights_sha256"]
        == saved.read(folder / "replicate-2")[2]["sha256"]
    )


def test_students_say_how_they_were_trained(folder):
    ours, adam = lineup([folder / "replicate-0", "adam"], **TERMS)
    assert ours.trained["teachers"] == ["adam"]
    assert ours.trained["scheme"] == "min_max"
    assert ours.trained["student"] == "rnnprop"
    assert ours.trained["seconds"] > 0
    assert ours.trained["begun_from"] == ""
    assert adam.trained == {}


def test_what_was_trained_before_is_said():
    """Hours and updates of a file are of its own run alone."""
    lineups = lineup(["choice-rates-small", "rnnprop"], **TERMS)
    assert [one.trained["begun_from"] for one in lineups] == ["choice-rule-small", ""]


def test_a_choice_rule_that_was_given_is_said(tmp_path, monkeypatch):
    rule, weights, _ = saved.find("rnnprop")
    teacher = {"rule": "choice", "pool": [{"rule": "adam"}], "sha256": "0a1b"}
    about = {"scheme": "choice", "teachers": [teacher], "initial_weights": "fresh"}
    saved.save(
        tmp_path / "student.npz",
        *(rule, weights),
        warmup_steps=1,
        warmup_learning_rate=0.1,
        about=about,
    )
    (one,) = lineup({"mine": tmp_path / "student.npz"}, **TERMS)
    assert one.trained["begun_from"] == "a trained Choice rule as teacher"
    # A path is none of the names, whatever it is called.
    (tmp_path / "adam").mkdir()
    (tmp_path / "student.npz").rename(tmp_path / "adam" / "student.npz")
    monkeypatch.chdir(tmp_path)
    (one,) = lineup({"mine": pathlib.Path("adam")}, **TERMS)
    assert one.trained["student"] == "rnnprop"
    assert one.trained["teachers"] == ["adam"]


def test_a_folder_of_replicates_is_all_of_them(folder):
    found = lineup({"ours": folder}, **TERMS)
    assert [(one.label, one.replicate) for one in found] == [
        *(("ours", 0), ("ours", 2), ("ours", 10))
    ]
    assert found[1].title == "ours (2)"
    assert len({one.config["weights_sha256"] for one in found}) == 3


def test_the_choice_rules_of_replicates_are_those_of_all(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    for i in (0, 2, 10):
        one = tmp_path / "run" / f"replicate-{i}"
        shutil.copytree(one, one / "choice")
    found = lineup({"rule": f"{tmp_path}/run/choice"}, **TERMS)
    assert [one.replicate for one in found] == [0, 2, 10]
    students = lineup({"ours": folder}, **TERMS)
    weights = [
        [one.config["weights_sha256"] for one in them] for them in (found, students)
    ]
    assert weights[0] == weights[1]
    with pytest.raises(
        FileNotFoundError, match="choice"
    ):  # a shared one lies elsewhere
        lineup({"rule": folder / "choice"}, **TERMS)


@pytest.mark.parametrize("name", ["choice-large", "adam", "keras.Adam"])
def test_a_text_that_is_a_name_is_no_folder(folder, tmp_path, monkeypatch, name):
    """As of a zoo's runs, seen from inside; a path with a dot or of pathlib is."""
    shutil.copytree(folder, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (named,) = lineup({"it": name}, **TERMS)
    assert "teachers" not in named.trained or len(named.trained["teachers"]) > 1
    for path in (f"./{name}", pathlib.Path(name)):
        assert [one.replicate for one in lineup({"it": path}, **TERMS)] == [0, 2, 10]


def test_a_list_is_replicates_of_one(folder):
    found = lineup({"ours": [folder / "replicate-2", folder / "replicate-0"]}, **TERMS)
    assert [one.replicate for one in found] == [0, 1]


@pytest.mark.parametrize(
    "option", [{"gradient_accumulation_steps": 2}, {"use_ema": True}]
)
def test_our_own_optimizers_take_steps_of_plain_gradients_too(option):
    """A warm-up would be twice as long; of averages alone the test would be."""
    with pytest.raises(ValueError, match="cannot be compared on equal terms"):
        lineup({"x": lambda: tf_amalgam.RNNProp(**option)}, **TERMS)


@pytest.mark.parametrize("one", [lambda: keras.optimizers.SGD(0.1), ["adam", "sgd"]])
def test_what_has_no_name_of_its_own_needs_a_label(one):
    """A function's address differs in each process: its records would not be found."""
    with pytest.raises(ValueError, match="Pass a dict of label"):
        lineup([one], **TERMS)
    with pytest.raises(ValueError, match="a function that returns a fresh"):
        lineup([keras.optimizers.SGD(0.1)], **TERMS)


def test_a_student_that_is_still_trained_is_warned_of(folder, tmp_path, caplog):
    terms = {"preset": "paper", "warmup_steps": 1, "warmup_learning_rate": 0.1}
    lineup({"mine": folder}, **terms)
    assert not caplog.messages
    shutil.copytree(folder, tmp_path / "going_on")
    (tmp_path / "going_on" / "replicate-2" / "curves.png").unlink()
    lineup({"mine": tmp_path / "going_on"}, **terms)
    (message,) = caplog.messages
    assert message.startswith("mine: the training in ")
    assert "replicate-2 has not ended" in message
    lineup({"mine": tmp_path / "going_on" / "replicate-2" / "student.npz"}, **terms)
    assert len(caplog.messages) == 2


def test_a_training_that_goes_on_changes_no_contestant(folder, tmp_path):
    """All runs are of the student that the records' hash is of."""
    file = shutil.copy(folder / "replicate-2" / "student.npz", tmp_path)
    (one,) = lineup({"mine": file}, **TERMS)
    shutil.copy(folder / "replicate-0" / "student.npz", tmp_path)
    assert saved.digest(one.make().rule_weights) == one.config["weights_sha256"]
    (other,) = lineup({"mine": file}, **TERMS)
    assert other.config["weights_sha256"] != one.config["weights_sha256"]


def test_an_unknown_preset_is_refused_whoever_takes_part():
    with pytest.raises(ValueError, match="Unknown preset 'relased'.*'released'"):
        lineup({"mine": "min-max-small"}, **{**TERMS, "preset": "relased"})


def test_replicates_in_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    found = lineup({"mine": f"~/{folder.name}"}, **TERMS)
    assert [one.replicate for one in found] == [0, 2, 10]


def test_a_student_here_is_called_by_its_folder(folder, monkeypatch):
    monkeypatch.chdir(folder / "replicate-2")
    for here in ("student.npz", "."):
        assert [one.label for one in lineup([here], **TERMS)] == ["replicate-2"]


def test_names_of_their_own():
    found = lineup(["adam", "keras.AdamW", KerasOptimizer("Lion")], **TERMS)
    assert [one.label for one in found] == ["adam", "keras.AdamW", "keras.Lion"]


@pytest.mark.parametrize("name", sorted(set(keras_names()) - set(OWN_WEIGHTS)))
def test_every_optimizer_of_keras_trains(name):
    (one,) = lineup([f"keras.{name}"], **TERMS)
    optimizer = one.make()
    assert isinstance(optimizer, WarmUp)
    task = helpers.tiny_task()
    model = task.training_model(0)
    model.compile(optimizer=optimizer, loss=task.compile_arguments()["loss"])
    before = helpers.flat(model.get_weights())
    model.fit(*task.dataset.train, batch_size=8, epochs=1, verbose=0)  # 12 steps
    assert np.all(np.isfinite(helpers.flat(model.get_weights())))
    assert np.any(helpers.flat(model.get_weights()) != before)


def test_keras_names_are_what_keras_has():
    assert {"Adam", "AdamW", "Lion", "SGD"} <= set(keras_names())
    assert "Optimizer" not in keras_names()
    assert ("Muon" in keras_names()) == hasattr(keras.optimizers, "Muon")


@pytest.mark.parametrize(
    ("optimizers", "message"),
    [
        ([], "at least one optimizer"),
        (["adam", "adam"], "same label"),
        (["adma"], r"Unknown optimizer 'adma'.*'adam'\?"),
        (["keras.AdamX"], "Unknown Keras optimizer 'AdamX'.*AdamW"),
        ({"none": []}, "none has no replicates"),
        ({"one": keras.optimizers.Adam()}, "function that returns a fresh"),
        ({"same": lambda: SHARED[0]}, "needs a fresh optimizer"),
        ({"same": lambda: SHARED[1]}, "needs a fresh optimizer"),
        ({"oracle": "adam"}, "label 'oracle' is kept"),
        (["keras.Ftrl"], "Ftrl keeps weights of its own"),
        ({"odd": lambda: 3}, "must return a Keras optimizer; it returned 3"),
        ({"up": lambda: KerasOptimizer("Adam", -0.1)}, r"above 0, or None.*-0\.1"),
    ],
)
def test_mistakes(optimizers, message):
    with pytest.raises(ValueError, match=message):
        lineup(optimizers, **TERMS)


def test_a_path_where_there_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no trained optimizer"):
        lineup([tmp_path / "student.npz"], **TERMS)


def test_a_damaged_student_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "replicate-2" / "student.npz").write_bytes(b"no")
    with pytest.raises(ValueError, match="replicate-2.*is not a trained optimizer"):
        lineup({"ours": tmp_path / "copy"}, **TERMS)
