"""Writing files so that a reader never sees half of one."""

import contextlib
import csv
import errno
import io
import json
import os
import pathlib
import re
import stat
import tempfile
import time
import tokenize
import zipfile
import zlib
from collections.abc import Iterable

# Ending of files that are being written; a kill leaves them behind.
UNFINISHED = ".tmp"
LOCKS = ".locks"  # the usual folder of what `locked` holds
# As `tempfile.mkstemp` names them here.
_UNFINISHED_NAME = re.compile(rf"\..+\.[a-z0-9_]{{8}}{re.escape(UNFINISHED)}")
# No single file takes so long to write, hours.
ABANDONED_HOURS = 6.0
# What reading a zip file may raise whose bytes were changed; some make zipfile believe
# that it is encrypted, or compressed in a way it does not know.
UNREADABLE_ZIP = (
    *(OSError, ValueError, KeyError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
    tokenize.TokenError,  # of an array's header
)
# What says that a folder cannot be synced there, not that the disk is broken.
_NO_FOLDER_SYNC = (
    *(errno.EINVAL, errno.ENOTSUP, errno.EBADF),
    *(errno.EACCES, errno.EPERM, errno.EISDIR),
)


def write_bytes(path, content: bytes | Iterable[bytes]):
    """Writes a file atomically: the old content stays until the new is on disk.

    When this returns, the new content is on disk under its name, where the platform
    can promise that.

    Args:
        path: of the file; folders are made.
        content: all of it, or its parts, which are taken one at a time.

    Raises:
        OSError: naming the file, if it cannot be written (a full disk, say).
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED
        )
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            # A stop may have come just after it was given its name.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise OSError(
            error.errno, f"{error.strerror}, while writing {path}; nothing was changed"
        ) from error
    try:
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{error.strerror}, after writing {path}; a power cut may undo that",
        ) from error


def _sync_folder(folder):
    """Puts a folder's names on disk; nothing where the platform has no such thing."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def check_writable(folder):
    """Makes a folder; raises OSError if it, or a file in it, cannot be written."""
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def remove_abandoned(folder, hours=ABANDONED_HOURS) -> list[pathlib.Path]:
    """Removes what killed processes left half written in a folder; returns the paths.

    Only files named as `write_bytes` names them while it writes, that nobody has
    touched for hours; folders inside are left alone, and so is what cannot be removed.
    """
    before, removed = time.time() - 3600.0 * hours, []
    for path in sorted(pathlib.Path(folder).glob(f".*{UNFINISHED}")):
        # Another process may be quicker, and a folder of others' may be read-only.
        with contextlib.suppress(OSError):
            told = path.lstat()
            ours = _UNFINISHED_NAME.fullmatch(path.name) and stat.S_ISREG(told.st_mode)
            if ours and told.st_mtime < before:
                path.unlink()
                removed.append(path)
    return removed


def look_anew(folder):
    """Opens a folder, so that what a file server's client remembers of it is renewed.

    It remembers, too, which files were not there, for up to a minute.
    """
    with contextlib.suppress(OSError), os.scandir(folder):
        pass


def write_text(path, text: str):
    """Writes text atomically, UTF-8."""
    write_bytes(path, text.encode())


def write_json(path, value):
    """Writes JSON atomically."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def as_csv(rows) -> str:
    """Returns dicts with the same keys as CSV text."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_csv(path) -> list[dict]:
    """Returns the rows of a CSV file, numbers as numbers."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: _number(v) for k, v in r.items()} for r in csv.DictReader(file)]


def _number(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


@contextlib.contextmanager
def locked(path, wait=True):
    """Holds a lock that other processes see; yields whether it was free.

    A lock ends with its process, however that ends.

    Args:
        path: of an empty file that stands for the lock.
        wait: whether to wait for it; if not, and another process has it, yields False.
    """
    import fcntl  # Windows, where one can load and use optimizers, has no such thing

    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
