"""Time of a learned step in Keras' `fit`, beside a plain implementation and a floor.

    python benchmarks/learned_step.py [--models Train Wider ResNet-28 5M 25M]

Every model is trained on made-up numbers by SGD, Keras' Adam, a shipped student, the
default, and the student's rule tensor by tensor (`benchmarks/plain.py`), in one process
where they take turns; what a step takes above SGD's is the optimizer's. The floor is
what the student's matrix products and activations take alone, fused, from inside the
cache, on all cores, before and after each model. Run it on a quiet machine.
"""

import functools
import math
import statistics

import measuring
from measuring import Ratio

STUDENT = "choice-large"
BATCH = 8
STEPS = {"Train": 32, "Wider": 32, "ResNet-28": 4, "5M": 4, "25M": 2}  # of a turn
# Two students' states need 17 GB: each has a process of its own, and the plain one
# takes one tensor after the other (all at once it needs more than 24 GB).
LARGE = ("25M",)
FIRST_STEP = "ResNet-28"  # has so many tensors that Adam's program is long
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
        name: "SGD", "Adam", "student", "default", "plain" or "plain, in turn".
    """
    import keras
    import plain

    import tf_amalgam

    if name == "default":
        return tf_amalgam.load(warmup_steps=0)
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


def floor(units=20, turns=20, repeats=100):
    """Returns ns a parameter of RNNProp's products and activations alone.

    That is two LSTM cells and the head of a row of coordinates on each core, again and
    again in one program of XLA's: what they see lies ready, and stays in the cache.
    """
    import numpy as np
    import tensorflow as tf

    from tf_amalgam.chunks import ROW, cores
    from tf_amalgam.rules.activations import as_quotients, sigmoid, tanh

    generator = np.random.default_rng(0)

    def random(*shape):
        return tf.constant(generator.normal(0.0, 0.3, shape), "float32")

    widths = 2 + units, units + units  # what the layers see, their own state included
    kernels, head = [random(4 * units, width) for width in widths], random(1, units)

    @tf.function(jit_compile=True, autograph=False)
    def lane(seen, cells):
        def body(n, cells, hidden, _):
            # All kernels differ, or XLA would compute a product once for all.
            other = 1.0 + 1e-6 * tf.cast(n, "float32")
            for k, kernel in enumerate(kernels):
                i, f, c, o = tf.split((other * kernel) @ seen[k], 4)
                cells[k] = sigmoid(f) * cells[k] + sigmoid(i) * tanh(c)
                hidden[k] = sigmoid(o) * tanh(cells[k])
            return n + 1, cells, hidden, head @ hidden[1]

        with as_quotients():
            start = (0, cells, [tf.zeros_like(c) for c in cells], tf.zeros((1, ROW)))
            return tf.while_loop(lambda n, *_: n < repeats, body, start)[1:]

    lanes = [
        ([random(w, ROW) for w in widths], [random(units, ROW) for _ in widths])
        for _ in range(cores())
    ]
    program = tf.function(lambda: [lane(*one) for one in lanes], autograph=False)

    def run():
        return tf.nest.map_structure(np.asarray, program())

    run()
    best = min(measuring.timed(run) for _ in range(turns))
    return 1e9 * best / repeats / len(lanes) / ROW


def above(found, name):
    """Returns ns a parameter above SGD, of each turn."""
    pairs = zip(found[name]["turns"], found["SGD"]["turns"], strict=True)
    return [1e9 * (a - b) / found["parameters"] for a, b in pairs]


def evenness(shares):
    """Returns the `Ratio` of the dearest model to the cheapest.

    They were measured minutes apart: each is divided by its own floor.

    Args:
        shares: (median, noise) of a learned step over its floor, by model.
    """
    dear, cheap = (f(shares, key=shares.get) for f in (max, min))
    (most, above), (least, around) = shares[dear], shares[cheap]
    value = most / least
    noise = value * math.hypot(above / most, around / least)
    what = f"learned step over its floor, {dear}"
    return Ratio(what, cheap, value, noise, 1.2, 1.4, False)


def report(options):
    """Prints the table; returns the ratios."""
    print(
        "| model | parameters | student, ns/parameter | tensor by tensor | ratio | "
        "floor | student / floor | default | default / student | "
        "Adam's first step s | student's | ratio |"
    )
    print("|---" * 12 + "|")
    ratios, shares = [], {}
    for model in options.models:
        groups = [["SGD", "Adam", "student", "default", "plain"]]
        if model in LARGE:
            alone = ("default", "plain, in turn")
            groups = [["SGD", "Adam", "student"], *(["SGD", name] for name in alone)]
        floors = [measuring.child(__file__, "floor")]
        found, *others = (
            measuring.child(__file__, "measure", model, names, options.turns)
            for names in groups
        )
        # The machine drifts meanwhile.
        floors.append(measuring.child(__file__, "floor"))
        theirs = above((found, *others)[-1], groups[-1][-1])
        default = above(others[0] if others else found, "default")
        ours, what = above(found, "student"), f"learned step, {model}"
        ratio, dearer = (
            measuring.ratio(*pair) for pair in ((ours, theirs), (default, ours))
        )
        share = measuring.spread([one / least for one in ours for least in floors])
        shares[model] = share
        ratios.append(Ratio(what, "tensor by tensor", *ratio, 0.5, 0.55, False))
        ratios.append(Ratio(what, "its floor", *share, 1.5, 2.2, False))
        what = f"learned step of the default, {model}"
        ratios.append(Ratio(what, f"of {STUDENT}", *dearer, 1.5, 1.6, False))
        starts = [found]
        if model == FIRST_STEP:
            # Who comes later finds more of TensorFlow ready: the other way round, too.
            names = ["SGD", "student", "Adam"]
            starts.append(measuring.child(__file__, "measure", model, names, 0))
        adam, student = (
            [one[k]["first"] for one in starts] for k in ("Adam", "student")
        )
        first = measuring.ratio(student, adam)
        if model == FIRST_STEP:
            what = f"first step in fit, {model}"
            ratios.append(Ratio(what, "Keras' Adam", *first, 1.5, 1.5, False))
        print(
            f"| {model} | {found['parameters']:,} | {statistics.median(ours):.0f} | "
            f"{statistics.median(theirs):.0f} | {measuring.shown(*ratio)} | "
            f"{statistics.mean(floors):.0f} | {measuring.shown(*share)} | "
            f"{statistics.median(default):.0f} | {measuring.shown(*dearer)} | "
            f"{statistics.mean(adam):.1f} | {statistics.mean(student):.1f} | "
            f"{measuring.shown(*first)} |",
            flush=True,
        )
    if len(shares) > 1:
        ratios.append(evenness(shares))
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
