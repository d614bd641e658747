"""Speed and memory of one truncation on the Train net, beside the plain implementation.

    python benchmarks/meta_step.py [--teachers 0 2 6] [--steps 100] [--long]

Memory, build and first call of every row are measured in a process of its own; speeds
in one process where both programs take turns. Run it on a quiet machine. Images are
made up in MNIST's shape: their values do not matter here.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
POOLS = {0: (), 2: ("adam", "rmsprop"), 6: "large"}
BATCH = 128
LONG_STEPS = 1000
FIRST_ORDER_TEACHERS = 2


def peak_gigabytes():
    """Returns the process' peak resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def train_net(model_fn=None):
    """Returns the paper's Train optimizee on made-up images."""
    import keras
    import numpy as np

    from tf_amalgam.data import Dataset, Split
    from tf_amalgam.tasks.networks import conv_model
    from tf_amalgam.tasks.task import Task

    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (4 * BATCH, 28, 28, 1), dtype=np.uint8)
    split = Split(x, generator.integers(0, 10, len(x)).astype("int32"))
    shape = (28, 28, 1)
    return Task(
        "Train",
        model_fn or (lambda: conv_model(shape, shape, 10, ((16, 3), (32, 5)))),
        Dataset("made up", split, split, split),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        BATCH,
    )


class Program:
    """One truncation, compiled: `"ours"` or `"plain"`."""

    def __init__(self, which, teachers, steps, first_order=False):
        import tensorflow as tf

        from benchmarks import plain
        from tf_amalgam import meta_step
        from tf_amalgam.objective import Objective
        from tf_amalgam.rules import RNNProp, make_pool

        task = train_net(plain.train_model if which == "plain" else None)
        pool = make_pool(POOLS[teachers]) if teachers else ()
        # A small alpha keeps the untrained student, and so all numbers, tame.
        players = meta_step.Players(RNNProp(alpha=1e-3), pool, tuple({} for _ in pool))
        weights = players.student.init_weights(0)
        carry = meta_step.initial_carry(task, players, 0, 1.0)
        batches = task.minibatches(0, 0, steps)
        self.arguments = tf.nest.map_structure(tf.constant, (weights, carry, batches))
        objective = Objective(second_order=not first_order)
        function = {"ours": meta_step.truncation, "plain": plain.truncation}[which]
        self.program = tf.function(
            lambda w, c, b: function(task, players, objective, w, c, b),
            autograph=False,
        )
        # What TensorFlow takes for itself is taken before memory is measured.
        gradient = tf.function(
            lambda p, b: task.value_and_grad(p, (), b), autograph=False
        )
        _, carry, batches = self.arguments
        for _ in range(3):
            gradient(carry.start_params_P, tuple(b[0] for b in batches))

    def build(self):
        """Returns seconds until the program is a graph."""
        return _timed(lambda: self.program.get_concrete_function(*self.arguments))

    def call(self):
        """Returns seconds of one truncation."""
        import numpy as np
        import tensorflow as tf

        return _timed(
            lambda: tf.nest.map_structure(np.asarray, self.program(*self.arguments))
        )


def measure_start(which, teachers, steps, first_order=False):
    """Returns memory, build time and first call, of a process with one program."""
    program = Program(which, teachers, steps, first_order)
    before = peak_gigabytes()
    built, called = program.build(), program.call()
    if steps <= LONG_STEPS // 2:
        program.call()
    return {
        "build": built,
        "first call": called,
        "gigabytes": peak_gigabytes() - before,
        "whole gigabytes": peak_gigabytes(),
    }


def measure_speed(runs, repeats):
    """Returns seconds per call of several programs that take turns.

    Args:
        runs: list of arguments of `Program`.
    """
    programs = [Program(*run) for run in runs]
    for program in programs:
        program.call()
    seconds = [[] for _ in programs]
    for turn in range(repeats):
        order = range(len(programs))
        for i in order if turn % 2 == 0 else reversed(order):
            seconds[i].append(programs[i].call())
    return {"seconds": seconds}


