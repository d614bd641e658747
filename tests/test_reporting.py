"""The report of made-up records with known truth: tables, figures, one page."""

import base64
import html.parser
import json
import math
import re
import shutil
import socket
import subprocess
import time
import urllib.request

import numpy as np
import pandas as pd
import pytest
from scipy import stats as distributions

from tf_amalgam import (
    evaluated,
    figures,
    files,
    frames,
    glances,
    pages,
    plots,
    records,
    reporting,
)

EPOCHS = evaluated.STEADY_EPOCHS
# Label → (kind, log loss against adam's, replicates, how it was trained).
PLANTED = {
    "adam": ("analytic", 0.0, 1, {}),
    "sgd": ("analytic", 0.8, 1, {}),
    "ours": ("learned", -0.5, 3, {"scheme": "min_max", "teachers": ["adam", "sgd"]}),
    "noisy": (
        "learned",
        -0.1,
        3,
        {
            "scheme": "min_max",
            "teachers": ["adam", "sgd"],
            "perturbation": {"kind": "gaussian", "radius": 0.001},
        },
    ),
    "rnnprop": ("learned", 3.0, 2, {"scheme": "mean", "teachers": []}),
    "mixer": ("choice", 0.1, 1, {"scheme": "choice", "teachers": []}),
    "Lion": ("keras", 0.3, 1, {}),
}
TASKS = {"Train": -3.0, "MLP": -2.0}
SHAPES = {"MLP": [[300, 200]]}  # larger, in Figure 8; the others have 16 parameters


def record(task, optimizer, replicate, seed, **changes):
    kind, level, _, trained = PLANTED[optimizer]
    generator = np.random.default_rng(
        [len(optimizer), ord(optimizer[0]), len(task), replicate, seed]
    )
    log_loss = TASKS[task] + level + 0.03 * generator.normal()
    log_loss += 0.1 * np.random.default_rng([7, replicate, len(optimizer)]).normal()
    losses = [math.exp(log_loss + 0.4 * (EPOCHS - 1 - t)) for t in range(EPOCHS)]
    found = {
        "task": task,
        "optimizer": optimizer,
        "replicate": replicate,
        "seed": seed,
        "kind": kind,
        "trained": {**trained, "task": "Train", "seconds": 1800.0, "meta_updates": 9}
        if kind == "learned"
        else trained,
        "start_loss": 2.3,
        "curves": {
            "loss": [1.1 * loss for loss in losses],
            "val_loss": losses,
            "val_accuracy": [1.0 - loss for loss in losses],
        },
        "test": {"loss": 1.2 * losses[-1], "accuracy": 0.9},
        "test_at_best": {"loss": 1.3 * min(losses), "accuracy": 0.95},
        "batch_losses": [1.0],
        "diverged": False,
        "seconds": 10.0,
        "steps_per_epoch": 100,
        "load": 1.0,
        "step_milliseconds": 2.0,
        "optimizer_config": {},
        "settings": {
            "epochs": EPOCHS,
            "warmup_steps": 5,
            "warmup_learning_rate": 0.01,
            "preset": "paper",
            "task": {
                "name": task,
                "dataset": "digits",
                "examples": [100, 20, 20],
                "batch_size": 8,
                "loss": "mse",
                "shapes": SHAPES.get(task, [[3, 4], [4]]),
            },
        },
        "versions": {"keras": "3"},
    }
    return {**found, **changes}


# A picture of one point.
DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNg"
    "AAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


@pytest.fixture
def undrawn(monkeypatch):
    """Empty pictures instead of figures: most of a page's time is their text."""

    def write(figure, *paths):
        for path in paths:
            files.write_bytes(path, base64.b64decode(DOT))

    monkeypatch.setattr(plots, "write", write)


def planted():
    return [
        record(task, optimizer, replicate, seed)
        for task in TASKS
        for optimizer, (_, _, replicates, _) in PLANTED.items()
        for replicate in range(replicates)
        for seed in range(3)
    ]


def few():
    """Records of two optimizers, where a page takes a second and not ten."""
    return [
        record("Train", name, 0, seed) for name in ("adam", "ours") for seed in (0, 1)
    ]


def written(found, folder):
    for one in found:
        path = records.record_path(
            folder, one["task"], one["optimizer"], one["seed"], one["replicate"]
        )
        files.write_json(path, records.stamped(one))
    records.remember_order(folder, list(TASKS), list(PLANTED))
    return folder


