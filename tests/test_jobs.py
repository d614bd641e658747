"""Lists of jobs: on disk and back, chosen from, run in order, here and on Ray."""

import json
import os
import pathlib
import re
import signal
import time
import types

import gin
import numpy as np
import pytest
import tensorflow as tf

from tests import helpers
from tests.test_gin import TINY
from tf_amalgam import (
    bindings,
    engines,
    jobs,
    launchers,
    processes,
    records,
    terms,
    upcoming,
)
from tf_amalgam.jobs import Job

FILES = ("gin_configs/experiments/quickstart.gin",)
EVALUATION = (
    *TINY,
    "evaluate.tasks = [%seen]",
    "evaluate.optimizers = ['adam', 'choice-small']",
    "evaluate.baselines = ()",
    "evaluate.seeds = [3]",
    "evaluate.epochs = 1",
)


@pytest.fixture(autouse=True)
def cleared():
    yield
    gin.clear_config()


def job(name, folder="w", **others):
    return Job(name, "evaluate", ("a.gin",), ("b = 1",), str(folder), **others)


class Told:
    """A launcher that writes down what it starts; `fails` end with an error."""

    def __init__(self, fails=(), room=1):
        self.started, self._fails, self._room, self.stopped = [], fails, room, []

    def check(self, jobs):
        pass

    def has_room(self, running):
        return running < self._room

    def start(self, job, log):
        self.started.append(job.name)
        if job.name not in self._fails:
            for path in job.makes:
                pathlib.Path(path).write_text("")
        return job.name

    def ended(self, running):
        return [(name, "broken" if name in self._fails else "") for name in running]

    def stop(self, running):
        self.stopped = list(running)


