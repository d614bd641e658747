"""What all benchmarks share: the machine, processes of their own, ratios and goals."""

import argparse
import concurrent.futures
import contextlib
import importlib
import json
import mmap
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
GIVEN = {**os.environ}  # what processes of their own get, whatever is set up here
CORE_MEGABYTES = 64  # of memory for each core: more than its part of any cache
EXCUSED = 0.2  # of a floor: more noise than that excuses nothing


class Ratio(NamedTuple):
    """One number that says how well we do.

    Attributes:
        what: is measured.
        against: which it is divided by; "" where it is no ratio.
        value, noise: median, and half the range of the middle half of what was
            measured; no noise (None) where that was once.
        goal: where it should be.
        floor: worse than this by more than the noise, or by more than a fifth,
            something broke.
        more: whether more is better.
    """

    what: str
    against: str
    value: float
    noise: float | None
    goal: float
    floor: float
    more: bool

    @property
    def reached(self) -> bool:
        """Whether the goal is, as measured."""
        return self.value >= self.goal if self.more else self.value <= self.goal

    @property
    def broke(self) -> bool:
        """Whether it is worse than the floor by more than the noise excuses."""
        worse = self.floor - self.value if self.more else self.value - self.floor
        excused = min(self.noise or 0.0, EXCUSED * self.floor)
        return not worse <= excused  # also where it is no number


def spread(values):
    """Returns (median, half the range of the middle half), (value, None) of one.

    Two have no middle half: theirs is half their range.
    """
    if len(values) == 1:
        return values[0], None
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, (min(high, max(values)) - max(low, min(values))) / 2


def shown(value, noise, digits=2):
    """Returns a measured value as tables have it."""
    around = "" if noise is None else f" ± {noise:.{digits}f}"
    return f"{value:.{digits}f}{around}"


def ratio(ones, others):
    """Returns (median, half the middle range) of the ratios of pairs.

    Where both were measured in turns, a drift of the machine cancels in each.
    """
    return spread([a / b for a, b in zip(ones, others, strict=True)])