class Reader(html.parser.HTMLParser):
    """Takes the text and the outside references of a page."""

    def __init__(self, page):
        super().__init__()
        self.text, self.sources, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.sources += [v for k, v in attributes if k in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = written(planted(), tmp_path_factory.mktemp("report"))
    return reporting.write_report(folder)


def test_the_page_stands_alone(page):
    reader = Reader(page.read_text())
    assert reader.open == []
    assert len(reader.sources) == 11
    assert all(s.startswith("data:image/png;base64,") for s in reader.sources)
    text = " ".join(reader.text)
    for number in (1, 2, 3, 4, 5, 6, 8, 9, 10, 11):
        assert f"Figure {number})" in text
    for number in (1, 4, 5, 6):
        assert f"Table {number})" in text
    for number in (4, 5, 6):
        assert f"Published: Table {number}" in text
    assert "72 runs: 0 diverged, 6 did not learn" in text
    assert "Oracles: Train: adam, MLP: adam" in text
    assert "Reference: ours" in text
    assert "Missing runs" not in text
    assert "Numbers: figure1.csv." in text


def test_every_figure_and_table_has_its_numbers_beside_it(page):
    names = {path.name for path in page.parent.iterdir()}
    drawn = {name.removesuffix(".png") for name in names if name.endswith(".png")}
    assert len(drawn) == 11
    for name in drawn:
        assert f"{name}.svg" in names
        assert len(pd.read_csv(page.parent / f"{name}.csv")) > 0
    for name in ("results", "table1", "table4", "table5", "table6", "oracle", "runs"):
        assert len(pd.read_csv(page.parent / f"{name}.csv")) > 0


def test_figures_say_what_was_planted(page):
    """Within five standard errors of a mean of three replicates (.06 each)."""
    table = pd.read_csv(page.parent / "figure2.csv").set_index(["task", "optimizer"])
    for task in TASKS:
        assert table.loc[(task, "ours"), "mean"] == 0.0
        assert table.loc[(task, "rnnprop"), "mean"] == pytest.approx(3.5, abs=0.4)
        assert table.loc[(task, "noisy"), "mean"] == pytest.approx(0.4, abs=0.4)
    first = pd.read_csv(page.parent / "figure1.csv")
    assert set(first["optimizer"]) == {"ours", "noisy"}  # no teachers, no amalgam
    sizes = pd.read_csv(page.parent / "figure8.csv")
    assert set(sizes["parameters"]) == {16, 60_000}
    assert set(sizes["opponent"]) == {"oracle", "adam"}
    noise = pd.read_csv(page.parent / "figure6.csv").set_index("optimizer")
    assert noise.loc["noisy", "radius"] == 0.001
    assert noise.loc["ours", "meta"] > 0.0


def test_verdicts_against_the_oracle(page):
    table = pd.read_csv(page.parent / "oracle.csv").set_index(["task", "optimizer"])
    chosen = pd.read_csv(page.parent / "oracle_validation.csv")
    # Test losses are 1.2 times validation losses, of all.
    np.testing.assert_allclose(table["difference"], chosen["difference"], rtol=1e-9)
    assert table.loc[("Train", "ours"), "verdict"] == "better"
    assert table.loc[("Train", "ours"), "effect"] < -2
    assert table.loc[("Train", "sgd"), "verdict"] == "worse"
    assert table.loc[("Train", "adam"), "verdict"] == "level"
    # Three means of replicates against three seeds of another optimizer (Welch).
    runs = frames.runs(planted()).query("task == 'Train'")
    means = runs.query("optimizer == 'ours'").groupby("replicate")[
        "log_test_at_best_loss"
    ]
    adam = runs.query("optimizer == 'adam'")["log_test_at_best_loss"]
    test = distributions.ttest_ind(means.mean(), adam, equal_var=False)
    low, high = test.confidence_interval()
    row = table.loc[("Train", "ours")]
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    told = re.search(r'<td class="better">(-0\.\d\d) better</td>', page.read_text())
    assert float(told[1]) == round(table.loc[("Train", "ours"), "difference"], 2)


@pytest.mark.usefixtures("undrawn")
def test_each_table_is_of_the_losses_it_names(tmp_path):
    """Training losses differ by replicate, test losses by seed, as no others do."""
    found = planted()
    for one in found:
        if one["optimizer"] == "ours":
            one["curves"]["loss"][-1] *= math.exp(0.3 * one["replicate"])
            one["test_at_best"]["loss"] *= math.exp(0.5 * one["seed"])
    folder = reporting.write_report(written(found, tmp_path)).parent

    def table(name):
        return pd.read_csv(folder / f"{name}.csv").set_index("optimizer")

    def of(optimizer, figure):
        runs = [r for r in found if (r["task"], r["optimizer"]) == ("Train", optimizer)]
        return np.array([figure(r) for r in runs]).reshape(-1, 3)  # [replicates, seeds]

    def spreads(values):
        """Returns σ_α and σ_ε from mean squares."""
        between, within = 3 * values.mean(1).var(ddof=1), values.var(1, ddof=1).mean()
        return np.sqrt((between - within) / 3), np.sqrt(within)

    def best(record):
        return min(record["curves"]["val_loss"])

    def test(record):
        return record["test_at_best"]["loss"]

    oracle, chosen = (
        table(name).query("task == 'Train'")["difference"]
        for name in ("oracle", "oracle_validation")
    )
    assert oracle["ours"] - chosen["ours"] == pytest.approx(0.5)
    assert oracle["noisy"] == pytest.approx(chosen["noisy"])
    of_train = table("table6").loc["ours", ["meta", "meta_low", "meta_high"]]
    train = spreads(np.log(of("ours", lambda r: r["curves"]["loss"][-1])))[0]
    assert of_train["meta_low"] < of_train["meta"] < of_train["meta_high"]
    assert of_train["meta"] == pytest.approx(train)
    noise = table("table5")["Train"]
    assert noise["ours"] == pytest.approx(spreads(np.log(of("ours", best)))[1])
    assert noise["adam"] == pytest.approx(np.log(of("adam", best)).std(ddof=1))
    rows = table("results").query("optimizee == 'Train'")
    adam, ours = rows.loc["adam"], rows.loc["ours"]
    told = ours[["sigma_alpha", "sigma_epsilon"]].to_list()
    assert told == pytest.approx(spreads(of("ours", best)))
    assert math.isnan(adam["sigma_alpha"])
    assert adam["sigma_epsilon"] == pytest.approx(of("adam", best).std(ddof=1))
    ends = {"best_val_loss": ("low", "high"), "test_loss": ("test_low", "test_high")}
    for row, label, degrees in ((adam, "adam", 2), (ours, "ours", 2)):
        for figure, (column, interval) in zip((best, test), ends.items(), strict=True):
            values = of(label, figure)
            means = values[0] if len(values) == 1 else values.mean(1)
            error = means.std(ddof=1) / math.sqrt(len(means))
            if label == "ours" and figure is test:  # replicates do not differ in it
                error = values.std(ddof=1) / 3
            half = distributions.t.ppf(0.975, degrees) * error
            assert row[column] == pytest.approx(values.mean())
            assert row[interval[0]] == pytest.approx(values.mean() - half)
            assert row[interval[1]] == pytest.approx(values.mean() + half)


def test_times_to_the_oracles_loss():
    """By hand: goal .15; epochs of 10 steps at 2 ms."""

    def run(optimizer, losses, **changes):
        curves = {"loss": losses, "val_loss": losses}
        return record("Train", optimizer, 0, 0, curves=curves, steps_per_epoch=10) | {
            **changes
        }

    found = [
        run("adam", [0.4, 0.2, 0.1]),
        run("adam", [0.4, 0.3, 0.2]),
        run("ours", [0.15, 0.2, 0.1]),
        run("ours", [0.4, 0.2, 0.16]),
        run("ours", [0.1, math.nan], diverged=True),
    ]
    table = frames.reaching(found, {"Train": "adam"}).set_index("optimizer")
    assert tuple(table.loc["adam", ["runs", "reached", "steps"]]) == (2, 1, 30)
    assert tuple(table.loc["ours", ["runs", "reached", "steps"]]) == (3, 1, 10)
    assert table.loc["ours", "seconds"] == pytest.approx(0.02)


def test_the_oracle_is_chosen_by_validation_among_whole_members():
    frame = frames.runs(planted())
    assert frames.oracle(frame, ["adam", "sgd"]) == {"Train": "adam", "MLP": "adam"}
    assert frames.oracle(frame, ["sgd"]) == {"Train": "sgd", "MLP": "sgd"}
    # A test loss, however good, does not matter …
    found = [
        one | {"test_at_best": {"loss": 0.0}} if one["optimizer"] == "sgd" else one
        for one in planted()
    ]
    assert frames.oracle(frames.runs(found), ["adam", "sgd"])["Train"] == "adam"
    # … a diverged run does, and so does a missing one.
    found = planted()
    broken = next(r for r in found if (r["task"], r["optimizer"]) == ("MLP", "adam"))
    broken["diverged"] = True
    assert frames.oracle(frames.runs(found), ["adam", "sgd"])["MLP"] == "sgd"
    found.remove(broken)
    assert frames.oracle(frames.runs(found), ["adam", "sgd"])["MLP"] == "sgd"


@pytest.mark.usefixtures("undrawn")
def test_diverged_missing_and_failed_runs_are_said(tmp_path):
    found = planted()
    for one in found:
        if (one["optimizer"], one["replicate"]) == ("ours", 1):
            one |= {"diverged": True, "test": {}}
            one["curves"]["loss"][-1] = math.nan
            one["step_milliseconds"] = 1e6
        if one["optimizer"] == "sgd":
            one["start_loss"] = 0.001
    found = [
        one
        for one in found
        if (one["task"], one["optimizer"]) != ("MLP", "Lion")
        and (one["task"], one["optimizer"], one["seed"]) != ("MLP", "mixer", 2)
        and (one["task"], one["optimizer"], one["replicate"]) != ("MLP", "noisy", 2)
    ]
    written(found, tmp_path)
    records.remember_order(tmp_path, [], ["forgotten"])
    # A failure that was made good since is none.
    (tmp_path / "Train" / "Lion-replicate0-seed0.failed.txt").write_text("Error: no")
    (tmp_path / "Train" / "Lion-replicate0-seed9.failed.txt").write_text("Error: no")
    text = " ".join(Reader(reporting.write_report(tmp_path).read_text()).text)
    assert "65 runs: 6 diverged, 12 did not learn" in text
    for missing in (
        "mixer (0) on MLP: seeds 2",
        "Lion on MLP: none",
        "noisy (2) on MLP: none",
        "forgotten on Train: none",
    ):
        assert missing in text
    assert "1 runs failed and have no record: Train/Lion-replicate0-seed9" in text
    assert "all runs of 1 replicates diverged" in text
    table = pd.read_csv(tmp_path / "report" / "results.csv")
    row = table[(table["optimizer"] == "ours") & (table["optimizee"] == "Train")].iloc[
        0
    ]
    assert (row["runs"], row["diverged"]) == (9, 3)
    assert row["ms_per_step"] < 100.0  # of those that did not
    stability = pd.read_csv(tmp_path / "report" / "table5.csv", index_col="optimizer")
    assert list(stability.columns) == list(TASKS)
    assert stability.loc["ours"].isna().all()
    assert stability.loc["adam"].notna().all()


def gathered(found, **options):
    return evaluated.gather(found, **options)


def test_a_run_that_diverged_makes_no_optimizer_better():
    """However good the others are."""
    found = planted()
    for one in found:
        if (one["optimizer"], one["replicate"], one["task"]) == ("ours", 0, "MLP"):
            one["diverged"] = True
    table = frames.verdicts(
        frames.with_oracle(*(gathered(found)[i] for i in (0, 3))), "oracle"
    ).set_index(["task", "optimizer"])
    assert table.loc[("MLP", "ours"), "verdict"] == "diverged"
    assert table.loc[("Train", "ours"), "verdict"] == "better"
    # Two replicates are left, and count as two.
    expected = frames.runs(found).query("task == 'MLP' and optimizer == 'ours'")
    means = expected.groupby("replicate")["log_test_at_best_loss"].mean().dropna()
    assert len(means) == 2


def test_verdicts_between_runs_of_equal_seeds_are_paired():
    """A gain that is the same for each seed shows through what seeds differ in."""
    found = []
    for seed in range(3):
        level = 0.1 * np.random.default_rng(seed).normal()
        for optimizer, gain in (("adam", 0.0), ("Lion", -0.05 - 0.001 * seed)):
            loss = math.exp(-2.0 + level + gain)
            one = record("Train", optimizer, 0, seed)
            found.append(one | {"test_at_best": {"loss": loss, "accuracy": 0.9}})
    row = frames.verdicts(frames.runs(found), "adam").iloc[0]
    assert row["verdict"] == "better"
    assert row["difference"] == pytest.approx(-0.051)
    assert row["high"] < -0.04


def test_effect_sizes_do_not_grow_with_evaluations():
    """Planted: one standard deviation of a run, within the noise of 8 x 40 runs."""

    def sized(evaluations):
        generator = np.random.default_rng(0)
        rows = []
        for optimizer, mean in (("a", 0.0), ("b", 1.0)):
            for replicate in range(8):
                alpha = 0.6 * generator.normal()
                rows += [
                    {
                        **{"task": "Train", "optimizer": optimizer, "diverged": False},
                        **{"replicate": replicate, "seed": seed},
                        "log_test_at_best_loss": mean
                        + alpha
                        + 0.8 * generator.normal(),
                    }
                    for seed in range(evaluations)
                ]
        return frames.verdicts(pd.DataFrame(rows), "a")["effect"][0]

    assert sized(5) == pytest.approx(1.0, abs=0.5)
    assert sized(40) == pytest.approx(1.0, abs=0.5)


def test_the_reference_is_the_best_of_those_with_fewest_diverged_runs():
    found = planted()
    assert frames.reference_of(frames.runs(found)) == "ours"
    for one in found:
        if (one["optimizer"], one["task"], one["seed"]) == ("ours", "Train", 0):
            one["diverged"] = True
    assert frames.reference_of(frames.runs(found)) == "noisy"
    # Each diverged once, on another optimizee: the better one where both have runs.
    for one in found:
        if (one["optimizer"], one["task"], one["seed"]) == ("noisy", "MLP", 0):
            one["diverged"] = True
    assert frames.reference_of(frames.runs(found)) == "ours"


@pytest.mark.parametrize("reference", ["adam", "rnnprop", "ours"])
def test_any_reference_will_do(reference):
    found = planted()
    for one in found:
        if (one["optimizer"], one["task"]) == ("ours", "MLP"):
            one["diverged"] = True
    drawn = figures.all_figures(gathered(found, reference=reference))
    first = next(one for one in drawn if one.name == "figure1").numbers
    assert first.loc[first["optimizer"] == "noisy", "mean"].notna().all()
    # Where it has no run, 0 is the lowest of those who are there.
    given = gathered(found, reference=reference)
    means = evaluated.relative(given, ["adam", "sgd", "noisy"], "log_best_val_loss")
    lowest = means[means["task"] == "MLP"]["mean"].min()
    assert (lowest == 0.0) == (reference in ("ours", "adam"))
    zero = means.set_index(["task", "optimizer"])["mean"].get(("Train", "adam"))
    assert (zero == 0.0) == (reference == "adam")
    fifth = next(one for one in drawn if one.name == "figure5").numbers
    assert not fifth.duplicated(["task", "optimizer"]).any()


@pytest.mark.usefixtures("undrawn")
def test_where_the_whole_pool_diverged_there_is_no_oracle(tmp_path):
    found = planted()
    for one in found:
        if one["kind"] == "analytic" and one["task"] == "MLP" and one["seed"] == 1:
            one |= {"diverged": True, "test": {}}
    text = reporting.write_report(written(found, tmp_path)).read_text()
    assert "No oracle on MLP: every member of the pool" in text
    others = [one for one in planted() if one["kind"] != "analytic"]
    folder = written(others, tmp_path / "others")
    assert (
        "No analytic optimizer took part" in reporting.write_report(folder).read_text()
    )


def test_unequal_terms_are_refused(tmp_path):
    found = planted()
    found[0]["settings"]["epochs"] = 25
    with pytest.raises(ValueError, match="different terms: .*epochs 25.*epochs 10"):
        reporting.write_report(written(found, tmp_path))


@pytest.mark.usefixtures("undrawn")
def test_a_private_run_without_a_claim_has_no_finite_epsilon(tmp_path):
    found = [record("Train", "adam", 0, seed) for seed in range(2)]
    for one, epsilon in zip(found, (None, 2.0), strict=True):
        one["privacy"] = {"epsilon": epsilon, "delta": 1e-5}
    reporting.write_report(written(found, tmp_path))
    table = pd.read_csv(tmp_path / "report" / "results.csv")
    assert set(table["epsilon"]) == {math.inf}


@pytest.mark.usefixtures("undrawn")
def test_delta_stands_beside_epsilon_where_any_optimizee_is_private(tmp_path):
    found = [record(t, "adam", 0, seed) for t in TASKS for seed in range(2)]
    found += [record("MLP", "sgd", 0, seed) for seed in range(2)]
    for one, epsilon in zip(found[2:4], (1.0, 2.0), strict=True):
        one["privacy"] = {"epsilon": epsilon, "delta": 1e-5}
    for one in found[4:]:
        one["privacy"] = {"epsilon": None, "delta": None}
    text = reporting.write_report(written(found, tmp_path)).read_text()
    table = pd.read_csv(tmp_path / "report" / "results.csv")
    columns = list(table.columns)
    assert columns.index("delta") == columns.index("epsilon") + 1
    told = table.set_index(["optimizee", "optimizer"])[["epsilon", "delta"]]
    assert tuple(told.loc[("MLP", "adam")]) == (2.0, 1e-5)
    assert told.loc[("MLP", "sgd"), "epsilon"] == math.inf
    assert math.isnan(told.loc[("MLP", "sgd"), "delta"])
    assert told.loc[("Train", "adam")].isna().all()
    assert "1e-05" in text


@pytest.mark.usefixtures("undrawn")
def test_no_delta_without_a_private_optimizee(tmp_path):
    folder = written([record("Train", "adam", 0, seed) for seed in range(2)], tmp_path)
    reporting.write_report(folder)
    table = pd.read_csv(tmp_path / "report" / "results.csv")
    assert not {"epsilon", "delta"} & set(table.columns)


def test_many_choice_rules_and_odd_labels(tmp_path, monkeypatch):
    odd = ["a $x_$ b", "_hidden", "task", "optimizee", *map(str, range(6))]
    for label in odd:
        monkeypatch.setitem(PLANTED, label, ("choice", 0.1, 1, {"teachers": []}))
    found = [record(t, label, 0, 0) for t in TASKS for label in ("adam", *odd)]
    for one in found:
        one["task"] = one["task"].replace("MLP", "$MLP$")
    page = reporting.write_report(written(found, tmp_path))
    assert "a $x_$ b" in page.read_text()


@pytest.mark.slow
def test_a_few_records_make_a_page_too(tmp_path):
    """Analytic optimizers alone: no students, no reference, no interval."""
    written([record("Train", "adam", 0, 0)], tmp_path)
    page = reporting.write_report(tmp_path)
    assert "no learned optimizer took part" in page.read_text()
    assert re.search("1 optimizers on 1 optimizees", page.read_text())
    written([record("Train", "rnnprop", 0, 0)], tmp_path / "other")
    assert (
        "Reference: rnnprop" in reporting.write_report(tmp_path / "other").read_text()
    )


@pytest.mark.filterwarnings("error:constrained_layout not applied")
def test_figures_of_two_optimizers_have_room(tmp_path):
    page = reporting.write_report(written(few(), tmp_path))
    assert (page.parent / "figure5.png").is_file()


def test_everything_diverged(tmp_path):
    changes = {"diverged": True, "test": {}, "curves": {"loss": [], "val_loss": []}}
    written([record("Train", "ours", 0, 0, **changes)], tmp_path)
    text = reporting.write_report(tmp_path).read_text()
    assert "1 diverged" in text
    assert "all runs diverged" in text


def test_labels_are_escaped(tmp_path):
    one = record("Train", "adam", 0, 0) | {"optimizer": "<b>&"}
    written([one], tmp_path)
    text = reporting.write_report(tmp_path).read_text()
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;" in text


@pytest.mark.usefixtures("undrawn")
def test_the_pool_and_the_reference_can_be_named(tmp_path):
    folder = written(planted(), tmp_path)
    page = reporting.write_report(
        folder, tmp_path / "elsewhere", pool=["sgd"], reference="noisy"
    )
    assert page.parent.name == "elsewhere"
    assert "Oracles: Train: sgd, MLP: sgd" in page.read_text()
    assert "Reference: noisy" in page.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pool": ["adma"]},
            "No record has the optimizer 'adma'. There are: adam, sgd",
        ),
        ({"reference": "mine"}, "No record has the optimizer 'mine'"),
        ({"rivals": ["mine"]}, "No record has the optimizer 'mine'"),
        ({"pool": "adam"}, "must be a sequence, received 'adam'"),
        ({"rivals": "adam"}, "must be a sequence, received 'adam'"),
    ],
)
def test_unknown_labels(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        reporting.write_report(written(planted(), tmp_path), **options)


def test_no_records(tmp_path):
    with pytest.raises(ValueError, match="no records under"):
        reporting.write_report(tmp_path)


def test_a_page_of_markdown(tmp_path):
    """The page's sections but for long tables, small pictures beside it."""
    found = planted()
    for one in found:
        if (one["optimizer"], one["task"], one["seed"]) == ("noisy", "MLP", 0):
            one |= {"diverged": True, "test": {}}
    folder = written(found, tmp_path / "a_b")
    page = tmp_path / "docs" / "results.md"
    reporting.write_report(folder, markdown=page)
    text = page.read_text()
    pictures = re.findall(r"!\[.*\]\((results/figure\w+\.png)\)", text)
    assert len(pictures) == 11
    assert all((page.parent / name).stat().st_size < 200_000 for name in pictures)
    assert "- 72 runs: 3 diverged, 6 did not learn." in text
    assert "## Optimizees (Table 1)" in text
    assert "## All results" not in text
    assert "## Meta-stability (Table 6)" in text
    assert "Numbers:" not in text
    assert text.split("## ")[2].startswith("Best validation loss")
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.split("## ")[2].splitlines()
        if line.startswith("| ")
    }
    assert rows["optimizer"] == ["Train", "MLP"]
    adam = frames.runs(found).query("optimizer == 'adam' and task == 'Train'")
    losses = adam["best_val_loss"]
    half = distributions.t.ppf(0.975, 2) * losses.std() / math.sqrt(3)
    assert rows["adam"][0] == f"{losses.mean():.4f} ± {half:.4f}"
    assert rows["noisy"][1].endswith("(3 diverged)")
    assert rows["oracle"] == rows["adam"]


