"""Campaigns: the jobs, their hours, run to the report, gone on with."""

import functools
import itertools
import json
import math
import pathlib
import sys
import tracemalloc
import types

import gin
import pytest
import tensorflow as tf

from tests.test_gin import TINY
from tests.test_jobs import Told
from tf_amalgam import campaign, engines, launchers, rates, recipe, records
from tf_amalgam.campaign import Optimizee
from tf_amalgam.meta_train import Diverged

PAPER = ["gin_configs/experiments/paper_full.gin"]
SMALL = """
include "gin_configs/experiments/quickstart.gin"
campaign.form = "gin_configs/experiments/quickstart.gin"
campaign.trainings = {"mine": "figure1_mean_small"}
campaign.replicates = 1
evaluate.tasks = [%unseen]
evaluate.optimizers = ["choice-large"]
evaluate.baselines = ["adam"]
evaluate.seeds = [4, 6]
"""


@pytest.fixture(autouse=True)
def cleared():
    yield
    gin.clear_config()


@pytest.mark.parametrize("name", ["seeds", "known", "optimizees"])
def test_what_evaluations_are_told_is_no_campaigns(name, tmp_path):
    path = tmp_path / "small.gin"
    path.write_text(SMALL + f"campaign.{name} = [%seen]\n")
    with pytest.raises(ValueError, match=rf"Give evaluate\.\w+, not campaign.{name}"):
        recipe.read([path], TINY)


@pytest.fixture
def small(tmp_path):
    """Returns a campaign of a few seconds on the digits."""
    path = tmp_path / "small.gin"
    path.write_text(SMALL)
    lines = [line for line in TINY if not line.startswith("evaluate.seeds")]
    return recipe.read([path], lines)


def test_the_papers_protocol():
    what = recipe.read(PAPER, ['data_dir = "/data"'])
    several = list(campaign.planned(what, "runs/paper", 4, 0.5))
    names = [job.name for job in several]
    assert len(names) == len(set(names))
    trainings = [n for n in names if n.startswith("train/")]
    assert len(trainings) == 12 * 8
    # On ten optimizees: ten known optimizers and eight replicates of twelve, ten runs.
    runs = [job for job in several if job.name.startswith("evaluate/")]
    assert len(runs) == 10 * (10 + 12 * 8)
    assert {len(job.makes) for job in runs} == {10}
    assert names == trainings + [job.name for job in runs]
    for folder, source in (("runs/paper", "runs/paper/"), (".", "./")):  # no name
        one = next(
            job
            for job in campaign.planned(what, folder)
            if job.name == "evaluate/Train/choice-large/0"
        )
        given = f"evaluate.optimizers = {{'choice-large': '{source}choice-large'}}"
        assert given in one.gin_bindings
    one = several[names.index("evaluate/Small_Batch/choice-large/3")]
    assert one.after == ("train/choice-large/3",)
    assert one.gin_bindings == (
        'data_dir = "/data"',
        "evaluate.tasks = [%SmallBatch]",
        "evaluate.optimizers = {'choice-large': 'runs/paper/choice-large'}",
        "evaluate.baselines = ()",
    )
    assert one.flags[:2] == (
        "--noreport",
        "--only=Small_Batch/choice-large-replicate3-seed0.json",
    )
    assert (one.cpus, one.gpus) == (4, 0.5)
    assert several[names.index("evaluate/ResNet/adam/0")].after == ()
    train = several[names.index("train/choice-large/3")]
    assert train.workdir == "runs/paper/choice-large/replicate-3"
    assert train.gin_bindings[-1] == "amalgamate.replicate = 3"
    assert train.gin_files == (
        "gin_configs/forms/paper.gin",
        "gin_configs/experiments/figure1_choice_large.gin",
    )


def test_many_jobs_take_no_memory():
    """A kilobyte or two each, were they kept."""
    what = recipe.read(PAPER, ["campaign.replicates = 16", "campaign.runs_per_job = 1"])
    hours = rates.hours(what, "nowhere")
    tracemalloc.start()
    try:
        found = campaign.groups(campaign.planned(what, "nowhere"), hours)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(group.jobs for group in found) == 12 * 16 + 10 * 10 * (10 + 12 * 16)
    assert peak < 15e6


