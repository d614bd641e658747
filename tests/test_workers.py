"""Processes that share an evaluation: replaced, ended, stopped, failing."""

import json
import signal

import pytest

from tf_amalgam import processes
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
    """Lists the processes that were started, with their bindings."""
    found = []

    def started(binary, gin_files, gin_bindings, workdir, log):
        assert binary == "evaluate"
        found.append(Fake(log))
        found[-1].bindings = gin_bindings
        return found[-1]

    monkeypatch.setattr(processes, "started", started)
    return found


def test_a_process_is_replaced_after_its_share(begun, tmp_path):
    crew = Workers(2, ["a.gin"], ["evaluate.epochs = 1"], tmp_path, runs=3)
    assert crew.work(10)
    assert len(begun) == 2
    assert "evaluate.limit = 3" in begun[0].bindings
    assert "evaluate.epochs = 1" in begun[0].bindings
    assert crew.work(8)
    assert len(begun) == 2
    begun[0].returncode = 0
    assert crew.work(7)
    assert len(begun) == 3
    assert begun[2].log == begun[0].log  # goes on in the same log


def test_no_more_processes_than_runs(begun, tmp_path):
    assert Workers(4, [], [], tmp_path).work(2)
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


def test_stopping_interrupts_all(begun, tmp_path):
    crew = Workers(2, [], [], tmp_path)
    crew.work(5)
    crew.stop()
    assert [fake.signals for fake in begun] == [[signal.SIGINT]] * 2
    crew.stop()  # once
    assert [len(fake.signals) for fake in begun] == [1, 1]


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
    assert calls == [3, 2]


def test_count_is_checked(tmp_path):
    with pytest.raises(ValueError, match="from 1, received 0"):
        Workers(0, [], [], tmp_path)