@pytest.mark.usefixtures("undrawn")
def test_labels_are_no_markdown(tmp_path):
    """A label with a bar would be two cells."""
    one = record("Train", "adam", 0, 0) | {"optimizer": r"a|b_*c*<i>[d]`\e"}
    page = tmp_path / "results.md"
    reporting.write_report(written([one], tmp_path / "records"), markdown=page)
    text = page.read_text()
    assert r"a\|b\_\*c\*\<i>\[d]\`\\e" in text
    assert not re.search(r"(?<!\\)\|b", text)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.filterwarnings("error::UserWarning")
def test_losses_below_zero_make_a_page_too(tmp_path):
    found = planted()
    for one in found:
        one["curves"]["val_loss"] = [v - 9.0 for v in one["curves"]["val_loss"]]
        for split in ("test", "test_at_best"):
            one[split] = {**one[split], "loss": one[split]["loss"] - 9.0}
    text = reporting.write_report(written(found, tmp_path)).read_text()
    assert "Losses below 0, on Train, MLP" in text


@pytest.mark.usefixtures("undrawn")
def test_a_page_of_somebody_else_is_not_replaced(tmp_path):
    folder, page = written(few(), tmp_path / "records"), tmp_path / "README.md"
    page.write_text("# Mine\n")
    with pytest.raises(ValueError, match="is no page of amalgam-report"):
        reporting.write_report(folder, markdown=page)
    assert page.read_text() == "# Mine\n"
    assert not (folder / "report").exists()  # before any work
    with pytest.raises(ValueError, match="has no ending"):
        reporting.write_report(folder, markdown=tmp_path / "mine")
    page.write_text("\n")
    reporting.write_report(folder, markdown=page)
    assert "## Best validation loss" in page.read_text()