def test_a_list_is_the_same_after_a_file(tmp_path):
    several = [
        job("train/a", flags=("--x=1",), makes=("w/é",), gpus=0.25),
        job("evaluate/a/b", after=("train/a",), log="w/log.txt"),
    ]
    jobs.write(several, tmp_path / "jobs.jsonl")
    assert jobs.read(tmp_path / "jobs.jsonl") == several
    assert len((tmp_path / "jobs.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("{\n", "Line 1 of .* is no job"),
        (json.dumps({**job("a")._asdict(), "nmae": 1}), "unexpected .* 'nmae'"),
        (2 * (json.dumps(job("a")._asdict()) + "\n\n"), "Two jobs are called a"),
        *(
            (json.dumps({**job("a")._asdict(), **edited}), message)
            for edited, message in (
                ({"after": "b"}, 'after is to be a list of texts, not "b"'),
                ({"gin_files": [1]}, r"gin_files is .* list of texts, not \[1\]"),
                ({"gpus": "1"}, 'gpus is to be a number from 0, not "1"'),
                ({"cpus": -1}, "cpus is to be a number from 0, not -1"),
                ({"always": 1}, "always is to be true or false, not 1"),
                ({"name": 3}, "name is to be a text, not 3"),
            )
        ),
    ],
)
def test_mistakes_in_a_list(tmp_path, lines, message):
    (tmp_path / "jobs.jsonl").write_text(lines)
    with pytest.raises(ValueError, match=message):
        jobs.read(tmp_path / "jobs.jsonl")
    with pytest.raises(FileNotFoundError, match="no list of jobs"):
        jobs.read(tmp_path / "other.jsonl")


def test_jobs_are_chosen_by_name():
    several = [job("train/a"), job("evaluate/x/a"), job("evaluate/y/a")]
    assert list(jobs.chosen(several, ())) == several
    assert list(jobs.chosen(several, ["evaluate/y/*", "train/*"])) == [
        several[0],
        several[2],
    ]
    with pytest.raises(ValueError, match=r"No job is called like trian/\*"):
        list(jobs.chosen(several, ["train/*", "trian/*"]))


def test_jobs_wait_for_others_and_what_is_done_is_left(tmp_path):
    def made(name, **others):
        return job(name, makes=(str(tmp_path / name.replace("/", "-")),), **others)

    several = [
        made("report", after=("evaluate/",)),
        made("evaluate/a", after=("train/a",)),
        made("evaluate/b", after=("train/b", "elsewhere")),
        made("train/b"),
        made("train/a"),
    ]
    on, ended = Told(), []
    launched = {"progress": False, "ended": lambda job, error: ended.append(job.name)}
    assert launchers.run(several, on, tmp_path, **launched) == {}
    # What a job was waited for comes before what else is ready.
    assert on.started == ["train/b", "evaluate/b", "train/a", "evaluate/a", "report"]
    assert ended == on.started
    (tmp_path / "evaluate-b").unlink()
    again = Told()
    launchers.run(several, again, tmp_path, progress=False)
    assert again.started == ["evaluate/b"]
    # Nothing says when these are done: they are run each time.
    always = [job("a"), job("b")]
    for _ in range(2):
        again = Told(room=2)
        launchers.run(always, again, tmp_path, progress=False)
        assert again.started == ["a", "b"]


def test_what_may_have_killed_an_earlier_call_comes_last(tmp_path):
    """With all its processes, as a container's want of memory does."""
    several = [job("a", makes=(str(tmp_path / "a"),)), *map(job, "bc")]
    marks = upcoming.Marks(tmp_path)
    several.append(job("d", after=("b",)))
    for one in several[:2]:
        marks.put(one)
    left = []

    def ended(job, error):
        left.append(marks.left())

    on = Told()
    launchers.run(several, on, tmp_path, progress=False, ended=ended)
    assert on.started == ["c", "a", "b", "d"]
    assert left == [{"a", "b"}, {"b"}, set(), set()]

    def stopped(job, error):
        raise KeyboardInterrupt

    on = Told(room=2)
    with pytest.raises(KeyboardInterrupt):
        launchers.run(several, on, tmp_path, progress=False, ended=stopped)
    assert marks.left() == set()
    # One that looks whether the folder is its own does so first.
    always = [one._replace(always=True, after=()) for one in several]
    marks.put(always[0])
    on = Told()
    launchers.run(always, on, tmp_path, progress=False)
    assert on.started == ["a", "b", "c", "d"]


def test_what_is_always_run_has_to_make_its_files_all_the_same(tmp_path):
    """On another machine it may have made them in a folder of that machine's."""
    one = job("a", makes=(str(tmp_path / "made"),), always=True)
    made = Told()
    for _ in range(2):
        assert launchers.run([one], made, tmp_path, progress=False) == {}
    assert made.started == ["a", "a"]
    (tmp_path / "made").unlink()
    elsewhere = type("Elsewhere", (Told,), {"start": lambda self, job, log: job.name})()
    assert launchers.run([one], elsewhere, tmp_path, progress=False) == {
        "a": f"it ended without {tmp_path / 'made'}"
    }


def test_what_comes_after_a_failure_is_left(tmp_path):
    none = str(tmp_path / "none")
    several = [job("b", after=("a",)), job("a"), job("c"), job("d", makes=(none,))]
    on = Told(fails=("a",))
    monkey = type("Lazy", (Told,), {"start": lambda self, job, log: job.name})()
    failed = launchers.run(several, on, tmp_path, progress=False)
    assert failed["a"] == "broken"
    assert on.started == ["a", "c", "d"]
    pathlib.Path(none).unlink()
    failed = launchers.run(several[3:], monkey, tmp_path, progress=False)
    assert failed == {"d": f"it ended without {none}"}
    message = r"1 of 1 jobs failed: d\. .*ended without .*none \(see .*logs/d.txt\)"
    with pytest.raises(RuntimeError, match=message):
        launchers.check(failed, several[3:], tmp_path)
    message = r"1 of 4 jobs failed: a\. 1 that come after them were left\. The first: x"
    with pytest.raises(RuntimeError, match=message):
        launchers.check({"a": "x"}, several, tmp_path)
    launchers.check({}, several, tmp_path)


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (-9, engines.Lost, "killed by SIGKILL"),
        (-15, engines.Lost, "killed by SIGTERM"),
        (-11, engines.Failed, "killed by SIGSEGV"),
        (-40, engines.Failed, "killed by signal 40"),
        (130, engines.Lost, "it was interrupted"),
        (1, engines.Failed, "it ended with status 1"),
        (3, engines.Failed, "its folder holds another experiment"),
        (0, None, ""),
    ],
)
def test_what_ray_begins_again(monkeypatch, tmp_path, status, error, message):
    """What was killed or stopped from outside; not what went wrong by itself."""
    process = type("Ended", (), {"poll": lambda self: status})()
    monkeypatch.setattr(engines, "_process", lambda *_, **__: process)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    arguments = (job("a"), tmp_path / "log.txt", tmp_path, [], {})
    if error is None:
        engines._on_ray(*arguments)
        return
    with pytest.raises(error, match=message):
        engines._on_ray(*arguments)


