"""Speed and memory of one truncation on the Train net, beside the plain implementation.

    python benchmarks/meta_step.py [--teachers 0 2 6] [--steps 100] [--long]

Each program has a process of its own, the plain one with TensorFlow's defaults, ours as
`amalgamate` sets it up, and the plain one with that set-up; for speeds the processes
take turns. Run it on a quiet machine. Images are made up in MNIST's shape: their values
do not matter here.
"""

import resource
import statistics
import sys
import time

import measuring
from measuring import Ratio, timed
from tf_amalgam_launch import processors

POOLS = {0: (), 2: ("adam", "rmsprop"), 6: "large"}
BATCH = 128
LONG_STEPS = 1000
FIRST_ORDER_TEACHERS = 2
# With the same set-up the adjoint computes again what the plain one keeps.
EQUAL = (1.0, 0.85)
# Goal and floor of each pool's ratios. Floors are a sixth or so from what was measured
# with AVX2, but no stricter than the goal.
GOALS = {
    "plain": {
        0: {"speed": (1.2, 1.2), "memory": (0.25, 0.25), "start": (0.5, 0.75)},
        2: {
            "speed": (1.3, 1.3),
            "first order": (1.8, 1.8),
            "memory": (0.25, 0.25),
            "start": (0.5, 0.7),
        },
        6: {"speed": (1.4, 1.4), "memory": (1 / 6, 1 / 6), "start": (0.5, 0.55)},
    },
    "plain, set up": {
        0: {"speed": EQUAL, "start": (0.5, 0.95)},
        2: {"speed": EQUAL, "first order": (1.8, 1.2), "start": (0.5, 0.8)},
        6: {"speed": EQUAL, "start": (0.5, 0.75)},
    },
}


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
    """One truncation, compiled: `"ours"`, `"plain"` or `"plain, set up"`."""

    def __init__(self, which, teachers, steps, first_order=False, segment=None):
        if which != "plain":
            processors.set_up()  # as `amalgamate` does

        import plain
        import tensorflow as tf

        from tf_amalgam import meta_step
        from tf_amalgam.objective import Objective
        from tf_amalgam.rules import RNNProp, make_pool

        task = train_net(None if which == "ours" else plain.train_model)
        pool = make_pool(POOLS[teachers]) if teachers else ()
        # A small alpha keeps the untrained student, and so all numbers, tame.
        players = meta_step.Players(RNNProp(alpha=1e-3), pool, tuple({} for _ in pool))
        weights = players.student.init_weights(0)
        carry = meta_step.initial_carry(task, players, 0, 1.0)
        batches = task.minibatches(0, 0, steps)
        self.arguments = tf.nest.map_structure(tf.constant, (weights, carry, batches))
        objective = Objective(second_order=not first_order, segment=segment)
        function = (meta_step if which == "ours" else plain).truncation
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

    def operations(self):
        """Returns how many operations its graph has, those of its functions included.

        What is done for each of them is most of what comes before a first call.
        """
        graph = self.program.get_concrete_function(*self.arguments).graph.as_graph_def()
        functions = graph.library.function
        return len(graph.node) + sum(len(one.node_def) for one in functions)

    def build(self):
        """Returns seconds until the program is a graph."""
        return timed(lambda: self.program.get_concrete_function(*self.arguments))

    def call(self):
        """Returns seconds of one truncation."""
        import numpy as np
        import tensorflow as tf

        return timed(
            lambda: tf.nest.map_structure(np.asarray, self.program(*self.arguments))
        )


def measure_start(which, teachers, steps, first_order=False):
    """Returns memory, build time and first call, of a process with one program.

    "cores never idle" is what both would take if the time they have of all cores were
    without a gap; threads that spin while they wait have it, too.
    """
    from tf_amalgam import chunks

    program = Program(which, teachers, steps, first_order)
    before, began = peak_gigabytes(), time.process_time()
    built, called = program.build(), program.call()
    busy = time.process_time() - began
    if steps <= LONG_STEPS // 2:
        program.call()
    return {
        "build": built,
        "first call": called,
        "cores never idle": busy / chunks.cores(),
        "gigabytes": peak_gigabytes() - before,
        "whole gigabytes": peak_gigabytes(),
    }


def measure_calls(*run):
    """Prints seconds of a call whenever a line comes in."""
    program = Program(*run)
    for _ in sys.stdin:
        print(program.call(), flush=True)


def useful_gigaflops(teachers, first_order=False, coordinates=18_122, units=20):
    """Returns the products that one inner step cannot do without, in GFLOP.

    F is the network's forward pass. A gradient is 3F, the meta loss at θ₀ F, a
    Hessian-vector product 6F (of second order); the rule R forward, R again and 2R
    backward.
    """
    conv = 26 * 26 * 9 * 16 + 9 * 9 * 25 * 16 * 32 + 4 * 4 * 32 * 10
    forward = 2 * BATCH * conv
    rule = 2 * coordinates * 4 * units * (2 + units + 2 * units)
    products = 3 * teachers + 3 + 1 + (0 if first_order else 6)
    return (products * forward + 4 * rule) / 1e9