@pytest.mark.usefixtures("undrawn")
def test_pictures_of_a_page_with_a_space(tmp_path):
    page = tmp_path / "my results.md"
    reporting.write_report(written(few(), tmp_path / "records"), markdown=page)
    assert "](my%20results/figure1.png)" in page.read_text()
    assert (tmp_path / "my results" / "figure1.png").is_file()


@pytest.mark.usefixtures("undrawn")
def test_words_above_the_report_are_kept(tmp_path):
    page = tmp_path / "results.md"
    folder = written(few(), tmp_path / "records")
    reporting.write_report(folder, markdown=page)
    plain = page.read_text()
    title, _, below = plain.partition(pages.FOLLOWS)
    assert title.strip() == "# 2 optimizers on 1 optimizees"
    reporting.write_report(folder, markdown=page)  # a title of ours is no words
    assert page.read_text() == plain
    page.write_text(f"# Mine\n\nWords.\n\n{pages.FOLLOWS}\n\nold\n")
    for _ in range(2):
        reporting.write_report(folder, markdown=page)
        words, follows, rest = page.read_text().partition(pages.FOLLOWS)
        assert words == "# Mine\n\nWords.\n\n"
        assert follows
        assert rest.strip() == f"#{title.strip()}{below}".strip()


def test_the_label_of_the_best_rival_is_kept():
    """Runs of its own would be mixed with those of the best."""
    found = planted()
    for one in found:
        if one["optimizer"] == "mixer":
            one["optimizer"] = "best rival"
    evaluated.gather(found)
    with pytest.raises(ValueError, match="kept for the best of the rivals"):
        evaluated.gather(found, rivals=["sgd"])


