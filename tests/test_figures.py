"""Figures draw what was planted, and nothing else looks like data."""

import math

import numpy as np
import pandas as pd
import pytest

from tests import test_reporting
from tests.test_reporting import planted, record
from tf_amalgam import (
    evaluated,
    figures,
    figures_by_epoch,
    figures_of_stability,
    frames,
    intervals,
    participants,
    tables,
)

SMALL_POOL = ["adam", "sgd"]


def by_name(found, **options):
    drawn = figures.all_figures(evaluated.gather(found, **options))
    return {one.name: one for one in drawn}


def rows_of(panel):
    return [tick.get_text() for tick in panel.get_yticklabels()]


def dots_of(panel):
    """Returns y → x of the panel's dots."""
    return {round(y): x for x, y in panel.collections[-1].get_offsets()}


def beside(panel):
    """Returns y → what is written beside the panel."""
    return {round(text.xy[1]): text.get_text() for text in panel.texts}


def test_dots_stand_in_the_rows_of_their_labels():
    one = by_name(planted())["figure9"]
    table = one.numbers.set_index(["task", "optimizer"])
    rows = rows_of(one.figure.axes[0])
    # From the best to the worst; a Choice rule is a learned optimizer, too.
    assert rows == ["ours", "noisy", "mixer", "rnnprop"]
    for task, panel in zip(test_reporting.TASKS, one.figure.axes, strict=True):
        means = [table.loc[(task, label), "mean"] for label in rows]
        dots = dots_of(panel)
        np.testing.assert_allclose([dots[i] for i in range(len(rows))], means)
        bars = {round(y): (x, end) for (x, y), (end, _) in segments(panel)}
        low, high = (
            table.loc[(task, "noisy"), f"mean_{end}"] for end in ("low", "high")
        )
        assert bars[rows.index("noisy")] == (pytest.approx(low), pytest.approx(high))
        # From top to bottom, and names at the left of the first panel alone.
        assert panel.get_ylim()[0] > panel.get_ylim()[1]
    assert set(rows_of(one.figure.axes[1])) == {""}


def test_figure_1_has_who_had_several_teachers():
    found = planted()
    for one in found:
        if one["optimizer"] == "noisy":
            one["trained"] = {**one["trained"], "teachers": ["adam"]}
    one = by_name(found)["figure1"]
    assert rows_of(one.figure.axes[0]) == ["ours"]


def segments(panel):
    return panel.collections[0].get_segments()


def test_of_accuracies_the_highest_comes_first():
    assert rows_of(by_name(planted())["figure9_accuracy"].figure.axes[0]) == [
        "ours",
        "noisy",
        "mixer",
        "rnnprop",
    ]


def test_cropped_figures_mark_what_lies_beyond():
    drawn = by_name(planted())
    for cropped, whole in zip(
        drawn["figure2"].figure.axes, drawn["figure9"].figure.axes, strict=True
    ):
        assert cropped.get_xlim()[1] == figures.CROP < whole.get_xlim()[1]
        marks = [line for line in cropped.lines if line.get_marker() == ">"]
        assert [mark.get_ydata()[0] for mark in marks] == [3]  # rnnprop
        assert set(dots_of(cropped)) == {0, 1, 2}
        assert beside(cropped)[3].startswith("+3.")
        assert not [line for line in whole.lines if line.get_marker() == ">"]


def test_diverged_runs_are_words_and_no_marks():
    found = planted()
    for one in found:
        where = (one["optimizer"], one["task"])
        if where == ("rnnprop", "MLP") or (
            where == ("noisy", "Train") and one["seed"] == 0
        ):
            one |= {"diverged": True, "test": {}}
    one = by_name([r for r in found if r["optimizer"] != "sgd"])["figure9"]
    train, mlp = one.figure.axes
    assert rows_of(train) == ["ours", "noisy", "mixer", "rnnprop"]
    assert (beside(train), beside(mlp)) == ({1: "3 div."}, {3: "all div."})
    assert set(dots_of(mlp)) == {0, 1, 2}
    # Beside the panel, not in it.
    assert all(text.xy[0] > 1.0 for panel in (train, mlp) for text in panel.texts)
    assert "how many runs diverged" in one.caption
    assert "diverged" not in by_name(planted())["figure9"].caption