@pytest.mark.parametrize(("gpus", "seen"), [(0, "-1"), (0.5, "3")])
def test_a_job_on_ray_takes_what_it_was_given(monkeypatch, tmp_path, gpus, seen):
    """No GPU unless it asked for one, then Ray's choice; threads as it has cores."""
    found = []

    def popen(command, cwd, env, **_):
        found.append((command, cwd, env))
        return type("Ended", (), {"poll": lambda self: 0})()

    monkeypatch.setattr(processes.subprocess, "Popen", popen)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("KERAS_HOME", "there")  # and as it was afterwards
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    one = job("a")._replace(cpus=2.6, gpus=gpus)
    given = (["-P"], {"KERAS_HOME": "here"})
    engines._on_ray(one, tmp_path / "log.txt", tmp_path, *given)
    ((command, cwd, env),) = found
    assert command[1:3] == ["-P", "-m"]  # as where the job comes from
    assert (cwd, env["CUDA_VISIBLE_DEVICES"]) == (tmp_path, seen)
    assert (env["TF_NUM_INTRAOP_THREADS"], env["KERAS_HOME"]) == ("3", "here")
    assert "--noonednn" in command  # what is in force here is TensorFlow's own choice
    with pytest.raises(engines.Failed, match="no is not on this machine"):
        engines._on_ray(one, tmp_path / "log.txt", tmp_path / "no", [], {})