def test_hours_are_measured_times(tmp_path):
    what = campaign.campaign(
        {"a": "a.gin", "b": "b"},
        "form.gin",
        optimizees=[Optimizee("%X", "X Y"), Optimizee("%Z", "Z")],
        known=["adam"],
        seeds=range(4),
        replicates=2,
        runs_per_job=3,
    )
    assert what.trainings["b"] == "gin_configs/experiments/b.gin"
    assert campaign.read_rates(tmp_path) == campaign.NONE
    measured = campaign.Rates(
        "this one", {"X Y": {"known": 36.0, "student": 72.0}}, {"a": 0.5}
    )
    campaign.write_rates(measured, tmp_path)
    assert campaign.read_rates(tmp_path) == measured
    hours = campaign.hours_of(what, measured, 5, {"a": 7200, "b": 100})
    several = list(campaign.planned(what, tmp_path))
    found = {g.name: g for g in campaign.groups(several, hours)}
    assert list(found) == ["train/a", "train/b", "evaluate/X_Y", "evaluate/Z"]
    assert found["train/a"] == campaign.Group("train/a", 2, 0, 1.0)
    assert math.isnan(found["train/b"].hours)
    # Three or one of four seeds: of one known optimizer and of two times two students.
    whole = 5 * 4 * (36 + 2 * 2 * 72) / 3600
    assert found["evaluate/X_Y"].jobs == 10
    assert found["evaluate/X_Y"].hours == pytest.approx(whole / 10)
    told = campaign.table(list(found.values()), measured.machine)
    assert "one job at a time on: this one." in told
    assert f"| {2 + whole:.1f} " in told.splitlines()[-3]
    assert told.count("not measured") == 4
    assert "GPU-hours" not in told
    several = campaign.planned(what, tmp_path, gpus=0.25)
    told = campaign.table(campaign.groups(several, hours), measured.machine)
    assert told.endswith(f"they are {0.25 * (2 + whole):.1f} GPU-hours.")
    (tmp_path / "rates.json").write_text("[")
    with pytest.raises(ValueError, match="Measure again with --measure"):
        campaign.read_rates(tmp_path)


def test_planned_inner_steps_are_those_of_the_curriculum():
    what = recipe.read(PAPER, ())
    of_stages = 10 * 4 * 6 * (100 + 200 + 500 + 1000)
    assert rates._inner_steps(what, "mean-small") == of_stages
    choice = 10 * 4 * (100 + 200 + 3 * 500)
    assert rates._inner_steps(what, "choice-small") == of_stages + choice
    for given, steps in (("{'rate_range': 3.0}", choice), ("'choice-rule-small'", 0)):
        more = what._replace(gin_bindings=(f"amalgamate.choice = {given}",))
        assert rates._inner_steps(more, "choice-small") == of_stages + steps


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"replicates": 0}, "replicates must be a whole number from 1"),
        ({"runs_per_job": 1.5}, "runs_per_job must be a whole number from 1"),
        ({"trainings": {"a b": "x"}}, "'a b' is to name a folder"),
        ({"trainings": {"evaluation": "x"}}, "none of evaluation, logs, oracle, ., .."),
        ({"trainings": {"..": "x"}}, "'..' is to name a folder of its own"),
        ({"trainings": {"oracle": "x"}}, "'oracle' is to name a folder of its own"),
        ({"known": ["a"]}, "share a label: a"),
        ({"seeds": [3, 4, 3]}, "two seeds alike: 3, 4, 3"),
        ({"seeds": []}, "evaluate.seeds is empty"),
        ({"known": ["adam", "sgd", "adam"]}, "two alike: adam, sgd, adam"),
        ({"seeds": "3"}, "evaluate.seeds must be a whole number, received '3'"),
        (
            {"optimizees": [Optimizee("%A", "A b"), Optimizee("%B", "A_b")]},
            "no two optimizees whose names, A b, A_b, .* alike in a folder's",
        ),
        ({"known": [campaign]}, "takes evaluate.baselines by their names"),
        ({"known": {"adam": campaign}}, "baselines by their names.*received {'adam'"),
    ],
)
def test_mistakes(given, message):
    with pytest.raises(ValueError, match=message):
        campaign.campaign(**{"trainings": {"a": "a.gin"}, "form": "f.gin", **given})