def row(run, starts, seconds, rate):
    """Returns one line of the table: medians of a program's starts and calls."""
    which, teachers, steps, *first_order = run
    label = f"{which}, {teachers} teachers" + ", first order" * any(first_order)
    found = {name: statistics.median(one[name] for one in starts) for name in starts[0]}
    per_second = steps / statistics.median(seconds)
    share = per_second * useful_gigaflops(teachers, any(first_order)) / rate
    return (
        f"| {label} | {per_second:.1f} | {statistics.median(seconds):.2f} | "
        f"{found['gigabytes']:.2f} | {found['whole gigabytes']:.2f} | "
        f"{found['build']:.1f} | {found['first call']:.1f} | "
        f"{found['cores never idle']:.1f} | "
        f"{100 * share:.0f} % |"
    )


def goals_of(against, teachers):
    """Returns goal and floor of each ratio, by what it is of.

    With AVX-512 VNNI TensorFlow takes oneDNN by itself: there the plain one is as fast
    as where it is set up, and floors are those against that one.
    """
    goals = GOALS[against][teachers]
    if "avx512_vnni" not in measuring.flags():
        return goals
    set_up = GOALS["plain, set up"][teachers]
    return {
        name: (goal, set_up.get(name, (goal, floor))[1])
        for name, (goal, floor) in goals.items()
    }


def compare(teachers, options, rate):
    """Prints the rows of one pool; returns ratios, and what ours takes.

    That is gigabytes of each start, and seconds of a step.
    """
    names = ("plain", "ours", "plain, set up")
    runs = {which: (which, teachers, options.steps) for which in names}
    if teachers == FIRST_ORDER_TEACHERS:
        runs["ours, first order"] = ("ours", teachers, options.steps, True)
    programs = list(runs.values())
    times = measuring.in_turns(__file__, "measure_calls", programs, options.repeats)
    rounds = [
        [measuring.child(__file__, "measure_start", *run) for run in programs]
        for _ in range(options.starts)
    ]
    seconds, memory, begun = dict(zip(runs, times, strict=True)), {}, {}
    for (which, run), *several in zip(runs.items(), *rounds, strict=True):
        print(row(run, several, seconds[which], rate), flush=True)
        memory[which] = [one["gigabytes"] for one in several]
        begun[which] = [one["build"] + one["first call"] for one in several]
    ours, ratios = seconds["ours"], []
    for against in GOALS:
        goals = goals_of(against, teachers)
        theirs, first_order = seconds[against], seconds.get("ours, first order")
        compared = {
            "speed": ("inner steps/s", theirs, ours, True),
            "first order": ("inner steps/s, first order", theirs, first_order, True),
            "memory": (
                "memory of a truncation",
                memory["ours"],
                memory[against],
                False,
            ),
            "start": ("build + first call", begun["ours"], begun[against], False),
        }
        for name, goal in goals.items():
            what, above, below, more = compared[name]
            what, found = f"{what}, {teachers} teachers", measuring.ratio(above, below)
            ratios.append(Ratio(what, against, *found, *goal, more))
    return ratios, memory["ours"], statistics.median(ours) / options.steps


def report(options):
    """Prints the table; returns the ratios."""
    rate = measuring.product_rate()
    print(f"Train net, batch {BATCH}, T = {options.steps}.\n")
    print(
        "| | inner steps/s | s per truncation | GB above start | GB whole process "
        "| build s | first call s | both, cores never idle | of product rate |\n"
        + "|---" * 9
        + "|"
    )
    found = {n: compare(n, options, rate) for n in options.teachers}
    ratios = [one for several, _, _ in found.values() for one in several]
    least, most = min(found), max(found)
    if least < most:
        grown = measuring.ratio(found[most][1], found[least][1])
        what, against = (f"memory of a truncation, {n} teachers" for n in (most, least))
        # 1.2 if as many rule states were kept as without teachers.
        ratios.append(Ratio(what, against, *grown, 1.1, 1.15, False))
    if options.long:
        run = ("ours", 2, LONG_STEPS)
        one = measuring.child(__file__, "measure_start", *run)
        print(row(run, [one], [one["first call"]], rate), flush=True)
        what, size = f"T = {LONG_STEPS:,}, 2 teachers", one["whole gigabytes"]
        ratios.append(Ratio(f"{what}, GB in all", "", size, None, 4.0, 4.0, False))
        if 2 in found:
            slower = one["first call"] / LONG_STEPS / found[2][2]
            what, against = f"{what}, s a step", f"T = {options.steps}"
            ratios.append(Ratio(what, against, slower, None, 1.4, 1.4, False))
    return ratios


def parser():
    """Returns what reads the command line."""
    found = measuring.parser(__doc__)
    found.add_argument("--teachers", type=int, nargs="+", default=[0, 2, 6])
    found.add_argument("--steps", type=int, default=100)
    found.add_argument("--repeats", type=int, default=4, help="truncations of each")
    found.add_argument("--starts", type=int, default=2, help="processes of each")
    found.add_argument("--long", action="store_true", help="also T = 1,000")
    return found


if __name__ == "__main__":
    measuring.command(parser, report, measure_start, measure_calls)