@pytest.mark.usefixtures("undrawn")
def test_against_rivals(tmp_path):
    """The best of some by validation, on each optimizee, as the oracle is chosen."""
    folder = written(planted(), tmp_path / "records")
    text = {}
    # Others than the oracle; beside a report whose oracle they are.
    for pool, rivals in (["sgd"], ()), (["adam"], ("sgd", "rnnprop")):
        page = tmp_path / f"{len(rivals)}.md"
        reporting.write_report(
            folder, tmp_path / "out", rivals=rivals, pool=pool, markdown=page
        )
        text[rivals] = page.read_text()
    assert "Against the best of" not in text[()]
    numbers = pd.read_csv(tmp_path / "out" / "verdicts_rivals.csv")
    assert {"low", "high", "pairs"} <= set(numbers)
    assert "## Against the best of sgd, rnnprop\n" in text["sgd", "rnnprop"]
    section = text["sgd", "rnnprop"].split("## Against the best of ")[1].split("## ")[0]
    against_oracle = text[()].split("## Against the oracle")[1].split("## ")[0]
    rows = lambda part: [r for r in part.splitlines() if r.startswith("| ")]  # noqa: E731
    oracle = {"Train": "sgd", "MLP": "sgd"}
    best = frames.oracle(frames.runs(planted()), ["sgd", "rnnprop"])
    assert best == oracle  # so that both tables say the same of everybody
    assert "minus the best rival's" in section
    squeezed = [re.sub(r"[ -]+", " ", r) for r in rows(section)]
    expected = [
        re.sub(r"[ -]+", " ", r.replace("oracle", "best rival"))
        for r in rows(against_oracle)
    ]
    assert squeezed == expected