def test_wide_intervals_do_not_squash_the_means():
    """Two means close together, one interval a hundred times their distance."""
    table = pd.DataFrame(
        {
            "mean": [0.0, 0.1, 0.2],
            "mean_low": [-0.01, 0.09, -10.0],
            "mean_high": [0.01, 0.11, 10.0],
        }
    )
    low, high = intervals._limits(table, intervals.Block(table, ""))
    assert -0.1 < low < 0.0
    assert 0.2 < high < 0.3


def test_who_lacks_an_optimizee_comes_last():
    means = {"a": (0.0, math.nan), "b": (1.0, 1.0), "c": (2.0, 3.0)}
    table = pd.DataFrame(
        [
            {"task": task, "optimizer": label, "mean": mean}
            for label, both in means.items()
            for task, mean in zip(("Train", "MLP"), both, strict=True)
        ]
    )
    assert intervals.ranked(table, ["a", "b", "c"]) == ["b", "c", "a"]
    assert intervals.ranked(table, ["c", "b"], highest=True) == ["c", "b"]


def test_many_optimizees_stand_in_rows_of_panels(monkeypatch):
    tasks = dict.fromkeys([f"T{i}" for i in range(8)], -1.0)
    monkeypatch.setattr(test_reporting, "TASKS", {**tasks, "Train": -3.0})
    figure = by_name(planted())["figure2"].figure
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert len(shown) == 9
    assert len({round(axis.get_position().y0, 3) for axis in figure.axes}) == 2


@pytest.mark.parametrize(("epochs", "there"), [(9, False), (10, True)])
def test_stability_of_few_epochs_is_left_out(epochs, there):
    found = planted()
    for one in found:
        one["curves"] = {k: v[-epochs:] for k, v in one["curves"].items()}
    drawn = by_name(found)
    assert {"figure4", "figure5"} <= set(drawn) or not there
    assert not {"figure4", "figure5"} & set(drawn) or there
    values = {"log_train_loss", "log_best_val_loss"}
    values |= {"log_stability"} if there else set()
    assert set(drawn["figure10"].numbers["figure"]) == values
    assert ("σ_η" in drawn["figure10"].caption) == there
    given = evaluated.gather(found)
    results = next(t for t in tables.all_tables(given, found) if t.name == "results")
    assert ("stability" in results.table) == there


def test_learning_curves_count_the_diverged_runs_of_their_lines():
    found = planted()
    for one in found:
        lost = one["seed"] == 0 and one["task"] == "MLP"
        # Of rnnprop and sgd no line is drawn, nor of the other replicates.
        if lost and one["optimizer"] in ("rnnprop", "sgd", "ours"):
            one |= {"diverged": True, "test": {}}
    given = evaluated.gather(found, reference="ours")
    drawn = figures_by_epoch.validation(given)
    # Three lines of 3 seeds on 2 optimizees; one run of the best replicate is lost.
    assert "(1 of their 18 did)" in drawn.caption
    assert "lower end of a band stops at 0.5" in drawn.caption
    accuracy = figures_by_epoch.validation(given, "val_accuracy")
    assert "band stops" not in accuracy.caption


def test_the_choice_rule_of_a_student_is_that_of_its_replicate():
    """Not the best of all, which taught another."""
    found = [one for one in planted() if one["optimizer"] in ("adam", "ours")]
    for one in [one for one in found if one["optimizer"] == "ours"]:
        level = {0: 0.3, 1: 0.1, 2: 0.2}[one["replicate"]]
        one["trained"] = {**one["trained"], "scheme": "choice"}
        one["curves"] = {"loss": [level] * 10, "val_loss": [level] * 10}
        rule = {"loss": [0.5 - level] * 10, "val_loss": [0.5 - level] * 10}
        found.append({**one, "optimizer": "rule", "kind": "choice", "curves": rule})
    drawn = figures_by_epoch.validation(evaluated.gather(found, reference="ours"))
    means = drawn.numbers.groupby("optimizer")["mean"].mean()
    assert means["ours"] == pytest.approx(0.1)
    assert means["rule"] == pytest.approx(0.4)
    for one in found:  # students of other teachers, beside it
        one["trained"] = {**one["trained"], "scheme": "mean"}
    drawn = figures_by_epoch.validation(evaluated.gather(found, reference="ours"))
    assert drawn.numbers.groupby("optimizer")["mean"].mean()["rule"] < 0.25


