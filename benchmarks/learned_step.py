"""Time of a learned step in Keras' `fit`, beside a plain implementation and a floor.

    python benchmarks/learned_step.py [--models Train Wider ResNet-28 5M 25M]

Every model is trained on made-up numbers by SGD, Keras' Adam, a shipped student, and
the same rule tensor by tensor (`benchmarks/plain.py`), in one process where they take
turns; what a step takes above SGD's is the optimizer's. The floor is what the student's
matrix products and activations take alone, on numbers that are in the cache, before and
after each model. Run it on a quiet machine.
"""

import functools
import statistics

import measuring
from measuring import Ratio

STUDENT = "choice-large"
BATCH = 8
STEPS = {"Train": 32, "Wider": 32, "ResNet-28": 4, "5M": 4, "25M": 2}  # of a turn
# Two students' states need 17 GB: each has a process of its own, and the plain one
# takes one tensor after the other (all at once it needs more than 24 GB).
LARGE = ("25M",)
WIDER = ((32, 3), (64, 5))


def models():
    """Returns functions that make the models, and their inputs' shape, by name."""
    import large_model
    import plain

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
    """Returns an optimizer that takes its own steps from the first.

    Args:
        name: "SGD", "Adam", "student", "plain" or "plain, in turn".
    """
    import keras
    import plain

    import tf_amalgam

    if name == "student":
        return tf_amalgam.load(STUDENT, warmup_steps=0)
    if name.startswith("plain"):
        student = tf_amalgam.load(STUDENT)
        rule = plain.Rows(**student.rule.get_config())
        in_turn = name != "plain"
        return plain.PerTensor(rule, student.rule_weights, in_turn=in_turn)
    return {"SGD": keras.optimizers.SGD, "Adam": keras.optimizers.Adam}[name](1e-4)


def measure(model, names, turns):
    """Returns parameters, and each optimizer's first step and those of its turns."""
    import keras
    import numpy as np
    from large_model import stopwatch

    make, shape = models()[model]
    generator = np.random.default_rng(0)
    images = len(shape) == 3
    x = generator.integers(0, 256, (BATCH * STEPS[model], *shape)).astype(
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


def floor(coordinates=2**14, units=20, turns=10, calls=20):
    """Returns ns a parameter of RNNProp's products and activations alone."""
    import numpy as np
    import tensorflow as tf

    generator = np.random.default_rng(0)

    def random(*shape):
        return tf.constant(generator.normal(0.0, 0.3, shape), "float32")

    gates = 4 * units
    products = [
        (random(gates, 2 + units), random(2 + units, coordinates)),
        (random(gates, 2 * units), random(2 * units, coordinates)),
        (random(1, units), random(units, coordinates)),
    ]
    # Two layers: three sigmoids and two hyperbolic tangents of each unit. All differ,
    # or TensorFlow would compute them once.
    wide = [random(3 * units, coordinates) for _ in range(2)]
    narrow = [random(units, coordinates) for _ in range(4)]

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
    best = min(measuring.timed(lambda: program().numpy()) for _ in range(turns))
    return 1e9 * best / calls / coordinates


def above(found, name):
    """Returns ns a parameter above SGD, of each turn."""
    pairs = zip(found[name]["turns"], found["SGD"]["turns"], strict=True)
    return [1e9 * (a - b) / found["parameters"] for a, b in pairs]


def report(options):
    """Prints the table; returns the ratios."""
    print(
        "| model | parameters | student, ns/parameter | tensor by tensor | ratio | "
        "floor | student / floor | Adam's first step s | student's | ratio |"
    )
    print("|---" * 10 + "|")
    ratios, middles = [], {}
    for model in options.models:
        groups = [["SGD", "Adam", "student", "plain"]]
        if model in LARGE:
            groups = [["SGD", "Adam", "student"], ["SGD", "plain, in turn"]]
        before = measuring.child(__file__, "floor")
        found, *others = (
            measuring.child(__file__, "measure", model, names, options.turns)
            for names in groups
        )
        theirs = above((*others, found)[0], groups[-1][-1])
        # The machine drifts meanwhile.
        least = (before + measuring.child(__file__, "floor")) / 2
        ours, what = above(found, "student"), f"learned step, {model}"
        middle, noise = measuring.spread(ours)
        middles[model] = middle
        against = "tensor by tensor"
        one = Ratio(what, against, *measuring.ratio(ours, theirs), 0.5, 0.9, False)
        ratios.append(one)
        shown = f"{one.value:.2f} ± {one.noise:.2f}"
        share, around = middle / least, noise / least
        ratios.append(Ratio(what, "its floor", share, around, 1.5, 4.0, False))
        adam, student = found["Adam"]["first"], found["student"]["first"]
        if model == "ResNet-28":
            first, against = f"first step in fit, {model}", "Keras' Adam"
            one = Ratio(first, against, student / adam, 0.0, 1.5, 1.5, False)
            ratios.append(one)
        print(
            f"| {model} | {found['parameters']:,} | {middle:.0f} | "
            f"{statistics.median(theirs):.0f} | {shown} | {least:.0f} | {share:.2f} | "
            f"{adam:.1f} | {student:.1f} | {student / adam:.2f} |",
            flush=True,
        )
    if len(middles) > 1:
        dear, cheap = (f(middles, key=middles.get) for f in (max, min))
        what = f"learned step, ns a parameter, {dear}"
        even = middles[dear] / middles[cheap]
        ratios.append(Ratio(what, cheap, even, 0.0, 1.2, 2.0, False))
    return ratios


def parser():
    """Returns what reads the command line."""
    found = measuring.parser(__doc__)
    every = ["Train", "Wider", "ResNet-28", "5M", "25M"]
    found.add_argument("--models", nargs="+", default=every)
    found.add_argument("--turns", type=int, default=8)
    return found


if __name__ == "__main__":
    measuring.command(parser, report, measure, floor)
