"""Replicates: own randomness, resume, several at once, failures named."""

import errno
import json
import shutil
import threading

import gin
import numpy as np
import pytest

import tf_amalgam
from tests import helpers
from tests.test_gin import TINY
from tf_amalgam import (
    bindings,
    engines,
    files,
    jobs,
    launchers,
    replicates,
    saved,
    tasks,
    workdir,
)
from tf_amalgam.meta_train import Diverged, Trainer
from tf_amalgam.numerics import derive_seed
from tf_amalgam.workdir import AnotherExperiment, Workdir

FILES = ["gin_configs/experiments/quickstart.gin"]


@pytest.fixture(autouse=True)
def cleared():
    yield
    gin.clear_config()


def weights(folder):
    return helpers.flat(saved.read(folder)[1])


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    command = "amalgamate --replicates=3 --gin_bindings='data_dir = 1'"
    bindings.run_replicates(3, FILES, TINY, folder, command=command)
    return folder


def test_each_has_its_own_randomness(three):
    ends = [weights(three / f"replicate-{i}") for i in range(3)]
    starts = [
        helpers.flat(saved.read(three / f"replicate-{i}" / "untrained.npz")[1])
        for i in range(3)
    ]
    for found in (ends, starts):
        assert np.any(found[0] != found[1])
        assert np.any(found[1] != found[2])


def test_all_are_validated_on_the_same_optimizees(tmp_path):
    """Or the best of them would be the one with the easiest to train."""

    def trained(**options):
        task = tasks.quadratic(dimensions=4, batch_size=8)
        lesson = {**helpers.SHORT_LESSON, "stages": ((4, 1),), "period": 1}
        lesson["truncation_steps"] = 4
        with helpers.eagerly():
            return tf_amalgam.amalgamate(task, **{**lesson, **options})

    first = trained(replicate=0, workdir=tmp_path)
    start = str(tmp_path / "untrained.npz")
    plain, second = (
        trained(initial_weights=start, **which) for which in ({}, {"replicate": 1})
    )
    for other in (plain, second):
        assert other.validations[0]["score"] == first.validations[0]["score"]
        assert other.history[0]["meta_loss"] != first.history[0]["meta_loss"]


def test_the_folder_explains_itself(three):
    rows = files.read_csv(three / replicates.SUMMARY_FILE)
    assert [row["replicate"] for row in rows] == [0, 1, 2]
    assert isinstance(rows[0]["replicate"], int)  # and no 0.0
    assert [(row["finished"], row["meta_updates"]) for row in rows] == 3 * [("True", 2)]
    assert len({row["seed"] for row in rows}) == 3
    assert (three / "replicates.png").stat().st_size > 1000
    assert "student.npz" in (three / "replicate-0" / "README.md").read_text()
    told = (three / "README.md").read_text()
    assert told.startswith("# 3 replicates")
    assert "\namalgamate --replicates=3 --gin_bindings='data_dir = 1'\n" in told
    assert "the root seed, 0, and" in told
    for row in rows:
        number = int(row["replicate"])
        seed = derive_seed(0, "replicate", number)
        assert row["seed"] == seed
        assert f"| {number} | {seed} |" in told
        settings = (three / f"replicate-{number}" / "settings.json").read_text()
        origin = {"replicate": number, "root_seed": 0, "seed": seed}
        assert json.loads(settings).items() >= origin.items()
    assert "`config.gin` is the configuration" in told
    bindings.parse([three / "config.gin"])
    assert gin.query_parameter("amalgamate.stages") == [(4, 1)]
    listed = jobs.read(three / "jobs.jsonl")
    assert [job.name for job in listed] == [f"replicate-{i}" for i in range(3)]
    assert [job.workdir for job in listed] == [str(three / job.name) for job in listed]


@pytest.mark.slow
def test_its_list_of_jobs_does_the_same(three, tmp_path):
    """As data it can be chosen from, and run elsewhere."""
    bindings.run_replicates(1, FILES, TINY, tmp_path)
    [job] = jobs.read(tmp_path / "jobs.jsonl")
    again = tmp_path / "again"
    job = job._replace(
        workdir=str(again),
        gin_bindings=(*job.gin_bindings, "amalgamate.replicate = 2"),
        log=str(again / "log.txt"),
    )
    assert not launchers.run([job], engines.Local(), tmp_path, progress=False)
    np.testing.assert_array_equal(weights(again), weights(three / "replicate-2"))


