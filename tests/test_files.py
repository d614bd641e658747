"""Files on disk: whole or not at all, durable, cleaned of what kills leave behind."""

import errno
import multiprocessing
import os
import signal
import stat
import time

import pytest

from tf_amalgam import files, sweep

HOUR = 3600.0


@pytest.fixture
def synced(monkeypatch):
    """Lists what is synced, in order: (kind, names in the folder at that moment)."""
    found, whole = [], os.fsync

    def fsync(handle):
        where = os.readlink(f"/proc/self/fd/{handle}")
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        names = os.listdir(where if folder else os.path.dirname(where))
        found.append(("folder" if folder else "file", sorted(names)))
        whole(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


def test_the_name_is_on_disk_too(tmp_path, synced):
    """The folder is synced after the file has its name: a power cut keeps both."""
    files.write_text(tmp_path / "a.json", "1")
    (first, unfinished), second = synced
    assert first == "file"
    assert [name.endswith(".tmp") for name in unfinished] == [True]
    assert second == ("folder", ["a.json"])
    # Others may read it, unlike a temporary file.
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o644


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EPERM])
def test_platforms_that_sync_no_folders(tmp_path, monkeypatch, code):
    monkeypatch.setattr(files, "_sync_folder", _failing_sync(monkeypatch, code))
    files.write_text(tmp_path / "a.json", "1")
    assert (tmp_path / "a.json").read_text() == "1"


def test_a_broken_disk_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_sync_folder", _failing_sync(monkeypatch, errno.EIO))
    with pytest.raises(OSError, match=r"after writing .*a.json; a power cut") as found:
        files.write_text(tmp_path / "a.json", "1")
    assert found.value.errno == errno.EIO


def _failing_sync(monkeypatch, code):
    """Returns `_sync_folder` on a platform whose `fsync` fails for folders."""
    sync = files._sync_folder

    def failing(folder):
        def fsync(handle):
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            sync(folder)

    return failing


def aged(path, hours):
    then = time.time() - hours * HOUR
    os.utime(path, (then, then))
    return path


def killed_while_writing(path):
    def die(handle):
        os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = die
    files.write_text(path, "half")


def left_behind(folder):
    """Returns what a process killed while it writes `folder/a.json` leaves."""
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=killed_while_writing, args=(folder / "a.json",))
    process.start()
    process.join(30)
    (found,) = folder.glob(".a.json.*")
    return found


def test_a_stop_just_after_a_file_was_written_is_a_stop(tmp_path, monkeypatch):
    replace = os.replace

    def stopped(*paths):
        replace(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_kills_leave_is_removed_after_hours(tmp_path):
    orphan = left_behind(tmp_path)
    aged(orphan, 5)  # a slow disk may still be at it
    assert files.remove_abandoned(tmp_path) == []
    aged(orphan, 7)
    assert files.remove_abandoned(tmp_path) == [orphan]
    assert list(tmp_path.iterdir()) == []
    assert files.remove_abandoned(tmp_path / "nothing") == []


def test_other_files_are_left_alone(tmp_path):
    """However old: other names, links, folders and what they hold."""
    inside = tmp_path / "inside"
    inside.mkdir()
    for path in (
        *(tmp_path / name for name in ("a.json", ".notes.tmp", ".a.SHOUTING.tmp")),
        *(tmp_path / name for name in (".a.json.abcd_123", "a.json.abcd_123.tmp")),
        inside / ".a.json.abcd_123.tmp",
    ):
        path.write_text("mine")
        aged(path, 1000)
    (tmp_path / ".folder.abcd_123.tmp").mkdir()
    aged(tmp_path / ".folder.abcd_123.tmp", 1000)
    (tmp_path / ".link.abcd_123.tmp").symlink_to(tmp_path / "a.json")
    then = (time.time() - 1000 * HOUR,) * 2
    os.utime(tmp_path / ".link.abcd_123.tmp", then, follow_symlinks=False)
    before = sorted(tmp_path.rglob("*"))
    assert files.remove_abandoned(tmp_path) == []
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sweep_cleans_its_own_folders(tmp_path):
    """That of the jobs' files and its own; not those beside them."""
    names = ["task/.0.json.abcd_123.tmp", ".order.json.abcd_123.tmp"]
    for name in (*names, "report/.page.html.abcd_123.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half")
        aged(tmp_path / name, 7)
    job = sweep.Job(tmp_path / "task" / "0.json", "job")
    job.path.write_text("done")
    sweep.sweep([job], None, tmp_path, progress=False)
    assert [path.name for path in sorted(tmp_path.rglob("*.tmp"))] == [
        ".page.html.abcd_123.tmp"
    ]