@pytest.mark.parametrize(
    ("files", "lines", "message"),
    [
        (PAPER[:0], [], "No trainings are given: nothing binds campaign.trainings"),
        (
            PAPER,
            ['campaign.trainings = {"a": "figur"}'],
            "Did you mean|Unknown gin file",
        ),
        (PAPER, ["evaluate.tasks = [@tasks.mlp()]"], "bind tasks.mlp.name"),
        (PAPER, ["evaluate.tasks = 'Train'"], "are references to optimizees"),
        (
            PAPER,
            [
                "evaluate.baselines = {'adam': @rules.adam()}",
                "rules.adam.learning_rate = 0.05",
            ],
            "takes evaluate.baselines by their names",
        ),
        (PAPER, ["amalgamate.alhpa = 1"], "alhpa"),
        (PAPER, ["evaluate.epochs = 0"], "evaluate.epochs must be a whole number"),
        (PAPER, ["seed = 3"], "bind it with its function's name, amalgamate.seed"),
        (PAPER, ["replicates = 2"], "function's name, campaign.replicates"),
        (PAPER, ["epochs = 2"], "function's name, evaluate.epochs"),
        (PAPER, ["evaluate.preset = 'relased'"], "preset 'relased'.*'released'"),
        (PAPER, ["evaluate.warmup_steps = -1"], "warmup_steps must be a whole number"),
        (
            PAPER,
            ["evaluate.warmup_learning_rate = 0.0"],
            "rate must be a finite number above 0",
        ),
        (PAPER, ["evaluate.baselines = ['adma']"], "'adma'.*Did you mean 'adam'"),
        (PAPER, ["evaluate.baselines = ['oracle']"], "'oracle' is kept"),
        (PAPER, ["evaluate.baselines = ['keras.Adamm']"], "Keras optimizer 'Adamm'"),
        (PAPER, ["evaluate.seeds = 3.0"], "seeds must be a whole number"),
        (PAPER, ["campaign.trainings = ['a']"], "dict of label → experiment, received"),
    ],
)
def test_mistakes_in_a_recipe_are_told_before_any_work(files, lines, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        recipe.read(files, lines)


def test_a_campaigns_own_file_does_not_hide_where_data_lie(tmp_path):
    """Its trainings are not told what it says."""
    mine = tmp_path / "mine.gin"
    mine.write_text(f'include "{PAPER[0]}"\ndata_dir = "/data"')
    with pytest.raises(ValueError, match="= '/data', the training mean-small has None"):
        recipe.read([mine], [])
    recipe.read([mine], ['data_dir = "/elsewhere"'])
    # Those that say it themselves, or take none.
    told = tmp_path / "told.gin"
    told.write_text('include "gin_configs/forms/cpu.gin"\ndata_dir = "/data"')
    with pytest.raises(ValueError, match="= None, the training mean-small has '/data'"):
        recipe.read(PAPER, [f'campaign.form = "{told}"'])
    digits = "gin_configs/experiments/quickstart.gin"
    for form in (told, digits):
        line = f'campaign.form = "{form}"'
        assert recipe.read([mine], [line]).form == str(form)


def test_what_evaluations_lack_here_shows_before_trainings(tmp_path, monkeypatch):
    lines = [f"data_dir = '{tmp_path}'", "campaign.replicates = 1"]
    lines += ["evaluate.tasks = [%Train, %CIFAR, %MNISTDP]"]
    what = recipe.read(PAPER, lines)
    jobs = list(campaign.planned(what, tmp_path / "run"))

    def started(*patterns):
        some = [j for j in jobs if any(j.name.startswith(p) for p in patterns)]
        assert some
        recipe.run(what, some, tmp_path / "run", engines.Local())

    monkeypatch.setattr(launchers, "run", lambda *_, **__: {})
    with pytest.raises(FileNotFoundError, match="mnist is not prepared under"):
        started("train/", "evaluate/")
    with pytest.raises(FileNotFoundError, match="cifar10 is not prepared under"):
        started("train/", "evaluate/CIFAR/")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(recipe.data, "check_there", lambda *_: None)
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ImportError, match="needs tensorflow-privacy"):
        started("evaluate/MNIST-DP/adam/")
    assert not (tmp_path / "run").exists()
    # What these jobs need is there; what a cluster's machines have is not known here.
    started("evaluate/CIFAR/adam/")
    private = [job for job in jobs if job.name.startswith("evaluate/MNIST-DP/adam")]
    recipe.run(what, private, tmp_path / "run", object())


