"""Lists of jobs: calls of the programs as data, to look at, choose from and run.

A job that is run twice does its work once, so that a list which was interrupted is
simply run again.
"""

import fnmatch
import json
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from tf_amalgam import files
from tf_amalgam.checks import is_number

FILE = "jobs.jsonl"


class Job(NamedTuple):
    """One call of one program.

    Attributes:
        name: its own in a list, words with slashes between them: `evaluate/Train/adam`.
        program: its module in `tf_amalgam_launch`.
        gin_files, gin_bindings, workdir: its flags.
        flags: others, as they are written.
        makes: files that are all there once it is done; without any it is run each
            time.
        after: names of jobs, or parts of names that end in a slash, which it needs.
        log: file of its output; by default one beside the others of its list.
        cpus, gpus: how many it takes up; parts of one are possible.
        always: whether it is run even where all that is there; it then checks that
            what is there is its own.
    """

    name: str
    program: str
    gin_files: tuple[str, ...]
    gin_bindings: tuple[str, ...]
    workdir: str
    flags: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    log: str = ""
    cpus: float = 2.0
    gpus: float = 0.0
    always: bool = False

    @property
    def done(self) -> bool:
        """Whether all that it makes is there, and it need not be run."""
        return bool(self.makes) and not self.always and self._made()

    def done_elsewhere(self) -> bool:
        """Whether all is there that it, or another machine, was to make.

        What this one remembers of a folder of a file server may be older.
        """
        for folder in {os.path.dirname(path) for path in self.makes}:
            files.look_anew(folder or ".")
        return self._made()

    def _made(self):
        return all(map(os.path.isfile, self.makes))


def write(jobs, path):
    """Writes jobs, one line of JSON each, atomically; they are taken one at a time."""
    lines = (json.dumps(job._asdict(), ensure_ascii=False) + "\n" for job in jobs)
    files.write_bytes(path, (line.encode() for line in lines))


def read(path) -> list[Job]:
    """Returns the jobs of a file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming the line that is no job, or is one of another's name.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"There is no list of jobs at {path}.")
    found = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                told = json.loads(line)
                lists = {k: tuple(v) for k, v in told.items() if isinstance(v, list)}
                found.append(Job(**{**told, **lists}))
                _check_types(found[-1])
            except (ValueError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"Line {number} of {path} is no job ({error}). Make the list again."
                ) from error
    check(found)
    return found


def _check_types(job):
    """Raises TypeError for a field that holds anything else than it is to."""
    for field, value in job._asdict().items():
        default = Job._field_defaults.get(field)
        if field in ("gin_files", "gin_bindings") or isinstance(default, tuple):
            wanted = "a list of texts"
            fits = isinstance(value, tuple) and all(isinstance(v, str) for v in value)
        elif isinstance(default, bool):
            wanted, fits = "true or false", isinstance(value, bool)
        elif isinstance(default, float):
            wanted, fits = "a number from 0", is_number(value) and value >= 0
        else:
            wanted, fits = "a text", isinstance(value, str)
        if not fits:
            raise TypeError(f"{field} is to be {wanted}, not {json.dumps(value)}")


def check(jobs):
    """Raises ValueError if two jobs share a name."""
    names = set()
    for job in jobs:
        if job.name in names:
            raise ValueError(
                f"Two jobs are called {job.name}; each needs a name of its own."
            )
        names.add(job.name)


def chosen(jobs, patterns) -> Iterator[Job]:
    """Yields the jobs whose name fits a pattern (`evaluate/*/adam/*`), in their order.

    Args:
        jobs: an iterable of them.
        patterns: none take all.

    Raises:
        ValueError: at the end, for a pattern that none fits.
    """
    fitted, name = set(), ""
    for job in jobs:
        name = job.name
        fits = [p for p in patterns if fnmatch.fnmatchcase(name, p)]
        fitted.update(fits)
        if fits or not patterns:
            yield job
    if missing := [p for p in patterns if p not in fitted]:
        raise ValueError(
            f"No job is called like {missing[0]}. They are called like {name}."
        )
