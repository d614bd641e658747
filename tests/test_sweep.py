"""Jobs over one folder: resumed, shared by processes, killed, failing."""

import errno
import multiprocessing
import os
import signal
import time
import types

import pytest

from tests import helpers
from tf_amalgam import files
from tf_amalgam.sweep import Job, blame, failures, sweep


def jobs_in(folder, count):
    return [Job(folder / "task" / f"{i}.json", f"job {i}") for i in range(count)]


def swept(folder, count, run, progress=False):
    """Sweeps jobs that write what `run(i)` returns."""
    jobs = jobs_in(folder, count)
    sweep(
        jobs,
        lambda i: files.write_json(jobs[i].path, run(i)),
        folder,
        progress=progress,
    )
    return jobs


def test_finished_jobs_are_not_run_again(tmp_path):
    seen = []
    swept(tmp_path, 2, seen.append)
    swept(tmp_path, 4, seen.append)
    assert seen == [0, 1, 2, 3]


def test_a_failed_job_is_named_and_tried_again_by_the_next_call(tmp_path):
    def broken(i):
        if i in (1, 2):
            raise ZeroDivisionError(f"at {i}")
        return i

    message = r"2 of 4 runs failed: job 1, job 2\. The first: ZeroDivisionError: at 1"
    with pytest.raises(RuntimeError, match=message):
        swept(tmp_path, 4, broken)
    assert [job.path.is_file() for job in jobs_in(tmp_path, 4)] == [1, 0, 0, 1]
    assert [path.name for path in failures(tmp_path)] == [
        *("1.failed.txt", "2.failed.txt")
    ]
    assert "in broken" in failures(tmp_path)[0].read_text()
    seen = []
    swept(tmp_path, 4, seen.append)
    assert seen == [1, 2]
    assert failures(tmp_path) == []
    assert not list((tmp_path / "task").glob("*.txt"))


def test_a_full_disk_ends_the_sweep_at_once(tmp_path, monkeypatch):
    """No other file could be written either; those that are there stay."""
    seen = []

    def full(handle):
        if len(seen) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match="No space left on device, while writing .*1.json"
    ):
        swept(tmp_path, 4, seen.append)
    assert seen == [0, 1]
    assert sorted(path.name for path in (tmp_path / "task").iterdir()) == ["0.json"]


def test_other_errors_of_the_system_cost_one_job(tmp_path):
    def lacking(i):
        if i == 0:
            raise FileNotFoundError(errno.ENOENT, "no such file", "/nowhere/data")
        return i

    with pytest.raises(RuntimeError, match="1 of 3 runs failed: job 0.*FileNotFound"):
        swept(tmp_path, 3, lacking)
    assert [job.path.is_file() for job in jobs_in(tmp_path, 3)] == [0, 1, 1]


def test_a_failure_that_another_process_made_good_is_none(tmp_path):
    """Its file is there in the end, and its traceback is not."""
    jobs = jobs_in(tmp_path, 2)

    def run(i):
        if i == 0:
            raise MemoryError
        for job in jobs:  # as another process would
            files.write_json(job.path, i)

    sweep(jobs, run, tmp_path, progress=False)
    assert failures(tmp_path) == []


def test_a_run_that_writes_nothing_has_failed(tmp_path):
    with pytest.raises(RuntimeError, match="without writing .*0.json"):
        sweep(jobs_in(tmp_path, 1), lambda i: None, tmp_path, progress=False)


def test_a_limit_leaves_the_rest_for_the_next_call(tmp_path):
    seen, jobs = [], jobs_in(tmp_path, 5)

    def run(i):
        seen.append(i)
        files.write_json(jobs[i].path, i)

    sweep(jobs, run, tmp_path, progress=False, limit=2)
    assert seen == [0, 1]
    sweep(jobs, run, tmp_path, progress=False, limit=2)
    sweep(jobs, run, tmp_path, progress=False, limit=2)
    assert seen == [0, 1, 2, 3, 4]


def test_what_another_process_failed_to_do_is_left_alone(tmp_path):
    """Or a share of jobs would be spent on the same failures again and again."""
    since, seen = time.time_ns() - 10**9, []  # files' times may lag behind

    def broken(i):
        seen.append(i)
        if i < 3:
            raise ValueError("no")
        files.write_json(jobs[i].path, i)

    jobs = jobs_in(tmp_path, 10)
    for _ in range(4):  # processes that do three jobs each
        try:
            sweep(jobs, broken, tmp_path, progress=False, limit=3, since=since)
        except RuntimeError as error:
            assert "3 of 10 runs failed" in str(error)  # noqa: PT017
    assert seen == list(range(10))
    # Another call tries them again, a share of it those alone that it finds.
    with pytest.raises(RuntimeError, match="3 of 10"):
        sweep(jobs, broken, tmp_path, progress=False, since=time.time_ns())
    assert seen[10:] == [0, 1, 2]