def test_data_sets_are_shown(tmp_path):
    """Figure 7: the images that the evaluation drew, in both pages."""
    folder = written(few(), tmp_path / "evaluation")
    images = {"mnist": np.zeros((8, 4, 4, 1), np.uint8)}
    images["cifar10"] = np.full((8, 4, 4, 3), 99, np.uint8)
    for name, several in images.items():
        plots.samples({name: several}, folder / records.SAMPLES / f"{name}.png")
    page = tmp_path / "page.md"
    report = reporting.write_report(folder, markdown=page)
    html, markdown = report.read_text(), page.read_text()
    assert " ".join(Reader(html).text).count("Data sets (Figure 7)") == 1
    assert (
        "Figure 7"
        not in reporting.write_report(written(few(), tmp_path / "without")).read_text()
    )
    for name in images:
        drawn = (folder / records.SAMPLES / f"{name}.png").read_bytes()
        assert base64.b64encode(drawn).decode() in html
        assert f"![Data sets (Figure 7)](page/{name}.png)" in markdown
        assert (tmp_path / "page" / f"{name}.png").read_bytes() == drawn


def test_long_tables_are_folded(page):
    text = page.read_text()
    folded = re.findall(r"<h2>([^<]+)</h2><p>[^<]*</p><details>", text)
    assert folded == [
        "All results",
        "Against the oracle, in full",
        "Against the oracle, on the split that chose it",
        "Time to the oracle&#x27;s loss",
    ]
    assert "<summary>16 rows</summary>" in text  # 7 optimizers and the oracle, twice