def matmul_rate(size=1024, repeats=20):
    """Returns the machine's float32 matrix-product rate in GFLOP/s."""
    import tensorflow as tf

    a = tf.random.normal((size, size))
    product = tf.function(lambda a: a @ a)
    product(a).numpy()
    best = min(_timed(lambda: product(a).numpy()) for _ in range(repeats))
    return 2 * size**3 / best / 1e9


def _timed(function):
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def useful_gigaflops(teachers, coordinates=18_122, units=20):
    """Returns the products that one inner step cannot do without, in GFLOP.

    F is the network's forward pass. A gradient is 3F, the meta loss at θ₀ F, a
    Hessian-vector product 6F; the rule R forward, R again and 2R backward.
    """
    conv = 26 * 26 * 9 * 16 + 9 * 9 * 25 * 16 * 32 + 4 * 4 * 32 * 10
    forward = 2 * BATCH * conv
    rule = 2 * coordinates * 4 * units * (2 + units + 2 * units)
    return ((3 * teachers + 3 + 1 + 6) * forward + 4 * rule) / 1e9


def child(*arguments):
    """Runs one measurement in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        raise RuntimeError(f"A measurement failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def row(label, found, seconds, steps, rate, teachers):
    """Returns one line of the table."""
    per_second = steps / statistics.median(seconds)
    share = per_second * useful_gigaflops(teachers) / rate
    return (
        f"| {label} | {per_second:.1f} | {statistics.median(seconds):.2f} | "
        f"{found['gigabytes']:.2f} | {found['whole gigabytes']:.2f} | "
        f"{found['build']:.1f} | {found['first call']:.1f} | {100 * share:.0f} % |"
    )


def ratio(slow, fast):
    """Returns the median of slow/fast, and half the range of its middle half.

    Both are measured in turns, so that a drift of the machine cancels in a pair.
    """
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, (high - low) / 2


def compare(teachers, options, rate):
    """Prints the rows of one pool; returns the line of its ratios."""
    runs = [(which, teachers, options.steps) for which in ("plain", "ours")]
    first_order = teachers == FIRST_ORDER_TEACHERS
    if first_order:
        runs.append(("ours", teachers, options.steps, True))
    seconds = child("measure_speed", runs, options.repeats)["seconds"]
    found = [child("measure_start", *run) for run in runs]
    for run, one, times in zip(runs, found, seconds, strict=True):
        label = f"{run[0]}, {teachers} teachers" + ", first order" * (len(run) > 3)
        print(row(label, one, times, options.steps, rate, teachers), flush=True)
    start = [one["build"] + one["first call"] for one in found]
    speed, noise = ratio(*seconds[:2])
    line = (
        f"{teachers} teachers: {speed:.2f} ± {noise:.2f} times the speed, "
        f"{found[1]['gigabytes'] / found[0]['gigabytes']:.2f} of the memory, "
        f"{start[1] / start[0]:.2f} of build + first call"
    )
    if first_order:
        speed, noise = ratio(seconds[0], seconds[2])
        line += f"; first order {speed:.2f} ± {noise:.2f} times the speed"
    return line


def main():
    """Prints the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teachers", type=int, nargs="+", default=[0, 2, 6])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--long", action="store_true", help="also T = 1,000")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, *arguments = json.loads(options.child)
        print(json.dumps(globals()[name](*arguments)))
        return
    import keras
    import tensorflow as tf

    rate = matmul_rate()
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} cores ({platform.machine()}), load {load:.1f}, TensorFlow "
        f"{tf.__version__}, Keras {keras.__version__}; float32 products {rate:.0f} "
        f"GFLOP/s.\nTrain net, batch {BATCH}, T = {options.steps}.\n"
    )
    print(
        "| | inner steps/s | s per truncation | GB above start | GB whole process "
        "| build s | first call s | of product rate |\n" + "|---" * 8 + "|"
    )
    lines = [compare(teachers, options, rate) for teachers in options.teachers]
    if options.long:
        found = child("measure_start", "ours", 2, LONG_STEPS)
        label = f"ours, 2 teachers, T = {LONG_STEPS:,}"
        print(row(label, found, [found["first call"]], LONG_STEPS, rate, 2))
    print("\nOurs against plain (median of pairs ± half their middle half):")
    print("\n".join(f"- {line}" for line in lines))


if __name__ == "__main__":
    main()