def test_a_campaign_names_no_optimizers_to_evaluate(tmp_path):
    """Each of its jobs does."""
    mine = tmp_path / "mine.gin"
    mine.write_text(
        'include "gin_configs/tasks/train.gin"\n'
        'campaign.form = "gin_configs/forms/cpu.gin"\n'
        'campaign.trainings = {"mine": "figure1_mean_small"}\n'
        "evaluate.tasks = [%Train]\n"
    )
    assert list(recipe.read([mine], []).trainings) == ["mine"]


def test_a_campaign_without_known_optimizers(tmp_path):
    what = recipe.read(PAPER, ["evaluate.baselines = ()", "evaluate.seeds = 1"])
    assert (what.known, what.seeds) == ((), (1,))


def test_single_things_stand_for_lists_of_one(tmp_path):
    """As `evaluate` takes them; macros of optimizees, too."""
    some = tmp_path / "some.gin"
    some.write_text("some = [%Train, %MLP]")
    lines = ["evaluate.tasks = %some", "evaluate.seeds = 3"]
    lines += ["evaluate.baselines = 'sgd'"]
    what = recipe.read([*PAPER, some], lines)
    assert [one.name for one in what.optimizees] == ["Train", "MLP"]
    assert [one.reference for one in what.optimizees] == ["%Train", "%MLP"]
    assert (what.seeds, what.known) == ((3,), ("sgd",))
    what = recipe.read(PAPER, ["evaluate.tasks = %MLP"])
    assert what.optimizees == (Optimizee("%MLP", "MLP"),)
    # To be measured, too.
    assert list(map(repr, recipe.optimizees())) == ["%MLP"]


def test_what_another_machine_has_ended_is_seen(small, tmp_path, monkeypatch):
    """What this one remembers of a folder of a file server may be a minute old."""
    training = next(campaign.planned(small, tmp_path))
    looked = []

    def look_anew(folder):
        looked.append(str(folder))
        for path in paths_of(training):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    monkeypatch.setattr(recipe.files, "look_anew", look_anew)
    ended = recipe._Ended()
    assert not training.done
    assert training in ended
    assert training in ended
    assert looked == [training.workdir]  # once


def test_hours_of_jobs_that_are_none_of_its_own(small):
    hours = rates.hours(small, "nowhere")
    [one, *_] = campaign.planned(small, "w")
    for name in ("replicate-0", "train/other/0", "evaluate/Other/adam/0", "a/b"):
        assert math.isnan(hours(one._replace(name=name)))


def test_a_campaign_runs_to_its_report_and_goes_on(small, tmp_path, capsys):
    folder = tmp_path / "run"
    several = list(campaign.planned(small, folder))
    names = [job.name for job in several]
    unseen = "evaluate/two_hidden_ReLU_layers_unseen_"
    assert names == [
        *("train/mine/0", f"{unseen}/adam/0", f"{unseen}/mine/0"),
    ]
    on = engines.Local(2)
    left = r"1 of 2 jobs were left.*has not ended \(train/mine/0\)"
    with pytest.raises(RuntimeError, match=left):
        recipe.run(small, several[1:], folder, on)
    assert [job.done for job in several] == [False, True, False]
    recipe.run(small, several[:1], folder, on)
    assert capsys.readouterr().out == ""
    made = {p: p.stat().st_mtime_ns for job in several[:2] for p in paths_of(job)}
    # What is done is left.
    told = Told(room=9, fails=names)
    failed = launchers.run(several, told, folder, progress=False)
    assert list(failed) == told.started == names[2:]
    recipe.run(small, several, folder, on)
    assert made == {p: p.stat().st_mtime_ns for p in made}
    assert f"{folder}/evaluation/report/index.html" in capsys.readouterr().out
    found = records.read_all(folder / "evaluation")
    assert [(r["optimizer"], r["replicate"], r["seed"]) for r in found] == [
        *itertools.product(["adam"], [0], [4, 6]),
        *itertools.product(["mine"], [0], [4, 6]),
    ]
    assert (folder / "mine" / "replicates.csv").is_file()
    # What others do not wait for is reported, though a training fails.
    for path in itertools.chain(*map(paths_of, (several[0], several[2]))):
        path.unlink()
    with pytest.raises(RuntimeError, match="1 of 3 jobs failed: train/mine/0"):
        recipe.run(small, several, folder, Told(fails=names[:1]))
    assert f"{folder}/evaluation/report/index.html" in capsys.readouterr().out
    missing = (folder / "evaluation" / "report" / "missing.csv").read_text()
    assert missing.splitlines()[1:] == ["mine on two hidden ReLU layers (unseen): none"]


