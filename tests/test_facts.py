"""The sentences at the head of a report."""

import json
import pathlib

import pytest

from tests.test_reporting import planted, undrawn, written  # noqa: F401 -- a fixture
from tf_amalgam import evaluated, facts, frames, records, reporting


def said(found, missing=(), failed=()):
    given = evaluated.gather(found)
    return facts.all_facts(given, found, list(missing), list(failed))


def starting(lines, words):
    return [line for line in lines if line.startswith(words)]


def test_single_replicates_are_said():
    several = [one for one in planted() if one["optimizer"] != "mixer"]
    assert not starting(said(several), "One replicate each")
    single = [one for one in planted() if one["replicate"] == 0]
    assert starting(said(single), "One replicate each") == [
        "One replicate each: ours, noisy, rnnprop, mixer; intervals are over "
        "evaluations, not over retraining; no σ_α, so no Figure 6 and Table 6."
    ]
    mixed = [r for r in planted() if r["replicate"] == 0 or r["optimizer"] == "ours"]
    assert starting(said(mixed), "One replicate each") == [
        "One replicate each: noisy, rnnprop, mixer; intervals are over evaluations, "
        "not over retraining; no σ_α of them."
    ]


def test_failed_runs_are_named_with_their_optimizee():
    given = evaluated.gather(found := planted())
    failed = [
        pathlib.Path(f"runs/{task}/ours-replicate0-seed1.failed.txt")
        for task in ("MLP", "Train")
    ]
    assert facts.all_facts(given, found, [], failed)[-1] == (
        "2 runs failed and have no record: MLP/ours-replicate0-seed1, "
        "Train/ours-replicate0-seed1."
    )


@pytest.mark.usefixtures("undrawn")
def test_there_is_no_table_6_of_single_replicates(tmp_path):
    single = [one for one in planted() if one["replicate"] == 0]
    page = reporting.write_report(written(single, tmp_path))
    names = {path.name for path in page.parent.iterdir()}
    assert not names & {"table6.csv", "published6.csv", "figure6.png"}
    assert "Table 6)" not in page.read_text()


def test_short_curves_are_said():
    assert not starting(said(planted()), "Optimization stability")
    found = planted()
    for one in found:
        one["curves"] = {k: values[-9:] for k, values in one["curves"].items()}
    (line,) = starting(said(found), "Optimization stability")
    assert "fewer than 10 epochs" in line


def test_which_test_split_is_said():
    found = planted()
    told = "The test split is measured at the weights of the best validation epoch."
    assert told in said(found)


def test_long_lists_are_capped():
    missing = [f"optimizer {i} on Train: none" for i in range(12)]
    (line,) = starting(said(planted(), missing), "Missing runs")
    assert line.endswith("optimizer 9 on Train: none and 2 more (missing.csv).")
    assert "optimizer 10" not in line
    (line,) = starting(said(planted(), missing[:10]), "Missing runs")
    assert line.endswith("optimizer 9 on Train: none.")
    failed = [pathlib.Path(f"Train/adam-seed{i}.failed.txt") for i in range(11)]
    (line,) = starting(said(planted(), (), failed), "11 runs failed")
    assert line.endswith("adam-seed9 and 1 more.")


def test_what_was_planned_and_is_nowhere_is_missing(tmp_path):
    """A sweep that ended early has the same seeds everywhere."""
    planned = {"adam": [0], "ours": [0, 1, 2]}
    records.remember_order(tmp_path, ["Train"], list(planned), [0, 1], planned)
    records.remember_order(tmp_path, ["Train"], ["adam"], [2])
    order = records.read_order(tmp_path)
    assert (order["seed"], order["replicates"]) == ([0, 1, 2], planned)
    found = [
        one
        for one in planted()
        if (one["task"], one["seed"]) == ("Train", 0)
        and one["optimizer"] in planned
        and one["replicate"] < 2
    ]
    assert facts.missing_runs(frames.runs(found), order) == [
        "adam (0) on Train: seeds 1, 2",
        "ours (2) on Train: none",
        "ours (0) on Train: seeds 1, 2",
        "ours (1) on Train: seeds 1, 2",
    ]


