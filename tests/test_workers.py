"""Processes that share an evaluation: replaced, ended, stopped, failing."""

import json
import os
import signal
import socket
import time

import pytest

from tf_amalgam import processes, workers
from tf_amalgam.sweep import Job, sweep
from tf_amalgam.workers import Workers


class Fake:
    """Stands for a process: runs until told how it ended."""

    def __init__(self, log):
        self.log, self.returncode, self.signals = log, None, []

    def poll(self):
        return self.returncode

    def send_signal(self, number):
        self.signals.append(number)
        self.returncode = 1

    def wait(self):
        assert self.returncode is not None


@pytest.fixture
def begun(monkeypatch):
    """Lists the processes that were started, with their bindings and flags."""
    found = []

    def started(binary, gin_files, gin_bindings, workdir, log, flags, gpus):
        assert binary == "evaluate"
        found.append(Fake(log))
        found[-1].bindings, found[-1].flags = gin_bindings, flags
        found[-1].gpus = gpus
        return found[-1]

    monkeypatch.setattr(processes, "started", started)
    return found


def test_a_process_is_replaced_after_its_share(begun, tmp_path):
    crew = Workers(2, ["a.gin"], ["evaluate.epochs = 1"], tmp_path)
    assert crew.work(10) == 2
    assert len(begun) == 2
    # What they evaluate is what was asked for; that they are workers is said apart.
    assert begun[0].bindings == ["evaluate.epochs = 1"]
    whose, since = begun[0].flags
    assert whose == f"--worker_of={os.getpid()}"
    assert 0 <= time.time_ns() - int(since.removeprefix("--worker_since=")) < 60e9
    assert crew.work(8) == 2
    assert len(begun) == 2
    begun[0].returncode = 0
    assert crew.work(7) == 2
    assert len(begun) == 3
    assert begun[2].log == begun[0].log  # goes on in the same log


def test_processes_share_out_the_gpus(begun, monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(
        *(processes, "share_of_gpus"), lambda *of: given.append(of) or f"{of[0]}"
    )
    crew = Workers(2, [], [], tmp_path)
    crew.work(10)
    begun[0].returncode = 0
    crew.work(9)
    numbers = [number for number, _ in given]
    assert sorted(numbers[:2]) == [0, 1]
    assert numbers[2] == numbers[0]  # the GPUs of the one that it replaces
    assert {count for _, count in given} == {2}
    assert [fake.gpus for fake in begun] == [str(number) for number in numbers]


def test_no_more_processes_than_runs(begun, tmp_path):
    assert Workers(4, [], [], tmp_path).work(2) == 2
    assert len(begun) == 2


def test_one_that_did_nothing_is_not_started_again(begun, tmp_path):
    crew = Workers(1, [], [], tmp_path)
    crew.work(5)
    begun[0].returncode = 1  # some of its runs failed, others are done
    assert crew.work(4)
    assert len(begun) == 2
    begun[1].returncode = 1
    assert not crew.work(4)
    assert len(begun) == 2


def test_one_that_was_killed_is_replaced_and_what_it_did_left(begun, tmp_path):
    """Of the runs that are left the one that it was doing is none any more."""
    crew = Workers(1, [], [], tmp_path)
    crew.work(5)
    begun[0].returncode, begun[0].pid = -9, 7
    mark = tmp_path / "task" / "a.begun"
    mark.parent.mkdir()
    mark.write_text(f"{socket.gethostname()} 7")
    assert crew.work(5)
    assert len(begun) == 2
    assert "SIGKILL" in (mark.parent / "a.failed.txt").read_text()
    begun[1].returncode, begun[1].pid = -9, 8  # before it began one
    assert not crew.work(4)


def test_stopping_interrupts_all(begun, tmp_path):
    crew = Workers(2, [], [], tmp_path)
    crew.work(5)
    crew.stop()
    assert [fake.signals for fake in begun] == [[signal.SIGTERM]] * 2
    crew.stop()  # once
    assert [len(fake.signals) for fake in begun] == [1, 1]


def test_a_worker_ends_between_runs_when_its_parent_is_gone(tmp_path, monkeypatch):
    """A kill tells no one; the system gives its children another parent."""
    share = workers.share(os.getppid())
    assert (share["limit"], share["progress"], share["write_report"]) == (
        *(workers.RUNS_PER_PROCESS, False, False),
    )
    jobs = [Job(tmp_path / "t" / f"{i}.json", f"job {i}") for i in range(4)]
    seen = []

    def run(i):
        seen.append(i)
        jobs[i].path.write_text("0")
        if i == 1:
            monkeypatch.setattr(os, "getppid", lambda: 1)

    (tmp_path / "t").mkdir()
    options = {"progress": False, "limit": share["limit"], "halt": share["halt"]}
    sweep(jobs, run, tmp_path, **options)  # what it leaves has not failed
    assert seen == [0, 1]
    sweep(jobs, run, tmp_path, **options)
    assert seen == [0, 1]
    monkeypatch.undo()
    sweep(jobs, run, tmp_path, **options)
    assert seen == [0, 1, 2, 3]


def test_one_bar_says_how_many_work_and_what_failed(tmp_path, capsys, monkeypatch):
    """Not that others run all that is left; not what failed in earlier calls."""
    monkeypatch.setattr("tf_amalgam.sweep.PATIENCE", 0.01)
    jobs = [Job(tmp_path / "t" / f"{i}.json", f"job {i}") for i in range(5)]
    (tmp_path / "t").mkdir()
    for i in (3, 4):
        (tmp_path / "t" / f"{i}.failed.txt").write_text("Traceback\nold")
    calls = []

    def meanwhile(left):
        calls.append(left)
        if len(calls) == 1:
            return 2
        if len(calls) == 2:
            jobs[0].path.write_text("0")
            for i in (1, 4):
                (tmp_path / "t" / f"{i}.failed.txt").write_text("Traceback\nnew")
                os.utime(tmp_path / "t" / f"{i}.failed.txt", (9e8, 9e8))
            (tmp_path / "t" / "3.failed.txt").unlink()
            return 1
        return 0

    with pytest.raises(RuntimeError, match="4 of 5 runs failed"):
        sweep(jobs, None, tmp_path, limit=0, meanwhile=meanwhile)
    said = [line.strip() for line in capsys.readouterr().err.split("\r")]
    assert any("0/5" in line and line.endswith(", 2 running]") for line in said)
    assert any(line.endswith(", 1 running, 2 failed]") for line in said)
    assert not any("other processes" in line for line in said)


def test_what_processes_leave_undone_has_failed(tmp_path):
    jobs = [Job(tmp_path / "t" / f"{i}.json", f"job {i}") for i in range(3)]
    calls = []

    def meanwhile(left):
        calls.append(left)
        jobs[0].path.parent.mkdir(exist_ok=True)
        jobs[0].path.write_text(json.dumps(0))
        (tmp_path / "t" / "1.failed.txt").write_text("Traceback\nMemoryError: big")
        return len(calls) < 2

    message = "2 of 3 runs failed: job 1, job 2. The first: MemoryError: big"
    with pytest.raises(RuntimeError, match=message):
        sweep(jobs, None, tmp_path, progress=False, limit=0, meanwhile=meanwhile)
    assert calls == [3, 1]  # of two that are undone one has failed


def test_count_is_checked(tmp_path):
    with pytest.raises(ValueError, match="from 1, received 0"):
        Workers(0, [], [], tmp_path)