def test_what_kills_its_process_is_left_alone(tmp_path):
    """By the others of its call, once that has been told; the next tries it again."""
    now, seen, jobs = time.time_ns() - 10**9, [], jobs_in(tmp_path, 3)
    begun = jobs[1].path.with_suffix(".begun")

    def write(i):
        if i == 1 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        seen.append(i)
        files.write_json(jobs[i].path, i)

    def work():
        sweep(jobs, write, tmp_path, progress=False, since=now)

    parent = os.getpid()
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert [job.path.is_file() for job in jobs] == [True, False, False]
    dead = types.SimpleNamespace(pid=process.pid, returncode=process.exitcode)
    # It is nobody else's fault.
    assert blame(tmp_path, types.SimpleNamespace(pid=1, returncode=-9)) == 0
    assert blame(tmp_path, types.SimpleNamespace(pid=process.pid, returncode=1)) == 0
    assert begun.is_file()
    assert blame(tmp_path, dead) == 1
    assert not begun.exists()
    work()
    assert seen == [2]
    (failure,) = failures(tmp_path)
    assert failure.read_text().endswith("was killed by SIGKILL.\n")
    sweep(jobs, write, tmp_path, progress=False)
    assert seen == [2, 1]
    assert not list(tmp_path.rglob("*.begun"))
    assert not failures(tmp_path)


def test_who_is_blamed_where_others_end_meanwhile(tmp_path, monkeypatch):
    """A run of another that is done between a look at the folder and at its mark."""
    gone = tmp_path / "task" / "0.begun"
    listed = [gone]
    monkeypatch.setattr(type(tmp_path), "glob", lambda *_: listed)
    assert blame(tmp_path, types.SimpleNamespace(pid=1, returncode=-9)) == 0


def test_a_log_says_why_where_no_traceback_is(tmp_path):
    """A full disk stops processes that share the jobs, and leaves no traceback."""
    jobs = jobs_in(tmp_path, 2)
    files.write_text(tmp_path / "logs" / "worker-0.txt", "OSError: [Errno 28] full\n")
    with pytest.raises(
        RuntimeError,
        match=r"no process did it \(OSError: .*full\) \(see .*worker-0.txt",
    ):
        sweep(
            jobs,
            None,
            tmp_path,
            progress=False,
            limit=0,
            meanwhile=lambda left: 0,
        )


def test_who_works_beside_is_told_what_is_left(tmp_path):
    """What failed since is not left."""
    jobs, told = jobs_in(tmp_path, 3), []

    def meanwhile(left):
        told.append(left)
        done = len(told) - 1
        if done == 0:
            files.write_text(jobs[0].path.with_suffix(".failed.txt"), "E: no")
        elif done <= 2:
            files.write_json(jobs[done].path, done)
        return done < 3

    with pytest.raises(RuntimeError, match="1 of 3 runs failed: job 0"):
        sweep(jobs, None, tmp_path, progress=False, limit=0, meanwhile=meanwhile)
    assert told == [3, 2, 1, 0]


def test_ctrl_c_goes_through(tmp_path):
    def interrupted(i):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swept(tmp_path, 2, interrupted)
    assert failures(tmp_path) == []


def forked(target, *arguments):
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


def noted(folder, count, seconds):
    """Sweeps slow jobs that write a line into a file of all; never returns."""

    def run(i):
        with open(folder / "log", "a") as log:
            log.write(f"{i} {os.getpid()}\n")
        time.sleep(seconds)
        return i

    swept(folder, count, run)
    os._exit(0)


def test_processes_on_one_folder_divide_the_work(tmp_path):
    ready = multiprocessing.get_context("fork").Barrier(3)

    def together():
        ready.wait(30)  # none has done all before another has begun
        noted(tmp_path, 12, 0.1)

    workers = [forked(together) for _ in range(3)]
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(int(i) for i, _ in lines) == list(range(12))
    assert len({pid for _, pid in lines}) == 3
    assert all(job.path.is_file() for job in jobs_in(tmp_path, 12))


def test_a_killed_process_loses_only_the_job_in_flight(tmp_path):
    worker = forked(noted, tmp_path, 3, 1.5)
    helpers.wait_until((tmp_path / "task" / "0.json").is_file)
    helpers.wait_until(lambda: len((tmp_path / "log").read_text().splitlines()) > 1)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(30)
    assert [job.path.is_file() for job in jobs_in(tmp_path, 3)] == [1, 0, 0]
    seen = []
    swept(tmp_path, 3, seen.append)
    assert seen == [1, 2]


def test_waits_for_what_another_process_runs(tmp_path):
    worker = forked(noted, tmp_path, 1, 1.5)
    helpers.wait_until((tmp_path / "log").is_file)
    seen = []
    swept(tmp_path, 2, seen.append)
    assert seen == [1]
    assert (tmp_path / "task" / "0.json").is_file()
    worker.join(30)


def test_one_bar_says_what_failed(tmp_path, capsys):
    def broken(i):
        if i == 0:
            raise ValueError("no")
        return i

    with pytest.raises(RuntimeError):
        swept(tmp_path, 3, broken, progress=True)
    said = capsys.readouterr().err
    assert "2/3" in said
    assert "job 2, 1 failed" in said
