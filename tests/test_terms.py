"""What records share to be compared: refused before a report mixes two things."""

import copy

import keras
import pytest

from tests.test_reporting import planted, written
from tf_amalgam import reporting, terms


def changed(match, **settings):
    """Returns made-up records of which one is changed, the last that matches.

    Args:
        match: keys and values of the record.
        settings: place in the record, its parts joined by `__`, → new value.
    """
    found = planted()
    one = [r for r in found if all(r[k] == v for k, v in match.items())][-1]
    for place, value in settings.items():
        *parts, name = place.split("__")
        inner = one
        for part in parts:
            inner = inner[part]
        inner[name] = value
    return found


def test_equal_terms_pass():
    assert terms.check(planted()) is None
    # Another optimizee has other data, another optimizer and replicate other weights.
    one = {"task": "Train", "optimizer": "ours", "replicate": 2}
    found = changed(one | {"seed": 2}, optimizer_config__name="rnn_prop_3")
    for record in found:
        record["optimizer_config"]["weights_sha256"] = [
            *(record["optimizer"], record["replicate"])
        ]
        record["settings"]["task"]["examples"] = [len(record["task"])]
    assert terms.check(found) is None


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("settings__epochs", "epochs 10 .*, epochs 99"),
        ("settings__warmup_steps", "warmup_steps 5 .*, warmup_steps 99"),
        ("settings__warmup_learning_rate", "warmup_learning_rate 0.01 .* 99"),
        ("settings__task__batch_size", "batch_size 8 .*adam .0. on MLP.*batch_size 99"),
        ("settings__task__shapes", "shapes .*shapes 99"),
        ("optimizer_config__weights_sha256", "sha256 None .*weights_sha256 99 "),
    ],
)
def test_what_two_runs_do_not_share_is_named(place, told, tmp_path):
    """Both are, with what each says; no report is written."""
    found = changed({"task": "MLP", "optimizer": "ours", "replicate": 1}, **{place: 99})
    told += r".*\(ours \(1\) on MLP, seed 2\)"
    with pytest.raises(
        ValueError, match=f"different terms: .*{told}.*folders of their"
    ):
        reporting.write_report(written(found, tmp_path))
    assert not (tmp_path / "report").exists()


def test_a_later_keras_knows_more_options():
    """Three records, of which the first lacks what the others disagree on."""
    first, second, third = (copy.deepcopy(r) for r in planted()[:3])
    assert {r["optimizer"] for r in (first, second, third)} == {"adam"}
    same = {"beta_1": 0.9}
    first["optimizer_config"] = {**same}
    second["optimizer_config"] = {**same, "use_ema": False}
    third["optimizer_config"] = {**same, "use_ema": False, "name": "adam_2"}
    assert terms.check([first, second, third]) is None
    third["optimizer_config"] = {**same, "use_ema": True}
    with pytest.raises(ValueError, match="use_ema False .*seed .*, use_ema True"):
        terms.check([first, second, third])


def test_differences_by_hand():
    there = {"a": 1, "b": 2, "name": "x", "clipnorm": None}
    here = {"a": 1, "b": 3, "c": 4, "name": "y", "use_ema": True}
    assert terms.differences(there, here) == [("b", 2, 3), ("c", None, 4)]
    assert terms.differences({"clipnorm": None}, {"clipnorm": 1.0}) == [
        ("clipnorm", None, 1.0)
    ]


def test_keras_options_are_those_of_all_its_optimizers():
    several = [keras.optimizers.SGD(), keras.optimizers.Adam(), keras.optimizers.Lion()]
    shared = set.intersection(*(set(one.get_config()) for one in several))
    assert shared == terms.KERAS_OPTIONS