def test_digits(page):
    """Table 5 has two on the page, all beside it."""
    numbers = pd.read_csv(page.parent / "table5.csv", index_col="optimizer")
    table = page.read_text().split("(Table 5)</h2>")[1].partition("</table>")[0]
    assert f"<td>{numbers.loc['adam', 'Train']:.2g}</td>" in table
    assert "addsign</td>" in page.read_text().split("Published: Table 5")[1]


def test_a_verdict_over_all_optimizees():
    """The mean of the differences, where none is missing."""
    found = [r for r in planted() if (r["task"], r["optimizer"]) != ("MLP", "Lion")]
    given = evaluated.gather(found)
    table = frames.verdicts(frames.with_oracle(given.runs, given.best), "oracle")
    shown = glances.verdicts(given.best, table)
    means = shown.table.set_index("optimizer")["mean"]
    ours = table[table["optimizer"] == "ours"]["difference"].mean()
    assert means["ours"] == f"{ours:+.2f}"
    assert means["Lion"] == "–"
    assert list(shown.marks.loc[shown.table["optimizer"] == "ours", "Train"]) == [
        "better"
    ]


def test_a_run_that_reached_zero_has_a_logarithm():
    one = record("Train", "adam", 0, 0)
    one["curves"]["val_loss"][-1] = 0.0
    frame = frames.runs([one])
    assert np.isfinite(
        frame.loc[0, ["log_best_val_loss", "log_stability"]].astype(float)
    ).all()


