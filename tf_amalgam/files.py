"""Writing files so that a reader never sees half of one."""

import contextlib
import fcntl
import json
import os
import pathlib
import tempfile


def write_bytes(path, content: bytes):
    """Writes a file atomically: the old content stays until the new is on disk.

    Raises:
        OSError: naming the file, if it cannot be written (a full disk, say).
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise OSError(
            error.errno, f"{error.strerror}, while writing {path}; nothing was changed"
        ) from error


def write_text(path, text: str):
    """Writes text atomically, UTF-8."""
    write_bytes(path, text.encode())


def write_json(path, value, indent: int | None = 2):
    """Writes JSON atomically; an indent of None puts everything on one line."""
    write_text(path, json.dumps(value, indent=indent, sort_keys=True) + "\n")


@contextlib.contextmanager
def locked(path, wait=True):
    """Holds a lock that other processes see; yields whether it was free.

    A lock ends with its process, however that ends.

    Args:
        path: of an empty file that stands for the lock.
        wait: whether to wait for it; if not, and another process has it, yields False.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