def test_a_list_is_run_by_the_flags_that_it_was_made_with(small, tmp_path):
    several = list(campaign.planned(small, tmp_path, cpus=3.0))
    lines = (*several[0].gin_bindings, "amalgamate.alpha = 0.2")
    other = several[0]._replace(gin_bindings=lines)
    on = Told(fails=[job.name for job in several])
    with pytest.raises(ValueError, match="train/mine/0 is not what this campaign does"):
        recipe.run(small, [other], tmp_path, on)
    with pytest.raises(ValueError, match="train/b/0 is no job of this campaign"):
        recipe.run(small, [other._replace(name="train/b/0")], tmp_path, on)
    assert not on.started
    assert not (tmp_path / "campaign.json").exists()
    left_out = several[2]._replace(after=())
    with pytest.raises(ValueError, match="mine/0 is not what this campaign does"):
        recipe.run(small, [left_out], tmp_path, on)
    # What it takes up, and where data lie, may be edited.
    lines = (*several[0].gin_bindings, "data_dir = '/elsewhere'")
    here = several[0]._replace(gin_bindings=lines, gpus=1.0, log="a.txt")
    with pytest.raises(RuntimeError, match="1 of 1 jobs failed: train/mine/0"):
        recipe.run(small, [here], tmp_path, on)