def asked(port, path, body=None):
    """Sends one WebDriver command; returns its value."""
    data = None if body is None else json.dumps(body).encode()
    address = f"http://127.0.0.1:{port}{path}"
    with urllib.request.urlopen(urllib.request.Request(address, data), timeout=60) as r:
        return json.load(r)["value"]


@pytest.fixture
def browser(tmp_path):
    """A headless Chromium that finds no host; the test is skipped without one."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if not driver or not chromium:
        pytest.skip("no Chromium: install chromium and chromium-driver")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL)
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1200,900",
    ]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}"]
    options = {"goog:chromeOptions": {"binary": chromium, "args": flags}}
    try:
        for _ in range(100):
            try:
                asked(port, "/status")
                break
            except OSError:
                time.sleep(0.1)
        wanted = {"capabilities": {"alwaysMatch": options}}
        session = asked(port, "/session", wanted)["sessionId"]
        yield lambda path, body: asked(port, f"/session/{session}/{path}", body)
    finally:
        process.terminate()
        process.wait()


def test_it_opens_in_a_browser_without_a_network(browser, page):
    browser("url", {"url": page.as_uri()})

    def run(script):
        return browser("execute/sync", {"script": f"return {script}", "args": []})

    images = "[...document.images]"
    assert run(f"{images}.length") == 11
    assert run(f"{images}.every(i => i.complete && i.naturalWidth > 300)")
    # Wide tables scroll by themselves; the page does not.
    assert run("document.documentElement.scrollWidth <= window.innerWidth")
    color = "getComputedStyle(document.querySelector('.better')).backgroundColor"
    assert run(color) == "rgb(217, 240, 227)"
    # Long tables open by themselves, and keep their first columns in sight.
    run("document.querySelectorAll('details').forEach(one => one.open = true)")
    box = "document.querySelector('details .wide')"
    assert run(f"{box}.scrollWidth > {box}.clientWidth")
    places = [
        f"{box}.querySelector('td:nth-child({n})').getBoundingClientRect().left"
        for n in (1, 2, 3)
    ]
    before = [run(place) for place in places]
    run(f"{box}.scrollLeft = 200")
    assert [run(place) for place in places] == [*before[:2], before[2] - 200]
    assert run("document.documentElement.scrollWidth <= window.innerWidth")