def test_processes_that_share_a_gpu_take_what_they_need(monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(
        processes.subprocess, "Popen", lambda *_, env, **__: found.append(env)
    )
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    processes.started("evaluate", (), (), tmp_path, tmp_path / "log.txt")
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    processes.started("evaluate", (), (), tmp_path, tmp_path / "log.txt")
    assert [env["TF_FORCE_GPU_ALLOW_GROWTH"] for env in found] == ["true", "false"]


@pytest.mark.parametrize(
    ("visible", "seen", "count", "expected"),
    [
        (None, 0, 2, [None, None]),
        ("-1", 0, 1, [None]),
        (None, 4, 1, ["0,1,2,3"]),
        (None, 4, 2, ["0,2", "1,3"]),
        (None, 2, 3, ["0", "1", "0"]),
        ("GPU-a,GPU-b,3", 3, 2, ["GPU-a,3", "GPU-b"]),
        ("5,-1,6", 1, 2, ["5", "5"]),  # CUDA reads no further than what is not there
    ],
)
def test_processes_side_by_side_share_out_the_gpus(
    monkeypatch, tmp_path, visible, seen, count, expected
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    every = tf.config.list_physical_devices
    monkeypatch.setattr(
        *(tf.config, "list_physical_devices"),
        lambda kind: seen * ["a GPU"] if kind == "GPU" else every(kind),
    )
    begun = []

    class Process:
        returncode = 0

        def __init__(self, command, env, **_):
            begun.append(env.get("CUDA_VISIBLE_DEVICES"))

        def poll(self):
            return self.returncode

        def send_signal(self, signal):
            pass

        wait = poll

    monkeypatch.setattr(processes.subprocess, "Popen", Process)
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    expected = [before if name is None else name for name in expected]
    on = engines.Local(count + 1)
    on.check([job(str(i)) for i in range(count)])  # no more than there are
    started = [on.start(job(str(i)), tmp_path / "log.txt") for i in range(count)]
    assert begun == expected
    # One that has ended leaves its own to the next; so does one that was stopped.
    assert on.ended(started[-1:]) == [(started[-1], "")]
    on.start(job("next"), tmp_path / "log.txt")
    assert begun[count:] == expected[-1:]
    on.stop(started)
    on.start(job("again"), tmp_path / "log.txt")
    assert begun[count + 1 :] == expected[:1]


def test_a_file_of_another_machine_is_looked_for_anew(tmp_path, monkeypatch):
    """It may be there, though this machine remembers that it was not."""
    there = tmp_path / "made"

    class Elsewhere(Told):
        def start(self, job, log):
            return job.name

    def look_anew(folder):
        assert folder == str(tmp_path)
        there.touch()

    several = [job("a", makes=(str(there),))]
    assert launchers.run(several, Elsewhere(), tmp_path, progress=False) == {
        "a": f"it ended without {there}"
    }
    monkeypatch.setattr(jobs.files, "look_anew", look_anew)
    assert not launchers.run(several, Elsewhere(), tmp_path, progress=False)


@pytest.mark.parametrize(
    ("address", "variable", "where"),
    [(None, "", "local"), (None, "ray://a:1", "ray://a:1"), ("auto", "b:1", "auto")],
)
def test_which_ray_cluster_it_is(monkeypatch, address, variable, where):
    """One that somebody has started here is not joined unless it is asked for."""
    ray = pytest.importorskip("ray")
    asked = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def init(address, **_):
        asked.append(address)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    monkeypatch.setattr(ray, "init", init)
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("RAY_ADDRESS", variable)
    names = ("RAY_task_oom_retries", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO")
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    on = engines.Ray(address, retries=5)
    assert asked == [where]
    assert signal.getsignal(signal.SIGTERM) is before  # a stop ends in checkpoints
    assert on._whole == (where == "local")
    assert os.environ[names[0]] == "5"


@pytest.mark.parametrize(
    ("gpus", "asked", "told"), [(4, 0.0, True), (4, 0.5, False), (0, 0.0, False)]
)
def test_gpus_that_nobody_takes_are_told_of(caplog, gpus, asked, told):
    on = object.__new__(engines.Ray)
    node = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": float(gpus)}}
    on._ray, on._whole = types.SimpleNamespace(nodes=lambda: [node]), True
    on.check([job("a", gpus=asked)])
    assert ("has 4 GPUs, of which no job takes any" in caplog.text) == told


def test_what_ray_says_of_a_job():
    """In a line: the end of a traceback, or how its own words begin."""
    ray = pytest.importorskip("ray")
    on = object.__new__(engines.Ray)
    on._ray = ray
    failed = engines.Failed("it ended with status 1")
    traceback = "ray::_on_ray()\n  File ...\nFailed: it ended with status 1"
    low = "Task was killed: low on memory.\n\n" + 99 * "Set RAY_x. "
    for error, said in (
        (ray.exceptions.RayTaskError("job", traceback, failed), str(failed)),
        (ray.exceptions.OutOfMemoryError(low), "killed: low on memory. Set RAY_x."),
        (ray.exceptions.RayError(), "RayError"),
    ):
        told = on._said(error)
        assert said in told
        assert "\n" not in told
        assert len(told) <= engines.SAID + 1


def test_no_ray_cluster(monkeypatch):
    ray = pytest.importorskip("ray")

    def refused(address, **_):
        asked.append(address)
        raise ConnectionError("nobody there")

    asked = []
    monkeypatch.setattr(ray, "init", refused)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    for address in (None, "10.0.0.2:6379"):
        with pytest.raises(ValueError, match="No Ray cluster answers.*ray start"):
            engines.Ray(address)
    assert asked == ["10.0.0.1:6379", "10.0.0.2:6379"]


@pytest.mark.parametrize("kind", ["RaySystemError", "ConnectionError"])
def test_a_ray_cluster_that_is_gone_is_told_of(tmp_path, caplog, kind):
    """No job that it had is taken for what killed it; ray:// has errors of its own."""
    ray = pytest.importorskip("ray")
    error = getattr(ray.exceptions, kind, ConnectionError)

    def broken(*_, **__):
        raise error("the head is gone")

    on = object.__new__(engines.Ray)
    on._ray = types.SimpleNamespace(
        exceptions=ray.exceptions, wait=broken, cancel=broken, nodes=broken
    )
    gone = pytest.raises(engines.ClusterLost, match="any more.*the head is gone")
    with gone:
        on.check([job("a")])
    on.check = lambda jobs: None
    with gone:  # in starting
        on._task = types.SimpleNamespace(
            options=lambda **_: types.SimpleNamespace(remote=broken)
        )
        on._retries = {}
        launchers.run([job("a")], on, tmp_path, progress=False)
    with gone:  # in waiting
        on.start = lambda job, log: job.name
        launchers.run([job("b"), job("c")], on, tmp_path, progress=False)
    assert "does not answer: " in caplog.text
    assert not upcoming.Marks(tmp_path).left()


def test_jobs_that_wait_for_one_another_are_refused(tmp_path):
    several = [job("a", after=("b",)), job("b", after=("a",)), job("c")]
    on = Told()
    with pytest.raises(ValueError, match="wait for one another: a, b"):
        launchers.run(several, on, tmp_path, progress=False)
    assert on.started == []


def test_an_interrupt_stops_what_is_running(tmp_path):
    def ended(job, error):
        raise KeyboardInterrupt

    on = Told(room=2)
    with pytest.raises(KeyboardInterrupt):
        launchers.run([job("a"), job("b")], on, tmp_path, progress=False, ended=ended)
    assert on.stopped == ["b"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("slurm",), "one of local, ray"),
        (("local", 0), "parallel must be a whole number from 1"),
        (("ray", 1, None, -1), "retries must be a whole number from 0"),
    ],
)
def test_mistakes_in_a_launcher(given, message):
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match=message):
        launchers.launcher(*given)


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ValueError, match="needs Ray: pip install 'ray>="):
        launchers.launcher("ray")