def test_a_report_that_cannot_be_made_hides_no_failure(small, tmp_path, caplog):
    several = list(campaign.planned(small, tmp_path))
    for path in paths_of(several[1]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no record")
    with pytest.raises(RuntimeError, match="1 of 3 jobs failed: train/mine/0"):
        recipe.run(small, several, tmp_path, Told(fails=["train/mine/0"]))
    assert "The report could not be made" in caplog.text
    for path in itertools.chain(*map(paths_of, (several[0], several[2]))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no record")
    with pytest.raises(ValueError, match="is not a readable record"):
        recipe.run(small, several, tmp_path, Told())


def test_a_folder_holds_one_campaign(small, tmp_path):
    def claim(*lines):
        bound = (*small.gin_bindings, *lines)
        recipe.run(small._replace(gin_bindings=bound), [], tmp_path, Told())

    claim()
    claim("evaluate.seeds = [4, 6, 8]", "evaluate.tasks = [%unseen, %seen]")
    claim("amalgamate.checkpoint_seconds = 1")
    for lines, message in (
        (["amalgamate.alpha = 7"], r"mine\.amalgamate\.alpha: .* there, '7' here"),
        (["amalgamate.chances = 7"], r"chances: '\(absent\)' there, '7' here"),
        (["evaluate.epochs = 7"], r"epochs: '\d' there, '7' here"),
    ):
        with pytest.raises(ValueError, match=rf"other settings(?s:.*){message}"):
            claim(*lines)
    # What another optimizee is told is nothing to a training, now as in older folders.
    third = (
        "third = @third/tasks.mlp()",
        "third/tasks.mlp.name = 'third'",
        "third/tasks.mlp.dataset = 'digits'",
        "third/tasks.mlp.hidden = (5,)",
    )
    claim(*third, "evaluate.tasks = [%unseen, %seen, %third]")
    path = tmp_path / "campaign.json"
    older = json.loads(path.read_text())
    assert not any("third" in line for line in older["trainings"]["mine"])
    older["trainings"]["mine"]["third/tasks.mlp.hidden"] = "(6,)"
    path.write_text(json.dumps(older))
    claim()
    other = small._replace(trainings={"other": small.trainings["mine"]})
    recipe.run(other, [], tmp_path, Told())
    found = json.loads((tmp_path / "campaign.json").read_text())
    assert sorted(found["trainings"]) == ["mine", "other"]
    (tmp_path / "campaign.json").write_text("[]")
    with pytest.raises(ValueError, match="cannot be read"):
        claim()


def test_trainings_are_not_told_of_evaluations(small):
    lines = ("evaluate.seeds = [1]", "campaign.replicates = 2", "amalgamate.seed = 3")
    told = small._replace(gin_bindings=lines)
    train, *others = campaign.planned(told, "folder")
    assert train.gin_bindings == (lines[2], "amalgamate.replicate = 0")
    assert all(job.gin_bindings[:3] == lines for job in others)


def paths_of(job):
    return map(pathlib.Path, job.makes)


@pytest.mark.slow
def test_rates_are_measured(small, tmp_path, monkeypatch):
    timed = rates.trial.seconds_of_an_epoch

    def kept(optimizer, task):
        assert optimizer.warmup_steps == 0  # its own steps, not SGD's
        return timed(optimizer, task)

    monkeypatch.setattr(rates.trial, "seconds_of_an_epoch", kept)
    # Long enough to be told from building programs.
    longer = (*small.gin_bindings, "amalgamate.truncation_steps = 500")
    small = small._replace(gin_bindings=longer)
    found = rates.measure(small, tmp_path)
    assert json.loads((tmp_path / "rates.json").read_text()) == found._asdict()
    (times,) = found.epoch.values()
    assert 0 < times["known"] < 60
    assert 0 < times["student"] < 60
    assert 0 < found.inner_step["mine"] < 10
    hours = rates.hours(small, tmp_path)
    for job in campaign.planned(small, tmp_path):
        assert 0 < hours(job) < 1


@pytest.mark.parametrize("looks", [(0.0, 2.0, 10.0, 15.0), (0.0, 5.0, 10.0, 12.0)])
def test_an_inner_step_is_what_a_longer_training_takes_more(small, monkeypatch, looks):
    """Both build as much: (5 - 2) s for eight steps more. One may not be shorter."""
    steps, now = iter([4, 12]), iter(looks)
    monkeypatch.setattr(rates.bindings, "amalgamate", lambda: None)
    monkeypatch.setattr(rates, "_bound_inner_steps", lambda: next(steps))
    clock = types.SimpleNamespace(perf_counter=lambda: next(now))
    monkeypatch.setattr(rates, "time", clock)
    if looks[1] == 2.0:
        assert rates._seconds_of_an_inner_step(small, "mine") == 0.375
    else:
        with pytest.raises(ValueError, match="12 inner steps took no longer than 4"):
            rates._seconds_of_an_inner_step(small, "mine")


def test_what_was_measured_here_stays_until_it_is_anew(small, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(rates.trial, "seconds_of_an_epoch", lambda *_: 1.0)
    monkeypatch.setattr(rates, "_seconds_of_an_inner_step", interrupted)
    for machine, kept in ((rates._machine(), {"mine": 2.0}), ("another", {})):
        before = campaign.Rates(machine, {}, {"mine": 2.0})
        campaign.write_rates(before, tmp_path)
        with pytest.raises(KeyboardInterrupt):
            rates.measure(small, tmp_path)
        assert campaign.read_rates(tmp_path).inner_step == kept


NO_MEMORY = functools.partial(tf.errors.ResourceExhaustedError, None, None)


@pytest.mark.parametrize(
    "error", [ImportError, FileNotFoundError, ValueError, Diverged, NO_MEMORY]
)
def test_what_is_missing_is_not_measured(small, tmp_path, monkeypatch, caplog, error):
    def missing(*_):
        raise error("It is not here.")

    monkeypatch.setattr(rates.trial, "seconds_of_an_epoch", missing)
    monkeypatch.setattr(rates, "_seconds_of_an_inner_step", missing)
    found = rates.measure(small, tmp_path)
    assert (found.epoch, found.inner_step) == ({}, {})
    assert caplog.text.count("is not measured: It is not here.") == 2