def test_a_full_disk_is_the_next_ones_too(tmp_path, monkeypatch):
    begun = []

    def full(program, gin_files, gin_bindings, folder, **_):
        begun.append(folder.name)
        folder.mkdir(parents=True)
        (folder / "settings.json").write_text('{"seed": 0}')
        raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(bindings, "run", full)
    with pytest.raises(OSError, match="No space"):
        bindings.run_replicates(3, FILES, TINY, tmp_path)
    assert begun == ["replicate-0"]


def test_fewer_are_the_first_of_more_and_finished_ones_stay(three, monkeypatch):
    before = weights(three / "replicate-1")
    monkeypatch.setattr(Trainer, "step", None)
    bindings.run_replicates(2, FILES, TINY, three)
    np.testing.assert_array_equal(weights(three / "replicate-1"), before)


def test_home_is_understood(three, tmp_path, monkeypatch):
    shutil.copytree(three, tmp_path / "home" / "three")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Trainer, "step", None)  # all are there
    first, *_ = bindings.run_replicates(3, FILES, TINY, "~/three")
    assert first == tmp_path / "home" / "three" / "replicate-0"


def test_finished_ones_need_no_checkpoints(three, tmp_path, monkeypatch):
    """Their README says that these can be removed; nothing is trained anew."""
    shutil.copytree(three, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*/checkpoints"):
        shutil.rmtree(path)
    before = (tmp_path / "replicate-1" / "student.npz").read_bytes()
    for name in ("step", "validate"):
        monkeypatch.setattr(Trainer, name, None)
    bindings.run_replicates(3, FILES, TINY, tmp_path)
    assert (tmp_path / "replicate-1" / "student.npz").read_bytes() == before
    one = (*TINY, "amalgamate.replicate = 1")
    found, expected = (
        bindings.run("amalgamate", FILES, one, folder / "replicate-1")
        for folder in (tmp_path, three)
    )
    assert found.finished
    np.testing.assert_array_equal(
        helpers.flat(found.weights), helpers.flat(expected.weights)
    )
    for ours, theirs in (
        (found.history, expected.history),
        (found.validations, expected.validations),
    ):
        assert [list(row) for row in ours] == [list(row) for row in theirs]
        assert ours[-1]["update"] == theirs[-1]["update"]
    assert found.validations[-1]["then"] == "finish"
    assert found.about["best_validation"] == expected.about["best_validation"]
    # Another experiment is one all the same; what has not ended begins anew.
    with pytest.raises(ValueError, match="holds another experiment"):
        bindings.run(
            "amalgamate",
            FILES,
            (*one, "amalgamate.alpha = 0.3"),
            tmp_path / "replicate-1",
        )
    (tmp_path / "replicate-1" / "curves.png").unlink()
    with pytest.raises(TypeError, match="not callable"):
        bindings.run("amalgamate", FILES, one, tmp_path / "replicate-1")


def test_a_call_for_fewer_keeps_what_is_said_of_the_others(three, tmp_path):
    shutil.copytree(three, tmp_path, dirs_exist_ok=True)
    command = "amalgamate --replicates=1"
    bindings.run_replicates(1, FILES, TINY, tmp_path, command=command)
    assert files.read_csv(tmp_path / replicates.SUMMARY_FILE) == files.read_csv(
        three / replicates.SUMMARY_FILE
    )
    told = (tmp_path / "README.md").read_text()
    assert told.startswith("# 3 replicates")
    assert f"| 2 | {derive_seed(0, 'replicate', 2)} |" in told
    assert "--replicates=3" in told
    assert f"\n{command}\n" in told


@pytest.mark.parametrize(
    ("count", "line", "message"),
    [
        (2, "amalgamate.alpha = 0.3", "holds another experiment(?s:.)*alpha"),
        # Number 1 is none of the call's own.
        (1, "amalgamate.alpha = 0.3", "holds another experiment(?s:.)*alpha"),
        (1, "amalgamate.seed = 7", "the root seed 7 gives it"),
    ],
)
def test_another_experiment_is_refused_as_a_whole(
    three, tmp_path, count, line, message
):
    shutil.copytree(three / "replicate-1", tmp_path / "replicate-1")
    (tmp_path / "README.md").write_text("as it was")
    with pytest.raises(ValueError, match=message):
        bindings.run_replicates(count, FILES, [*TINY, line], tmp_path)
    assert (tmp_path / "README.md").read_text() == "as it was"
    assert not (tmp_path / "replicate-0").exists()


@pytest.mark.slow
def test_another_experiment_adds_nothing_where_several_run(three, tmp_path):
    shutil.copytree(three / "replicate-1", tmp_path / "replicate-1")
    (tmp_path / "README.md").write_text("as it was")
    other = [*TINY, "amalgamate.alpha = 0.3"]
    with pytest.raises(AnotherExperiment, match="replicate-0, replicate-1, repl.*gone"):
        bindings.run_replicates(3, FILES, other, tmp_path, engines.Local(3))
    assert (tmp_path / "README.md").read_text() == "as it was"
    assert list(replicates.begun(tmp_path)) == [1]
    told = (tmp_path / "replicate-2" / "log.txt").read_text()
    assert "replicate-1 holds another experiment" in told


@pytest.mark.parametrize(
    ("other", "refused"),
    [
        ({"seed": 5, "replicate": 0}, False),
        ({"choice": {"seed": 9, "alpha": 0.0}}, False),
        ({"teachers": [{"rule": "choice", "sha256": "b"}]}, False),
        ({"initial_weights": {"path": "b", "sha256": "b"}}, False),
        ({"initial_weights": "fresh"}, True),
        ({"root_seed": 1}, True),
        ({"choice": {"seed": 1, "alpha": 0.1}}, True),
        ({"teachers": [{"rule": "adam", "sha256": "a"}]}, True),
        ({"alpha": 0.2}, True),
        (None, False),  # damaged
    ],
)
def test_what_replicates_share(tmp_path, other, refused):
    mine = {
        "student": {"rule": "rnnprop"},
        "task": {"name": "x"},
        "teachers": [{"rule": "choice", "sha256": "a"}],
        "choice": {"seed": 1, "alpha": 0.0},
        "initial_weights": {"path": "a", "sha256": "a"},
        **{"scheme": "choice", "preset": "paper", "alpha": 0.1},
        **{"seed": 3, "root_seed": 0, "replicate": 1},
    }
    there = tmp_path / "replicate-0" / "settings.json"
    there.parent.mkdir()
    there.write_text("{" if other is None else json.dumps({**mine, **other}))
    if not refused:
        workdir.Workdir(tmp_path / "replicate-1", mine)
        return
    with pytest.raises(workdir.AnotherExperiment, match="replicate-0 holds another"):
        workdir.Workdir(tmp_path / "replicate-1", mine)
    assert not (tmp_path / "replicate-1").exists()


def test_a_folder_named_like_a_replicate_is_none(three, tmp_path):
    shutil.copytree(three / "replicate-1", tmp_path / "replicate-copy")
    other = [*TINY, "amalgamate.alpha = 0.3", "amalgamate.replicate = 0"]
    bindings.run("amalgamate", FILES, other, tmp_path / "replicate-0")
    assert list(replicates.begun(tmp_path)) == [0]


@pytest.mark.slow
def test_the_zoo_does_not_ship_what_another_form_has_trained(three, tmp_path):
    """The folder says no to each replicate, in a process of its own."""
    shutil.copytree(three, tmp_path / "runs" / "rnnprop")
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="could not be trained: rnnprop"):
        bindings.train_zoo(
            *(["rnnprop"], FILES, TINY, tmp_path / "runs", 2, engines.Local(2), out)
        )
    assert not list(out.iterdir())


