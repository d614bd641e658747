"""Time of a learned step in Keras' `fit`, beside a plain implementation and a floor.

    python benchmarks/learned_step.py [--models Train Wider ResNet-28 5M 25M]

Every model is trained on made-up numbers by SGD, Keras' Adam, a shipped student, and
the same rule tensor by tensor (`benchmarks/plain.py`), in one process where they take
turns; what a step takes above SGD's is the optimizer's. The floor is what the student's
matrix products and activations take alone, on numbers that are in the cache. Run it on
a quiet machine.
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
STUDENT = "choice-large"
BATCH = 8
STEPS = 4  # of a turn
WIDER = ((32, 3), (64, 5))


def models():
    """Returns functions that make the models, and their inputs' shape, by name."""
    from benchmarks import large_model, plain
    from tf_amalgam.tasks.networks import conv_model
    from tf_amalgam.tasks.resnet import resnet_model

    mnist, cifar = (28, 28, 1), (32, 32, 3)
    dense = (large_model.WIDTH,)
    return {
        "Train": (plain.train_model, mnist),
        "Wider": (functools.partial(conv_model, mnist, mnist, 10, WIDER), mnist),
        "ResNet-28": (
            functools.partial(resnet_model, cifar, cifar, 10, 28, (16, 32, 64)),
            cifar,
        ),
        "5M": (functools.partial(large_model.net, 5), dense),
        "25M": (functools.partial(large_model.net, 25), dense),
    }


def optimizer(name):
    """Returns an optimizer that takes its own steps from the first."""
    import keras

    import tf_amalgam
    from benchmarks import plain

    if name == "student":
        return tf_amalgam.load(STUDENT, warmup_steps=0)
    if name == "plain":
        student = tf_amalgam.load(STUDENT)
        return plain.PerTensor(student.rule, student.rule_weights)
    return {"SGD": keras.optimizers.SGD, "Adam": keras.optimizers.Adam}[name](1e-4)


def measure(model, names, turns):
    """Returns parameters, and each optimizer's first step and those of its turns."""
    import keras
    import numpy as np

    from benchmarks.large_model import stopwatch

    make, shape = models()[model]
    generator = np.random.default_rng(0)
    images = len(shape) == 3
    x = generator.integers(0, 256, (BATCH * STEPS, *shape)).astype(
        "uint8" if images else "float32"
    )
    y = generator.integers(0, 10, len(x)) if images else 0.0 * x
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    nets, found = {}, {"parameters": 0}
    for name in names:
        net, clock = make(), stopwatch()
        net.compile(optimizer=optimizer(name), loss=loss if images else "mse")
        net.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[clock])
        nets[name] = net
        found["parameters"] = sum(int(np.prod(v.shape)) for v in net.trainable_weights)
        found[name] = {"first": clock.times[0], "turns": []}
    for turn in range(turns):
        for name in names if turn % 2 == 0 else reversed(names):
            clock = stopwatch()
            nets[name].fit(x, y, batch_size=BATCH, verbose=0, callbacks=[clock])
            found[name]["turns"].append(statistics.median(clock.times))
    return found


def floor(coordinates=2**15, units=20, turns=10, calls=20):
    """Returns ns a parameter of RNNProp's products and activations alone."""
    import numpy as np
    import tensorflow as tf

    generator = np.random.default_rng(0)

    def random(*shape):
        return tf.constant(generator.normal(0.0, 0.3, shape), "float32")

    gates = 4 * units
    products = [
        (random(coordinates, 2 + units), random(2 + units, gates)),
        (random(coordinates, 2 * units), random(2 * units, gates)),
        (random(coordinates, units), random(units, 1)),
    ]
    # Two layers: three sigmoids and two hyperbolic tangents of each unit. All differ,
    # or TensorFlow would compute them once.
    wide = [random(coordinates, 3 * units) for _ in range(2)]
    narrow = [random(coordinates, units) for _ in range(4)]

    def once():
        out = [a @ b for a, b in products]
        return out + [tf.sigmoid(a) for a in wide] + [tf.tanh(a) for a in narrow]

    def body(i, total):
        with tf.control_dependencies([total]):
            return i + 1, total + sum(part[0, 0] for part in once())

    program = tf.function(
        lambda: tf.while_loop(
            lambda i, _: i < calls,
            body,
            (0, tf.constant(0.0)),
            parallel_iterations=1,
        )[1]
    )
    program().numpy()
    times = []
    for _ in range(turns):
        began = time.perf_counter()
        program().numpy()
        times.append(time.perf_counter() - began)
    return 1e9 * min(times) / calls / coordinates


def child(*arguments):
    """Runs one measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        raise RuntimeError(f"A measurement failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def above(found, name):
    """Returns ns a parameter above SGD, of each turn."""
    pairs = zip(found[name]["turns"], found["SGD"]["turns"], strict=True)
    return [1e9 * (a - b) / found["parameters"] for a, b in pairs]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", default=["Train", "Wider", "ResNet-28", "5M", "25M"]
    )
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        kind, *arguments = json.loads(flags.child)
        print(json.dumps({"measure": measure, "floor": floor}[kind](*arguments)))
        return
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(f"{cores} cores ({platform.machine()}), load {load:.1f}.\n")
    least = child("floor")
    print(f"Matrix products and activations alone: {least:.0f} ns a parameter.\n")
    print(
        "| model | parameters | student, ns/parameter | tensor by tensor | ratio | "
        "student / floor | Adam's first step s | student's | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for model in flags.models:  # two states of 25M would need 17 GB
        names = ["SGD", "Adam", "student", "plain"]
        found = child(
            "measure", model, names[: 3 if model == "25M" else 4], flags.turns
        )
        ours = above(found, "student")
        middle = statistics.median(ours)
        plain, ratio = "–", "–"
        if "plain" in found:
            theirs = above(found, "plain")
            plain = f"{statistics.median(theirs):.0f}"
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            low, half, high = statistics.quantiles(ratios, n=4)
            ratio = f"{half:.2f} ± {(high - low) / 2:.2f}"
        adam, student = found["Adam"]["first"], found["student"]["first"]
        print(
            f"| {model} | {found['parameters']:,} | {middle:.0f} | {plain} | {ratio} | "
            f"{middle / least:.2f} | {adam:.1f} | {student:.1f} | "
            f"{student / adam:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