TIMES = ("seconds", "load", "step_milliseconds", "configuration")
FIGURES = ("curves", "test", "test_at_best", "start_loss", "batch_losses")


def same(folder, other):
    """Compares records: figures to rounding, all else but times and places exactly."""
    pairs = [records.read_all(each, batch_losses=True) for each in (folder, other)]
    assert len(pairs[0]) == len(pairs[1]) > 0
    for ours, theirs in zip(*pairs, strict=True):
        # Keras numbers the optimizers of a process.
        configs = [one.pop("optimizer_config") for one in (ours, theirs)]
        assert not terms.differences(*configs)
        for name in ours.keys() - {*TIMES, *FIGURES}:
            assert ours[name] == theirs[name], name
        for name in FIGURES:
            found, expected = (
                np.array(tf.nest.flatten(one[name])) for one in (ours, theirs)
            )
            np.testing.assert_allclose(found, expected, rtol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Returns the folder of the evaluation by one process."""
    folder = tmp_path_factory.mktemp("alone")
    bindings.run("evaluate", FILES, EVALUATION, folder)
    gin.clear_config()
    return folder


@pytest.mark.slow
def test_jobs_of_this_machine_equal_one_process(alone, tmp_path):
    found = bindings.run_launched(
        "evaluate", FILES, EVALUATION, tmp_path, engines.Local(2), 1.0, 0.0
    )
    assert len(found) == 2
    same(tmp_path, alone)
    assert (tmp_path / "table.md").is_file()
    listed = jobs.read(tmp_path / "jobs.jsonl")
    assert all(each.done for each in listed)
    assert {each.flags[0] for each in listed} == {
        f"--only={path.relative_to(tmp_path)}"
        for path in records.record_paths(tmp_path)
    }


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of this machine with two CPUs; as in the background of a script."""
    ray = pytest.importorskip("ray")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # its workers inherit it
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    signal.signal(signal.SIGINT, before)
    yield ray
    ray.shutdown()


def processes_of(folder):
    """Returns the numbers of the processes that make records in a folder."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if f"--workdir={folder}" in words and "--noreport" in words:
            found.append(int(path.parent.name))
    return found


def parent_of(number):
    text = pathlib.Path(f"/proc/{number}/status").read_text()
    return int(re.search(r"PPid:\s+(\d+)", text)[1])


class Killing(engines.Ray):
    """Kills the Ray worker of the first job that it sees running."""

    killed = None

    def ended(self, running):
        mine = processes_of(self.folder)
        if not self.killed and mine:
            self.killed = (mine[0], parent_of(mine[0]))
            os.kill(self.killed[1], signal.SIGKILL)
        return super().ended(running)


@pytest.mark.slow
def test_a_ray_cluster_that_loses_a_worker_makes_the_same(cluster, alone, tmp_path):
    on = Killing()
    on.folder = tmp_path
    bindings.run_launched("evaluate", FILES, EVALUATION, tmp_path, on, 1.0, 0.0)
    child, worker = on.killed
    for number in (child, worker):  # what it had started did not outlive it
        left = pathlib.Path(f"/proc/{number}")
        helpers.wait_until(lambda left=left: not left.exists(), 10)
    same(tmp_path, alone)
    # The very list that Ray ran, on this machine.
    listed = jobs.read(tmp_path / "jobs.jsonl")
    for path in records.record_paths(tmp_path):
        path.unlink()
    assert not launchers.run(listed, engines.Local(2), tmp_path, progress=False)
    same(tmp_path, alone)


class Stopped(engines.Ray):
    """Is interrupted once the first job runs."""

    def ended(self, running):
        found = super().ended(running)
        if processes_of(self.folder):
            self.interrupted = time.monotonic()
            raise KeyboardInterrupt
        return found


def test_an_interrupt_ends_what_ray_runs(cluster, tmp_path):
    """Long before it would end by itself."""
    on = Stopped()
    on.folder = tmp_path
    lines = [*EVALUATION, "evaluate.seeds = [0]", "evaluate.epochs = 2000"]
    lines += ["evaluate.optimizers = ['adam']"]
    several = [Job("long", "evaluate", FILES, tuple(lines), str(tmp_path))]
    several = [several[0]._replace(flags=("--noreport",), cpus=1.0)]
    with pytest.raises(KeyboardInterrupt):
        launchers.run(several, on, tmp_path, progress=False)
    assert time.monotonic() < on.interrupted + 30
    helpers.wait_until(lambda: not processes_of(tmp_path), 30)


def test_ray_is_told_how_to_compute_and_nothing_of_this_machine(monkeypatch):
    given, asked = [], {}

    def options(**needs):
        asked.update(needs)
        return types.SimpleNamespace(remote=lambda *told: given.append(told[-1]))

    on = engines.Ray.__new__(engines.Ray)
    on._task = types.SimpleNamespace(options=options)
    on._retries = {"max_retries": 5}
    for name in ("TF_CONFIG", "TF_CPU_BFC_MEM_LIMIT_IN_MB", "TF_ENABLE_ONEDNN_OPTS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TFDS_DATA_DIR", "/data")
    on.start(job("a", cpus=3.0, gpus=0.25), "log.txt")
    needs = {"num_cpus": 3.0, "num_gpus": 0.25, "name": "a", "max_retries": 5}
    assert asked == needs
    assert given[0]["TFDS_DATA_DIR"] == "/data"
    assert given[0]["TF_ENABLE_ONEDNN_OPTS"] == "1"
    assert not {"TF_CONFIG", "TF_CPU_BFC_MEM_LIMIT_IN_MB"} & given[0].keys()


def test_failures_on_ray_are_named(cluster, tmp_path, caplog):
    lines = [*EVALUATION, "evaluate.seeds = [0]", "evaluate.optimizers = ['adam']"]
    several = [
        Job("mistake", "evaluate", FILES, (*lines, "evaluate.x = 1"), str(tmp_path)),
    ]
    failed = launchers.run(several, engines.Ray(), tmp_path, progress=False)
    assert "it ended with status 1" in failed["mistake"]
    said = (tmp_path / "logs" / "mistake.txt").read_text()
    assert "error: The gin configuration cannot be read" in said
    with pytest.raises(ValueError, match="needs 64 CPUs and 0 GPUs, which no machine"):
        launchers.run(
            [several[0]._replace(cpus=64)], engines.Ray(), tmp_path, progress=False
        )
    with caplog.at_level("WARNING"):  # which may grow
        engines.Ray("auto").check([several[0]._replace(gpus=1)])
    assert "needs 2 CPUs and 1 GPUs" in caplog.text


@pytest.mark.slow
def test_a_grid_search_on_ray_equals_one_here(cluster, tmp_path):
    files = ["gin_configs/experiments/grid_search.gin"]
    lines = [*TINY, "grid_search.teachers = ['sgd']"]
    bindings.run("grid_search", files, lines, tmp_path / "here")
    on = engines.Ray()
    bindings.run_launched("grid_search", files, lines, tmp_path / "ray", on, 1.0, 0.0)
    here, there = (tmp_path / name / "pool.gin" for name in ("here", "ray"))
    assert here.read_text() == there.read_text()


@pytest.mark.slow
def test_replicates_on_ray_equal_those_here(cluster, tmp_path):
    from tests.test_replicates import weights

    bindings.run_replicates(2, FILES, TINY, tmp_path / "here")
    on = engines.Ray()
    bindings.run_replicates(2, FILES, TINY, tmp_path / "ray", on, cpus=1.0)
    for i in range(2):
        here, there = (tmp_path / n / f"replicate-{i}" for n in ("here", "ray"))
        # To rounding: a job of one CPU adds up in another order than this process.
        np.testing.assert_allclose(weights(there), weights(here), rtol=1e-4, atol=1e-6)
    assert (tmp_path / "ray" / "replicates.csv").is_file()