def test_replicates_go_by_their_numbers(tmp_path):
    """Of three the first had no student, and was not to be evaluated."""
    planned = {"ours": [1, 2]}
    records.remember_order(tmp_path, ["Train"], ["ours"], [0, 1, 2], planned)
    found = [
        one
        for one in planted()
        if (one["task"], one["optimizer"], one["replicate"]) == ("Train", "ours", 1)
    ]
    order = records.read_order(tmp_path)
    assert facts.missing_runs(frames.runs(found), order) == ["ours (2) on Train: none"]
    # As earlier versions wrote it: how many there are.
    path = tmp_path / records.ORDER_FILE
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "replicates": {"ours": 2}}))
    assert records.read_order(tmp_path)["replicates"] == {"ours": [0, 1]}


def test_equal_terms_are_by_replicate_where_there_are_several():
    single = [one for one in planted() if one["replicate"] == 0]
    assert "; per seed the same initial" in said(single)[1]
    assert "; per seed and replicate the same initial" in said(planted())[1]


def test_rivals_are_said():
    found = planted()
    for one in found:
        if (one["optimizer"], one["task"]) == ("Lion", "MLP") and one["seed"] == 0:
            one |= {"diverged": True, "test": {}}
    given = evaluated.gather(found, rivals=["Lion"])
    lines = starting(facts.all_facts(given, found, [], []), ("Rivals", "No rival"))
    assert lines == [
        "Rivals: Lion; the best of them by validation: Train: Lion.",
        "No rival on MLP: each has diverged or missing runs there.",
    ]


def test_who_was_not_chosen_from_is_said():
    """One that lacks or lost a run is no oracle, and no best rival."""
    words = "Not chosen from, for diverged or missing runs:"
    assert not starting(said(planted()), words)
    found = [
        one
        for one in planted()
        if (one["optimizer"], one["task"], one["seed"]) != ("adam", "MLP", 2)
    ]
    for one in found:
        if (one["optimizer"], one["seed"]) == ("ours", 1):
            one |= {"diverged": True, "test": {}}
    given = evaluated.gather(found, rivals=("ours", "rnnprop"))
    assert given.best["MLP"] == "sgd"
    assert starting(facts.all_facts(given, found, [], []), words) == [
        f"{words} adam (MLP).",
        f"{words} ours (Train, MLP).",
    ]


def test_losses_below_zero_are_said():
    """An optimizee whose loss is a cosine: nobody is e^80 times better."""
    found = planted()
    for one in found:
        if one["task"] == "MLP":
            for key in ("loss", "val_loss"):
                losses = one["curves"][key]
                one["curves"][key] = [loss - 9.0 for loss in losses]
            for split in ("test", "test_at_best"):
                one[split] = {**one[split], "loss": one[split]["loss"] - 9.0}
    runs = frames.runs(found)
    logs = runs[["log_best_val_loss", "log_test_at_best_loss", "log_stability"]]
    assert logs[runs["task"] == "MLP"].isna().all(axis=None)
    assert logs[runs["task"] == "Train"].notna().all(axis=None)
    assert starting(said(found), "Losses below 0") == [
        "Losses below 0, on MLP, have no logarithm: they are in no comparison of log "
        "losses."
    ]
    assert not starting(said(planted()), "Losses below 0")
    found = planted()
    found[0]["test_at_best"] = {"loss": -0.1}
    assert starting(said(found), "Losses below 0, on Train")


@pytest.mark.usefixtures("undrawn")
def test_all_missing_runs_are_on_disk(tmp_path):
    found = [one for one in planted() if one["optimizer"] != "sgd"]
    page = reporting.write_report(written(found, tmp_path))
    lines = (page.parent / "missing.csv").read_text().splitlines()
    assert lines == ["missing", "sgd on Train: none", "sgd on MLP: none"]