def test_bands_stop_as_the_caption_says():
    """Losses 1 and 0.1: mean .55, sd .64; without an end the band would be below 0."""
    found = [record("Train", "adam", 0, seed) for seed in range(2)]
    for one, loss in zip(found, (1.0, 0.1), strict=True):
        one["curves"] = {"loss": [loss] * 10, "val_loss": [loss] * 10}
    panel = figures_by_epoch.validation(evaluated.gather(found)).figure.axes[0]
    lowest = min(y for _, y in panel.collections[0].get_paths()[0].vertices)
    assert lowest == pytest.approx(0.05)


def experiment(scheme, teachers, kind="", radius=0.0, student="rnnprop"):
    found = {"student": student, "scheme": scheme, "teachers": teachers}
    return {**found, "perturbation": {"kind": kind, "radius": radius} if kind else None}


def perturbed(monkeypatch):
    """Returns the records of two experiments, one of them of two sizes."""
    planted_ = {
        "adam": ("analytic", 0.0, 1, {}),
        "plain": ("learned", 0.0, 3, experiment("min_max", SMALL_POOL)),
        "g2": ("learned", 0.0, 3, experiment("min_max", SMALL_POOL, "gaussian", 1e-2)),
        "g3": ("learned", 0.0, 3, experiment("min_max", SMALL_POOL, "gaussian", 1e-3)),
        "a3": ("learned", 0.0, 3, experiment("min_max", SMALL_POOL, "fgsm", 1e-3)),
        "m3": ("learned", 0.0, 3, experiment("mean", [], "gaussian", 1e-3)),
        "large": ("learned", 0.0, 3, experiment("min_max", [*SMALL_POOL, "rmsprop"])),
        "alone": ("learned", 0.0, 3, experiment("mean", [])),
        "scale": ("learned", 0.0, 3, experiment("mean", [], student="scale")),
        "mean": ("learned", 0.0, 3, experiment("mean", SMALL_POOL)),
    }
    monkeypatch.setattr(test_reporting, "PLANTED", planted_)
    return planted()


def series_of(one):
    """Returns label → ε of what figure 6 draws."""
    handles, labels = one.figure.axes[0].get_legend_handles_labels()
    return {
        label: list(handle.lines[0].get_xdata())
        for handle, label in zip(handles, labels, strict=True)
        if hasattr(handle, "lines")
    }


def test_meta_stability_joins_one_experiment_only(monkeypatch):
    one = by_name(perturbed(monkeypatch))["figure6"]
    assert {label: len(radii) for label, radii in series_of(one).items()} == {
        "gaussian: min-max of adam, sgd": 2,
        "fgsm: min-max of adam, sgd": 1,
        "gaussian: rnnprop without teachers": 1,
    }
    assert series_of(one)["gaussian: min-max of adam, sgd"] == [1e-3, 1e-2]
    labels = one.figure.axes[0].get_legend_handles_labels()[1]
    assert {label for label in labels if label.endswith("undisturbed")} == {
        "plain, undisturbed",
        "alone, undisturbed",
    }
    assert set(one.numbers["optimizer"]) == {"g2", "g3", "a3", "m3", "plain", "alone"}