def test_a_plain_run_and_replicates_have_folders_of_their_own(three, tmp_path):
    there = {path: path.read_bytes() for path in three.glob("*.*")}
    with pytest.raises(AnotherExperiment, match=r"\(replicate-0, .*Give --repl"):
        Workdir(three, {"student": {"rule": "rnnprop"}})
    assert {path: path.read_bytes() for path in three.glob("*.*")} == there
    shutil.copytree(three / "replicate-1", tmp_path / "plain")
    with pytest.raises(AnotherExperiment, match="holds a plain run"):
        bindings.run_replicates(2, FILES, TINY, tmp_path / "plain")
    assert not list(tmp_path.glob("plain/replicate-*"))


def test_a_readme_of_somebody_else_stays(tmp_path):
    """As of a project whose folder was given as workdir."""
    readme = tmp_path / "README.md"
    readme.write_text("# My project\n")
    told = {"student": {"rule": "rnnprop"}, "task": {"name": "a"}, "teachers": []}
    told["preset"] = "paper"
    with pytest.raises(ValueError, match=r"README\.md is of something else"):
        Workdir(tmp_path, told)
    with pytest.raises(ValueError, match=r"README\.md is of something else"):
        bindings.run_replicates(2, FILES, TINY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    # Ours, of a call that was stopped before it had settings.
    for text in (replicates.README, ""):
        readme.write_text(text)
        Workdir(tmp_path, told)
        (tmp_path / "settings.json").unlink()
    assert "One meta-training run" in readme.read_text()
    Workdir(tmp_path, told)


def test_a_mistake_of_the_call_is_said_once(tmp_path):
    lines = [*TINY, "amalgamate.teachers = ['adma']"]
    with pytest.raises(ValueError, match="Unknown teacher 'adma'"):
        bindings.run_replicates(2, FILES, lines, tmp_path)
    assert not replicates.begun(tmp_path)
    assert not (tmp_path / "replicate-0").exists()
    # The next call is the first that made anything.
    bindings.run_replicates(1, FILES, TINY, tmp_path, command="amalgamate again")
    assert "\n```\namalgamate again\n```\n" in (tmp_path / "README.md").read_text()


def test_a_macro_is_a_root_seed_too(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(replicates, "run_replicates", lambda *_, **k: seen.update(k))
    bindings.run_replicates(1, FILES, ["mine = 5", "amalgamate.seed = %mine"], tmp_path)
    assert seen["seed"] == 5


def test_folders_of_earlier_versions_go_on(three, tmp_path, monkeypatch):
    """They do not hold the number and the root seed; their seed says as much."""
    shutil.copytree(three, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "replicate-0" / "settings.json"
    settings = json.loads(file.read_text())
    del settings["replicate"], settings["root_seed"]
    file.write_text(json.dumps(settings))
    monkeypatch.setattr(Trainer, "step", None)
    bindings.run_replicates(1, FILES, TINY, tmp_path)
    file.write_text(json.dumps({**settings, "replicate": 1}))
    with pytest.raises(ValueError, match="replicate: 1 there, 0 here"):
        bindings.run_replicates(1, FILES, TINY, tmp_path)


def failing(monkeypatch, error, method="step", number=0):
    """Makes one replicate fail; returns how often each began to."""
    seed, calls = derive_seed(0, "replicate", number), []
    original = getattr(Trainer, method)

    def failed(self, *arguments):
        calls.append(self.settings.seed)
        if self.settings.seed == seed:
            raise error
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, method, failed)
    return calls


def test_one_that_diverged_does_not_block_the_next(
    three, tmp_path, monkeypatch, caplog
):
    calls = failing(monkeypatch, Diverged("3 meta-gradients in a row"))
    with pytest.raises(RuntimeError, match="1 of 2 replicates failed: replicate-0"):
        bindings.run_replicates(2, FILES, TINY, tmp_path)
    assert "replicate-0 failed: 3 meta-gradients" in caplog.text
    assert "Diverged: 3 meta" in (tmp_path / "replicate-0" / "log.txt").read_text()
    np.testing.assert_array_equal(
        weights(tmp_path / "replicate-1"), weights(three / "replicate-1")
    )
    rows = files.read_csv(tmp_path / replicates.SUMMARY_FILE)
    assert [row["finished"] for row in rows] == ["False", "True"]
    # Again: the failed one alone is tried.
    calls.clear()
    with pytest.raises(RuntimeError, match="1 of 2 replicates failed: replicate-0"):
        bindings.run_replicates(2, FILES, TINY, tmp_path)
    assert calls == [derive_seed(0, "replicate", 0)]


def test_what_is_not_here_has_not_been_done(tmp_path):
    """Where the machines of a cluster have folders of that name of their own."""

    class Elsewhere(engines.Local):
        def start(self, job, log):
            return job.name

        def ended(self, running):
            return [(name, "") for name in running]

    message = "2 of 2 replicates failed: .* The first: it ended without .*curves.png"
    with pytest.raises(RuntimeError, match=message):
        bindings.run_replicates(2, FILES, TINY, tmp_path, Elsewhere())


def test_an_interrupt_ends_all(tmp_path, monkeypatch):
    """Even in the first validation, before there is anything to sum up."""
    failing(monkeypatch, KeyboardInterrupt(), "validate")
    with pytest.raises(KeyboardInterrupt):
        bindings.run_replicates(2, FILES, TINY, tmp_path)
    assert not (tmp_path / "replicate-1").exists()
    (row,) = files.read_csv(tmp_path / replicates.SUMMARY_FILE)
    assert (row["meta_updates"], row["finished"]) == (0, "False")


def test_a_damaged_student_is_left_out_of_the_summary(three, tmp_path, caplog):
    shutil.copytree(three, tmp_path, dirs_exist_ok=True)
    (tmp_path / "replicate-1" / "student.npz").write_bytes(b"PK")
    (tmp_path / "replicate-copy").mkdir()
    shutil.copy(tmp_path / "replicate-0" / "student.npz", tmp_path / "replicate-copy")
    replicates.summarize(tmp_path)
    assert [
        row["replicate"] for row in files.read_csv(tmp_path / replicates.SUMMARY_FILE)
    ] == [0, 2]
    assert "replicate-1 is left out of the summary" in caplog.text


@pytest.mark.slow
def test_several_at_once_equal_one_after_another(three, tmp_path):
    bindings.run_replicates(2, FILES, TINY, tmp_path, engines.Local(2))
    for i in range(2):
        np.testing.assert_array_equal(
            weights(tmp_path / f"replicate-{i}"), weights(three / f"replicate-{i}")
        )
        assert "Trained" in (tmp_path / f"replicate-{i}" / "log.txt").read_text()


def test_a_failed_one_is_named_and_the_others_end(three, tmp_path):
    (tmp_path / "replicate-0").mkdir()
    (tmp_path / "replicate-0" / "settings.json").write_text("{")
    with pytest.raises(RuntimeError, match="1 of 2 replicates failed: replicate-0"):
        bindings.run_replicates(2, FILES, TINY, tmp_path, engines.Local(2))
    assert "damaged" in (tmp_path / "replicate-0" / "log.txt").read_text()
    np.testing.assert_array_equal(
        weights(tmp_path / "replicate-1"), weights(three / "replicate-1")
    )


def test_a_summary_is_of_all_that_is_there_when_it_is_written(three, tmp_path):
    """Of programs that end together the last one writes what all have done."""
    folder = tmp_path / "there"
    shutil.copytree(three, folder)
    (folder / "replicates.csv").unlink()
    with files.locked(folder / ".replicates.csv"):
        other = threading.Thread(target=replicates.summarize, args=[folder])
        other.start()
        other.join(0.3)
        shutil.rmtree(folder / "replicate-1")
        assert other.is_alive()
        assert not (folder / "replicates.csv").exists()
    other.join()
    rows = (folder / "replicates.csv").read_text().splitlines()[1:]
    assert [row[0] for row in rows] == ["0", "2"]


def test_counts_are_checked(tmp_path):
    with pytest.raises(ValueError, match="must be a whole number from 1"):
        bindings.run_replicates(0, FILES, TINY, tmp_path / "x")
    assert not (tmp_path / "x").exists()
