"""Who took part: kinds, where they come from, and one look for all figures."""

import math

import pytest

from tests import test_reporting
from tf_amalgam import evaluated, figures, frames, intervals, participants


def row(optimizer, **changes):
    record = test_reporting.record("Train", optimizer, 0, 0, **changes)
    return participants.table([record], ["adam"]).iloc[0]


def test_kinds():
    kinds = {label: row(label)["kind"] for label in test_reporting.PLANTED}
    assert kinds == {
        "adam": "pool",
        "sgd": "analytic, not in the pool",
        "ours": "amalgamated",
        "noisy": "amalgamated",
        "rnnprop": "other learned",
        "mixer": "Choice rule",
        "Lion": "Keras",
    }
    imported = {"student": "rnnprop", "teachers": [], "task": ""}
    assert row("ours", trained=imported)["kind"] == "authors' weights"
    alone = {"task": "Train", "scheme": "mean", "teachers": ["adam"]}
    assert row("ours", trained=alone)["kind"] == "other learned"
    assert row("ours", trained=alone)["scheme"] == ""
    # Of an optimizer that came out of no file nothing is known.
    assert row("ours", trained={})["kind"] == "other learned"


@pytest.mark.parametrize(
    ("name", "rate", "settings"),
    [
        ("keras.Lion", 0.0010000000474974513, "default rate"),
        ("keras.Lion", 0.01, "own rate"),
        ("keras.SGD", 0.01, "default rate"),
        ("keras.SGD", 0.001, "own rate"),
    ],
)
def test_defaults_of_keras_are_told_from_tuned_rates(name, rate, settings):
    found = row("Lion", optimizer_config={"class": name, "learning_rate": rate})
    assert found["class"] == name.removeprefix("keras.")
    assert found["learning_rate"] == rate
    assert found["settings"] == settings


def test_what_is_known_of_a_student():
    found = row("noisy")
    assert (found["scheme"], found["teachers"]) == ("min_max", "adam, sgd")
    assert (found["noise"], found["meta_updates"]) == ("gaussian 0.001", 9)
    assert found["hours"] == 0.5
    # A scheme without teachers means nothing.
    assert row("rnnprop")["scheme"] == ""
    assert math.isnan(row("adam")["hours"])
    assert row("adam")["settings"] == "preset paper"
    config = {"learning_rate": {"class_name": "CosineDecay"}, "class": "keras.Adam"}
    scheduled = row("Lion", optimizer_config=config)
    assert (scheduled["learning_rate"], scheduled["settings"]) == (
        "CosineDecay",
        "own rate",
    )
    mixed = row("mixer", optimizer_config={"pool": [{"rule": "adam"}, {"rule": "sgd"}]})
    assert mixed["teachers"] == "adam, sgd"


def test_a_row_for_each_label_and_its_replicates():
    table = participants.table(test_reporting.planted(), ["adam", "sgd"])
    assert list(table["optimizer"]) == list(test_reporting.PLANTED)
    assert dict(zip(table["optimizer"], table["replicates"], strict=True)) == {
        label: several for label, (_, _, several, _) in test_reporting.PLANTED.items()
    }


def test_one_look_for_all_figures():
    """Colours say the kind, and no two labels look alike."""
    runs = frames.runs(test_reporting.planted())
    styles = participants.styles(runs, ["adam", "sgd"])
    assert all(look.color == participants.KINDS[look.kind] for look in styles.values())
    assert len(set(participants.KINDS.values())) == len(participants.KINDS)
    assert styles["adam"].color == styles["sgd"].color != styles["ours"].color
    looks = [(look.color, look.marker) for look in styles.values()]
    assert len(set(looks)) == len(looks)


def test_figures_take_their_colours_from_it():
    found = evaluated.gather(test_reporting.planted())
    drawn = {one.name: one.figure for one in figures.all_figures(found)}
    panel = drawn["figure2"].axes[0]
    for tick in panel.get_yticklabels():
        assert tick.get_color() == found.styles[tick.get_text()].color
    lines = {line.get_color() for line in drawn["figure3"].axes[0].lines}
    assert lines == {
        participants.KINDS[kind] for kind in ("amalgamated", "Choice rule", "pool")
    }
    handles, labels = drawn["figure4"].axes[0].get_legend_handles_labels()
    for handle, label in zip(handles, labels, strict=True):
        assert handle.lines[0].get_color() == found.styles[label].color
        assert handle.lines[0].get_marker() == found.styles[label].marker
    assert intervals.GREY not in participants.KINDS.values()