def test_a_perturbed_student_that_diverged_does_not_vanish(monkeypatch):
    found = perturbed(monkeypatch)
    for one in found:
        if one["optimizer"] == "g2":
            one |= {"diverged": True, "test": {}}
    drawn = by_name(found)["figure6"]
    row = drawn.numbers.set_index("optimizer").loc["g2"]
    assert (row["runs"], row["diverged"], row["note"]) == (9, 9, "all runs diverged")
    (told,) = drawn.figure.axes[0].texts
    assert told.get_text() == "g2: 9 of 9 diverged"
    assert drawn.figure.axes[0].get_xlim()[1] > 1e-2
    given = evaluated.gather(found)
    sixth = next(t for t in tables.all_tables(given, found) if t.name == "table6")
    row = sixth.table.set_index("optimizer").loc["g2"]
    assert (row["diverged"], row["note"]) == (9, "all runs diverged")


def test_single_replicates_stand_in_table_6_beside_others():
    found = [r for r in planted() if r["replicate"] == 0 or r["optimizer"] == "ours"]
    given = evaluated.gather(found)
    sixth = next(t for t in tables.all_tables(given, found) if t.name == "table6")
    rows = sixth.table.set_index("optimizer")
    assert rows.loc["ours", "meta"] > 0.0
    assert (rows.loc["noisy", "replicates"], rows.loc["noisy", "note"]) == (
        1,
        "one replicate",
    )
    assert math.isnan(rows.loc["noisy", "meta"])


def test_table_4_names_who_was_trained_whatever_is_known():
    found = planted()
    for one in found:
        if one["optimizer"] == "noisy":
            del one["trained"]["seconds"], one["trained"]["meta_updates"]
    given = evaluated.gather(found)
    drawn = {one.name: one for one in tables.all_tables(given, found)}
    rows = drawn["table4"].table.set_index("optimizer")
    assert list(rows.index) == ["ours", "noisy", "rnnprop"]
    assert math.isnan(rows.loc["noisy", "hours"])
    assert rows.loc["ours", "hours"] == 0.5
    # Without teachers there is no scheme.
    assert list(rows["scheme"]) == ["min_max", "min_max", ""]
    assert "Choice rule" in drawn["published4"].caption
    assert "6 replicates" in drawn["published6"].caption
    assert "8 replicates, 25 epochs" in drawn["published5"].caption


def test_only_large_optimizees_are_called_larger(monkeypatch):
    one = by_name(planted())["figure8"]
    panels = one.figure.axes
    assert rows_of(panels[0]) == ["Train (16)", "MLP (60,000)"]  # by size
    assert "Of more than 50,000 are MLP;" in one.caption
    colors = [tick.get_color() for tick in panels[0].get_yticklabels()]
    assert colors[0] == intervals.GREY != colors[1]
    # Where the oracle is adam, both are to be seen.
    numbers = one.numbers.set_index(["opponent", "task"])["difference"]
    for panel, opponent in zip(panels, ("oracle", "adam"), strict=True):
        assert dots_of(panel)[1] == pytest.approx(numbers[opponent, "MLP"])
    monkeypatch.setattr(test_reporting, "SHAPES", {"MLP": [[500, 100]]})
    assert "figure8" not in by_name(planted())


def test_an_accuracy_that_is_not_there_is_no_divergence():
    found = planted()
    for one in found:
        if one["optimizer"] == "rnnprop":
            del one["curves"]["val_accuracy"]
    assert frames.runs(found)["best_val_accuracy"].isna().any()
    one = by_name(found)["figure9_accuracy"]
    assert set(one.numbers["diverged"]) == {0}
    assert beside(one.figure.axes[0]) == {3: "no value"}


def test_figure_4_names_each_optimizer_once():
    axis = figures_of_stability.stability_and_performance(
        evaluated.gather(planted())
    ).figure.axes[0]
    assert sorted(axis.get_legend_handles_labels()[1]) == [
        "Lion",
        "adam",
        "ours",
        "sgd",
    ]


def test_figure_4_does_not_lose_who_diverged():
    found = planted()
    for one in found:
        if one["task"] == "Train" and (
            one["optimizer"] == "sgd" or (one["optimizer"], one["seed"]) == ("adam", 0)
        ):
            one |= {"diverged": True, "test": {}}
    drawn = by_name(found)["figure4"]
    labels = drawn.figure.axes[0].get_legend_handles_labels()[1]
    assert sorted(labels) == [
        *("Lion", "adam (1 of 3 diverged)", "ours", "sgd (3 of 3 diverged)"),
    ]
    assert "there is no point" in drawn.caption
    assert set(drawn.numbers["optimizer"]) == {"Lion", "adam", "ours", "sgd"}
    assert "there is no point" not in by_name(planted())["figure4"].caption
    for one in found:
        one["diverged"] |= one["task"] == "Train"
    assert "figure4" not in by_name(found)


