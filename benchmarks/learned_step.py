"""Time of a learned step in Keras' `fit`, beside a plain implementation and a floor.

    python benchmarks/learned_step.py [--models Train Wider ResNet-28 5M 25M]

Every model is trained on made-up numbers by SGD, Keras' Adam, a shipped student, the
default, and the student's rule tensor by tensor (`benchmarks/plain.py`), in one process
where they take turns; what a step takes above SGD's is the optimizer's. The floor is
what the student's matrix products and activations take alone, fused, from inside the
cache, on all cores, before and after each model. At the end the student's steps of all
models take turns, which says how even they are. Run it on a quiet machine.
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
FIRST_STEP = "ResNet-28"  # has so many tensors that Adam's program is long
WIDER = ((32, 3), (64, 5))
# Times the floor: a fifth or so above what was measured on a slow day.
FLOORS = {"Train": 2.6, "Wider": 1.9, "ResNet-28": 2.1, "5M": 1.8, "25M": 1.8}


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


def problem(shape, batches):
    """Returns made-up inputs of a shape, targets and their loss."""
    import keras
    import numpy as np

    generator = np.random.default_rng(0)
    images = len(shape) == 3
    x = generator.integers(0, 256, (BATCH * batches, *shape))
    x = x.astype("uint8" if images else "float32")
    if not images:
        return x, 0.0 * x, "mse"
    y = generator.integers(0, 10, len(x))
    return x, y, keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def fitted(model, names):
    """Returns a function that times a step of each optimizer, and a dict.

    The function maps names to the seconds of a step, the median of one `fit`, in the
    order that it is given. The dict holds the number of "parameters" and, by name, the
    seconds of the first step.
    """
    import numpy as np
    from large_model import stopwatch

    make, shape = models()[model]
    x, y, loss = problem(shape, STEPS[model])
    nets, first = {}, {}

    def times(name):
        clock = stopwatch()
        nets[name].fit(x, y, batch_size=BATCH, verbose=0, callbacks=[clock])
        return clock.times

    for name in names:
        nets[name] = make()
        nets[name].compile(optimizer=optimizer(name), loss=loss)
        first[name] = times(name)[0]
    weights = nets[names[0]].trainable_weights
    parameters = sum(int(np.prod(v.shape)) for v in weights)

    def steps(order):
        return {name: statistics.median(times(name)) for name in order}

    return steps, {"parameters": parameters, **first}


def measure(model, names, turns):
    """Returns parameters, and each optimizer's first step and those of its turns."""
    steps, first = fitted(model, names)
    found = {"parameters": first["parameters"]}
    took = [steps(names if n % 2 == 0 else names[::-1]) for n in range(turns)]
    for name in names:
        turns_of_it = [one[name] for one in took]
        found[name] = {"first": first[name], "turns": turns_of_it}
    return found


def measure_side_by_side(models, turns):
    """Returns each model's ns a parameter above SGD; the models take turns."""
    names = ["SGD", "student"]
    made = {model: fitted(model, names) for model in models}
    found = {model: [] for model in models}
    for n in range(turns):
        for model in models if n % 2 == 0 else models[::-1]:
            steps, first = made[model]
            took = steps(names if n % 2 == 0 else names[::-1])
            least, ours = (took[name] for name in names)
            found[model].append(1e9 * (ours - least) / first["parameters"])
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


def evenness(found, what):
    """Returns the `Ratio` of the dearest model to the cheapest, prints all.

    Args:
        found: a parameter's times by model, which took turns.
        what: they are.
    """
    print("\n| model, side by side | ns/parameter |")
    print("|---" * 2 + "|")
    for model, values in found.items():
        print(f"| {model} | {measuring.shown(*measuring.spread(values), 0)} |")
    middles = {model: statistics.median(values) for model, values in found.items()}
    dear, cheap = (f(middles, key=middles.get) for f in (max, min))
    even = measuring.ratio(found[dear], found[cheap])
    return Ratio(f"{what}, {dear}", cheap, *even, 1.2, uneven(), False)


def uneven():
    """Returns how uneven steps may be: a fifth above what was measured.

    With AVX-512 what a step costs beside its coordinates weighs more.
    """
    return 2.4 if "avx512_vnni" in measuring.flags() else 1.75


def report(options):
    """Prints the table; returns the ratios."""
    print(
        "| model | parameters | student, ns/parameter | tensor by tensor | ratio | "
        "floor | student / floor | default | default / student | "
        "Adam's first step s | student's | ratio |"
    )
    print("|---" * 12 + "|")
    ratios = []
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
        ratios.append(Ratio(what, "tensor by tensor", *ratio, 0.5, 0.55, False))
        dearest = FLOORS.get(model, 2.2)
        ratios.append(Ratio(what, "its floor", *share, 1.5, dearest, False))
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
    if len(options.models) > 1:
        # Noise of the small ones: twice the turns.
        arguments = "measure_side_by_side", options.models, 2 * options.turns
        found = measuring.child(__file__, *arguments)
        ratios.append(evenness(found, "learned step, ns a parameter"))
    return ratios


def parser():
    """Returns what reads the command line."""
    found = measuring.parser(__doc__)
    every = ["Train", "Wider", "ResNet-28", "5M", "25M"]
    found.add_argument("--models", nargs="+", default=every)
    found.add_argument("--turns", type=int, default=8)
    return found


if __name__ == "__main__":
    measuring.command(parser, report, measure, measure_side_by_side, floor)
