"""Speed and memory of one truncation on the Train net, beside the plain implementation.

    python benchmarks/meta_step.py [--teachers 0 2 6] [--steps 100] [--long]

Every row is a process of its own, so that its peak memory is its own; both sides run
in one call, one after the other, and ratios compare them. Run it on a quiet machine.
Images are made up in MNIST's shape: their values do not matter here.
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


def peak_gigabytes():
    """Returns the process' peak resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def train_net():
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
        lambda: conv_model(shape, shape, 10, ((16, 3), (32, 5))),
        Dataset("made up", split, split, split),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        BATCH,
    )


def measure(which, teachers, steps, repeats, first_order):
    """Returns what one process measured."""
    import numpy as np
    import tensorflow as tf

    from benchmarks import plain
    from tf_amalgam import meta_step
    from tf_amalgam.rules import RNNProp, make_pool

    task = train_net()
    pool = make_pool(POOLS[teachers]) if teachers else ()
    # A small alpha keeps the untrained student, and so all numbers, tame.
    players = meta_step.Players(RNNProp(alpha=1e-3), pool, tuple({} for _ in pool))
    weights = {k: tf.constant(v) for k, v in players.student.init_weights(0).items()}
    carry = tf.nest.map_structure(
        tf.constant, meta_step.initial_carry(task, players, 0, 1.0)
    )
    batches = tuple(map(tf.constant, task.minibatches(0, 0, steps)))
    objective = meta_step.Objective(second_order=not first_order)
    function = {"ours": meta_step.truncation, "plain": plain.truncation}[which]
    program = tf.function(
        lambda w, c, b: function(task, players, objective, w, c, b), autograph=False
    )
    gradient_step = tf.function(
        lambda p, b: task.value_and_grad(p, (), b), autograph=False
    )
    one = tuple(b[0] for b in batches)
    for _ in range(3):
        gradient_step(carry.start_params_P, one)
    before = peak_gigabytes()
    started = time.perf_counter()
    program.get_concrete_function(weights, carry, batches)
    built = time.perf_counter()
    tf.nest.map_structure(np.asarray, program(weights, carry, batches))
    called = time.perf_counter()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        tf.nest.map_structure(np.asarray, program(weights, carry, batches))
        seconds.append(time.perf_counter() - began)
    return {
        "build": built - started,
        "first call": called - built,
        "seconds": statistics.median(seconds),
        "spread": max(seconds) - min(seconds),
        "gigabytes": peak_gigabytes() - before,
        "whole gigabytes": peak_gigabytes(),
    }


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
        return {"failed": done.stderr.strip().splitlines()[-1:] or done.returncode}
    return json.loads(done.stdout.strip().splitlines()[-1])


def row(label, steps, found, rate, teachers):
    """Returns one line of the table."""
    if "failed" in found:
        return f"| {label} | failed: {found['failed']} | | | | | | |"
    per_second = steps / found["seconds"]
    share = per_second * useful_gigaflops(teachers) / rate
    return (
        f"| {label} | {per_second:.1f} | {found['seconds']:.2f} ± "
        f"{found['spread'] / 2:.2f} | {found['gigabytes']:.2f} | "
        f"{found['whole gigabytes']:.2f} | {found['build']:.1f} | "
        f"{found['first call']:.1f} | {100 * share:.0f} % |"
    )


def main():
    """Prints the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teachers", type=int, nargs="+", default=[0, 2, 6])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--long", action="store_true", help="also T = 1,000")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*json.loads(options.child))))
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
    ratios = []
    for teachers in options.teachers:
        both = {}
        for which in ("plain", "ours"):
            both[which] = child(which, teachers, options.steps, options.repeats, False)
            label = f"{which}, {teachers} teachers"
            print(row(label, options.steps, both[which], rate, teachers), flush=True)
        if not any("failed" in found for found in both.values()):
            plain, ours = both["plain"], both["ours"]
            start = [found["build"] + found["first call"] for found in (plain, ours)]
            ratios.append(
                f"{teachers} teachers: {plain['seconds'] / ours['seconds']:.2f}x the "
                f"speed, {ours['gigabytes'] / plain['gigabytes']:.2f} of the memory, "
                f"{start[1] / start[0]:.2f} of build + first call"
            )
    first = child("ours", 2, options.steps, options.repeats, True)
    print(row("ours, 2 teachers, first order", options.steps, first, rate, 2))
    if options.long:
        long = child("ours", 2, 1000, 1, False)
        print(row("ours, 2 teachers, T = 1,000", 1000, long, rate, 2))
    print("\nOurs against plain:\n  " + "\n  ".join(ratios))


if __name__ == "__main__":
    main()