def test_figure_6_says_what_was_lost_of_the_undisturbed(monkeypatch):
    found = perturbed(monkeypatch)
    for one in found:
        if (one["optimizer"], one["task"], one["seed"]) == ("plain", "Train", 0):
            one |= {"diverged": True, "test": {}}
    labels = by_name(found)["figure6"].figure.axes[0].get_legend_handles_labels()[1]
    assert "plain, undisturbed (3 of 9 diverged)" in labels
    assert "alone, undisturbed" in labels


def test_figure_6_needs_no_undisturbed_student(monkeypatch):
    found = [r for r in perturbed(monkeypatch) if r["optimizer"] in ("adam", "g2")]
    one = by_name(found)["figure6"]
    assert series_of(one) == {"gaussian: min-max of adam, sgd": [1e-2]}
    assert set(one.numbers["optimizer"]) == {"g2"}


def test_figure_8_tells_a_lost_oracle_from_runs_that_are_not_there():
    found = planted()
    for one in found:
        if one["task"] == "MLP" and one["optimizer"] in ("adam", "sgd"):
            one |= {"diverged": True, "test": {}}
        if (one["task"], one["optimizer"], one["replicate"]) == ("Train", "adam", 0):
            one["diverged"] |= one["seed"] == 1
    drawn = by_name([one for one in found if one["replicate"] == 0])["figure8"]
    oracle, adam = drawn.figure.axes
    assert beside(oracle) == {1: "no oracle"}
    # Of adam two seeds are left on one, none on the other.
    assert beside(adam) == {0: "2 of 3 seeds", 1: "no value"}


def test_figure_8_counts_the_diverged_runs_of_its_reference():
    """They are missing partners, too, but no missing runs."""
    found = [one for one in planted() if one["replicate"] == 0]
    for one in found:
        if (one["task"], one["optimizer"], one["seed"]) == ("MLP", "ours", 1):
            one |= {"diverged": True, "test": {}}
    drawn = by_name(found, reference="ours")["figure8"]
    assert beside(drawn.figure.axes[0]) == {1: "1 div."}


def test_figure_8_has_the_colour_of_its_reference():
    found = planted()
    for one in found:
        if one["optimizer"] == "ours":  # imported: student, but no optimizee
            one["trained"] = {**one["trained"], "task": "", "student": "rnnprop"}
    drawn = by_name(found, reference="ours")["figure8"]
    colors = [tick.get_color() for tick in drawn.figure.axes[0].get_yticklabels()]
    assert colors[1] == participants.KINDS["authors' weights"]


def test_students_are_counted_once_where_they_were_trained():
    """Three replicates of one on MLP are no majority over two on Train."""
    found = [one for one in planted() if one["kind"] == "learned"]
    for one in found:
        one["trained"]["task"] = "MLP" if one["optimizer"] == "ours" else "Train"
    extra = [one for one in found if one["optimizer"] == "ours"]
    runs = frames.runs([*found, *extra, *extra, *extra])
    assert (runs["trained_on"] == "MLP").mean() > 0.5
    assert frames.trained_on(runs) == "Train"


def test_headings_of_a_single_optimizee_are_whole():
    """With one panel beside another a heading has more room."""
    found = [one for one in planted() if one["task"] == "Train"]
    for one in found:
        if one["optimizer"] == "noisy":
            one["optimizer"] = "mmmm-www-mmmm"  # takes room from the panels
    for name, one in by_name(found).items():
        if name in ("figure1", "figure2", "figure9"):
            one.figure.canvas.draw()
            for panel in one.figure.axes:
                right = panel._left_title.get_window_extent().x1
                assert right <= one.figure.bbox.x1, name
