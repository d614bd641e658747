"""The sentences at the head of a report."""

import pathlib

from tests.test_reporting import planted, written
from tf_amalgam import evaluated, facts, reporting


def said(found, missing=(), failed=()):
    given = evaluated.gather(found)
    return facts.all_facts(given, found, list(missing), list(failed))


def starting(lines, words):
    return [line for line in lines if line.startswith(words)]


def test_single_replicates_are_said():
    assert not starting(said(planted()), "One replicate each")
    single = [one for one in planted() if one["replicate"] == 0]
    assert starting(said(single), "One replicate each") == [
        "One replicate each: ours, noisy, rnnprop; intervals are over evaluations, not "
        "over retraining; no σ_α, so no Figure 6 and Table 6."
    ]
    mixed = [r for r in planted() if r["replicate"] == 0 or r["optimizer"] == "ours"]
    assert starting(said(mixed), "One replicate each") == [
        "One replicate each: noisy, rnnprop; intervals are over evaluations, not over "
        "retraining; no σ_α of them."
    ]


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
    told = "The test split is measured at the weights of the"
    assert f"{told} best validation epoch." in said(found)
    found[0]["test_at_best"] = {}
    assert f"{told} last epoch." in said(found)


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


def test_all_missing_runs_are_on_disk(tmp_path):
    found = [one for one in planted() if one["optimizer"] != "sgd"]
    page = reporting.write_report(written(found, tmp_path))
    lines = (page.parent / "missing.csv").read_text().splitlines()
    assert lines == ["missing", "sgd on Train: none", "sgd on MLP: none"]
