"""Memory and time of a learned step on large models, in Keras' `fit`.

    python benchmarks/large_model.py [--millions 1 5 25] [--chunk_size 524288]
        [--student scale]

Each row is a process of its own: a net of Dense layers trained by `fit` on made-up
numbers, with SGD, Keras' Adam, or a shipped student. Memory is the process' peak
above that of SGD on the same net; time is of a step above SGD's, divided by the number
of parameters. Run it on a quiet machine.
"""

import resource
import statistics
import time

import measuring
from measuring import Ratio

STUDENT = "choice-large"
KNOWN = {"sgd": "SGD", "adam": "Adam"}
WIDTH = 1000
BATCH = 8


def net(millions):
    """Returns a model of so many million parameters, to a thousandth."""
    import keras

    layers = [keras.layers.Dense(WIDTH, activation="relu") for _ in range(millions)]
    return keras.Sequential([keras.Input((WIDTH,)), *layers])


def optimizer(name, options):
    """Returns SGD, Keras' Adam, or a shipped student."""
    import keras

    import tf_amalgam

    if name in KNOWN:
        return getattr(keras.optimizers, KNOWN[name])(1e-4)
    return tf_amalgam.load(name, warmup_steps=1, **options)


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
            # Other backends than TensorFlow's may still be at it.
            keras.ops.convert_to_numpy(self.model.trainable_weights[-1])
            self.times.append(time.perf_counter() - self.began)

    return Stopwatch()


def measure(name, options, millions, steps):
    """Returns what one row needs."""
    import numpy as np

    model, clock = net(millions), stopwatch()
    x = np.random.default_rng(0).normal(size=(BATCH * steps, WIDTH)).astype("float32")
    model.compile(optimizer=optimizer(name, options), loss="mse")
    history = model.fit(x, 0.0 * x, batch_size=BATCH, verbose=0, callbacks=[clock])
    return {
        "parameters": model.count_params(),
        "finite": bool(np.isfinite(history.history["loss"][-1])),
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "first": clock.times[0],
        # The second step is the first that the student takes itself.
        "step": statistics.median(clock.times[2:]),
    }


ROWS = (
    ("SGD", "sgd", {}),
    ("Keras' Adam", "adam", {}),
    ("student", "student", {}),
    ("student, guard", "student", {"guard": True}),
    ("student, bfloat16 state", "student", {"state_dtype": "bfloat16"}),
)


def report(options):
    """Prints the table; returns the ratios."""
    print(
        "| parameters | optimizer | peak GB | above SGD, bytes/parameter | "
        "s per step | above SGD, ns/parameter | first step s |"
    )
    print("|---" * 7 + "|")
    if options.student in KNOWN:
        raise ValueError(f"{options.student} is in the table anyway; give a student.")
    ratios, lost = [], 0
    for millions in options.millions:
        base, float32 = None, None
        for label, name, given in ROWS:
            if name == "student":
                name = options.student
                label = label.replace("student", name)
                chunk = options.chunk_size
                given = {**given, "chunk_size": chunk} if chunk else given
            found = measuring.child(
                __file__, "measure", name, given, millions, options.steps
            )
            base = base or found
            size = found["parameters"]
            more = (found["gigabytes"] - base["gigabytes"]) * 2**30 / size
            slower = (found["step"] - base["step"]) * 1e9 / size
            note = "" if found["finite"] else " (loss not finite)"
            lost += not found["finite"]
            print(
                f"| {size / 1e6:.1f} M | {label}{note} | {found['gigabytes']:.2f} | "
                f"{more:.0f} | {found['step']:.3f} | {slower:.3g} | "
                f"{found['first']:.1f} |",
                flush=True,
            )
            if options.student != STUDENT:  # others have no goals
                continue
            if label == STUDENT:
                what = f"{size / 1e6:.0f} M parameters in fit, GB in all"
                most = 1.0 + 0.44 * millions  # 12 with 25 million
                gigabytes = found["gigabytes"]
                ratios.append(Ratio(what, "", gigabytes, None, most, most, False))
                float32 = slower
            elif "state_dtype" in given:
                what = f"{size / 1e6:.0f} M parameters in fit, bfloat16 state, time"
                against, value = "float32 state", slower / float32
                ratios.append(Ratio(what, against, value, None, 1.5, 2, False))
    what = "trainings in fit whose loss is not finite"
    return [*ratios, Ratio(what, "", lost, None, 0, 0, False)]


def parser():
    """Returns what reads the command line."""
    found = measuring.parser(__doc__)
    found.add_argument("--millions", type=int, nargs="+", default=[1, 5, 25])
    found.add_argument("--steps", type=int, default=8)
    found.add_argument("--chunk_size", type=int, help="of students")
    found.add_argument("--student", default=STUDENT, help="that ships")
    return found


if __name__ == "__main__":
    measuring.command(parser, report, measure)
