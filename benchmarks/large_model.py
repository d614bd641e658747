"""Memory and time of a learned step on large models, in Keras' `fit`.

    python benchmarks/large_model.py [--millions 1 5 25]

Each row is a process of its own: a net of Dense layers trained by `fit` on made-up
numbers, with SGD, Keras' Adam, or a shipped student. Memory is the process' peak
above that of SGD on the same net; time is of a step above SGD's, divided by the number
of parameters. Run it on a quiet machine.
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
STUDENT = "choice-large"
WIDTH = 1000
BATCH = 8


def net(millions):
    """Returns a model of so many million parameters, to a thousandth."""
    import keras

    layers = [keras.layers.Dense(WIDTH, activation="relu") for _ in range(millions)]
    return keras.Sequential([keras.Input((WIDTH,)), *layers])


def optimizer(name, options):
    """Returns SGD, Keras' Adam, or the student."""
    import keras

    import tf_amalgam

    if name == "student":
        return tf_amalgam.load(STUDENT, warmup_steps=1, **options)
    return {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[name](1e-4)


def stopwatch():
    """Returns a callback of `fit` whose `times` are the seconds of each step."""
    import keras

    class Stopwatch(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.times = []

        def on_train_batch_begin(self, batch, logs=None):
            self.began = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            self.times.append(time.perf_counter() - self.began)

    return Stopwatch()


def measure(name, options, millions, steps):
    """Writes what one row needs as JSON."""
    import numpy as np

    model, clock = net(millions), stopwatch()
    x = np.random.default_rng(0).normal(size=(BATCH * steps, WIDTH)).astype("float32")
    model.compile(optimizer=optimizer(name, options), loss="mse")
    history = model.fit(x, 0.0 * x, batch_size=BATCH, verbose=0, callbacks=[clock])
    print(
        json.dumps(
            {
                "parameters": model.count_params(),
                "finite": bool(np.isfinite(history.history["loss"][-1])),
                "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                "first": clock.times[0],
                # The second step is the first that the student takes itself.
                "step": statistics.median(clock.times[2:]),
            }
        )
    )


ROWS = (
    ("SGD", "sgd", {}),
    ("Keras' Adam", "adam", {}),
    ("student", "student", {}),
    ("student, guard", "student", {"guard": True}),
    ("student, bfloat16 state", "student", {"state_dtype": "bfloat16"}),
)


def row(name, options, millions, steps):
    """Returns the measurements of one row, out of its process."""
    command = [sys.executable, __file__, "--row", name, json.dumps(options)]
    command += ["--millions", str(millions), "--steps", str(steps)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{name} {options} at {millions} million failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, nargs="+", default=[1, 5, 25])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.row:
        name, options = flags.row
        return measure(name, json.loads(options), flags.millions[0], flags.steps)
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"{cores} cores ({platform.machine()}), load {load:.1f}.\n")
    print(
        "| parameters | optimizer | peak GB | above SGD, bytes/parameter | "
        "s per step | above SGD, ns/parameter | first step s |"
    )
    print("|---|---|---|---|---|---|---|")
    for millions in flags.millions:
        base = None
        for label, name, options in ROWS:
            found = row(name, options, millions, flags.steps)
            base = base or found
            size = found["parameters"]
            more = (found["gigabytes"] - base["gigabytes"]) * 2**30 / size
            slower = (found["step"] - base["step"]) * 1e9 / size
            note = "" if found["finite"] else " (loss not finite)"
            print(
                f"| {size / 1e6:.1f} M | {label}{note} | {found['gigabytes']:.2f} | "
                f"{more:.0f} | {found['step']:.2f} | {slower:.0f} | "
                f"{found['first']:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