def verdicts(ratios):
    """Returns the ratios as a Markdown table."""
    lines = ["| what | against | measured | goal | reached | floor |", "|---" * 6 + "|"]
    for one in ratios:
        told = "**broke**" if one.broke else "yes" if one.reached else "no"
        cells = (
            one.what,
            one.against or "–",
            shown(one.value, one.noise),
            f"{'≥' if one.more else '≤'} {one.goal:.3g}",
            told,
            f"{one.floor:.3g}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def end(ratios, failed=()):
    """Prints the verdicts; exits with a message if something broke or failed."""
    print(f"\n{verdicts(ratios)}", flush=True)
    wrong = {
        "Failed": failed,
        "Worse than the floor by more than the noise": [
            one.what for one in ratios if one.broke
        ],
    }
    told = [f"{how}: {'; '.join(names)}." for how, names in wrong.items() if names]
    if told:
        sys.exit(" ".join(told))


def machine():
    """Returns a sentence: processor, load, versions; Keras may be on any backend."""
    import keras

    load = os.getloadavg()[0]  # before we add to it
    backend = importlib.import_module(keras.backend.backend())
    variable = keras.Variable(0.0)
    device = str(getattr(variable.value, "device", "")).split("device:")[-1]
    versions = {
        "Python": platform.python_version(),
        "Keras": keras.__version__,
        backend.__name__: backend.__version__,
    }
    told = (
        f"{os.cpu_count()} cores of {platform.machine()}, {_vectors()}",
        f"load {load:.1f}",
        *(f"{name} {version}" for name, version in versions.items()),
        f"on {device}: float32 products {product_rate():.0f} GFLOP/s",
        f"memory changed in place {memory_rate():.0f} GB/s",
        f"a fresh page of it {page_microseconds():.1f} µs.",
    )
    return ", ".join(told)


def _vectors():
    """Returns the widest vector instructions that the processor says it has."""
    names = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX"}
    has = flags()
    return next((told for name, told in names.items() if name in has), "no AVX")


def flags():
    """Returns what Linux says of the processor, `avx2` say; elsewhere nothing."""
    info = pathlib.Path("/proc/cpuinfo")
    return set(info.read_text().split()) if info.exists() else set()


def product_rate(size=1024, repeats=20):
    """Returns the rate of float32 matrix products, in GFLOP/s."""
    from keras import ops, random

    a = random.normal((size, size))

    def product():
        ops.convert_to_numpy(ops.matmul(a, a)[0, 0])

    best = min(timed(product) for _ in range(repeats))
    return 2 * size**3 / best / 1e9


def memory_rate(repeats=5):
    """Returns the rate at which all cores read and rewrite memory, in GB/s.

    A byte that is read and rewritten counts once.
    """
    import numpy as np

    from tf_amalgam.chunks import cores

    parts = [np.ones(CORE_MEGABYTES * 2**18, "float32") for _ in range(cores())]
    with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:

        def change():
            list(pool.map(lambda part: np.negative(part, out=part), parts))

        best = min(timed(change) for _ in range(repeats))
    return sum(part.nbytes for part in parts) / best / 1e9


def page_microseconds(pages=2**14):
    """Returns what it takes to write to a page of memory for the first time."""
    with mmap.mmap(-1, pages * mmap.PAGESIZE) as memory:
        return 1e6 * timed(lambda: _touch(memory, pages * mmap.PAGESIZE)) / pages


def _touch(memory, size):
    import numpy as np

    np.frombuffer(memory, "uint8", count=size)[:: mmap.PAGESIZE] = 1


def timed(function):
    """Returns the seconds that a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def parser(doc):
    """Returns what reads a benchmark's command line, for it to add its own options."""
    found = argparse.ArgumentParser(description=doc.splitlines()[0])
    found.add_argument("--child", help=argparse.SUPPRESS)
    return found


def command(parser, report, *measurements):
    """Is what a benchmark's command does: its report, or one measurement for `child`.

    Args:
        parser: returns what reads the command line.
        report: prints tables for its options; returns a list of `Ratio`.
        measurements: functions that `child` calls by their names.
    """
    options = parser().parse_args()
    if options.child:
        name, *arguments = json.loads(options.child)
        by_name = {function.__name__: function for function in measurements}
        print(json.dumps(by_name[name](*arguments)))
        return
    print(f"{machine()}\n", flush=True)
    ratios = report(options)
    if ratios:
        end(ratios)


def child(file, *arguments):
    """Returns one measurement, by name, taken in a process of its own.

    It runs `python file --child JSON`, which is for `command` to read.
    """
    with _started(file, arguments, stdin=subprocess.DEVNULL) as process:
        told, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"A measurement failed:\n{errors}")
    return json.loads(told.strip().splitlines()[-1])


def in_turns(file, name, runs, repeats):
    """Returns seconds of calls of several programs, each in a process of its own.

    While one works the others wait. `name` is a measurement that builds its program
    and then, for each line that comes in, prints what a call takes.

    Args:
        runs: arguments of the measurement for each program.
        repeats: calls of each.
    """
    with contextlib.ExitStack() as stack:
        processes = []
        for run in runs:
            log = stack.enter_context(tempfile.TemporaryFile("w+"))
            process = _started(file, (name, *run), subprocess.PIPE, log)
            processes.append((stack.enter_context(process), log))
            stack.callback(process.kill)
            _call(*processes[-1])  # before the next builds its own
        seconds = [[] for _ in runs]
        for turn in range(repeats):
            order = range(len(runs))
            for i in order if turn % 2 == 0 else reversed(order):
                seconds[i].append(_call(*processes[i]))
        return seconds


def _call(process, log):
    """Returns the seconds of one call of a waiting process."""
    try:
        process.stdin.write("call\n")
        process.stdin.flush()
        return float(process.stdout.readline())
    except (BrokenPipeError, ValueError) as error:
        process.kill()
        process.wait()
        log.seek(0)
        raise RuntimeError(f"A measurement failed:\n{log.read()}") from error


def _started(file, arguments, stdin, stderr=subprocess.PIPE):
    """Returns the process of one measurement."""
    environment = {**GIVEN}
    # An installed package is compiled once, not at each start.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    paths = [str(ROOT), *filter(None, [GIVEN.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, file, "--child", json.dumps(arguments)],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
    )
