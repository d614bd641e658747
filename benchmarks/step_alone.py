"""Time of a student's step alone, repeated in one program, by the size of the model.

    python benchmarks/step_alone.py [--models Train Wider …] [--rows 3 5 …]

What `learned_step.py` finds in Keras' `fit` is above another optimizer's step, beside
the model's own operations; here nothing else runs. Gradients are made up. A second
table is of models whose two blocks have so many rows: it parts what each step takes
from what each row takes. Every model has a process of its own; they take turns, so that
a drift of the machine cancels. Run it on a quiet machine.
"""

import statistics
import sys
import time

import learned_step
import measuring

LEAST = 500_000  # coordinates that a call updates: some tenths of a second


def tensors(model):
    """Returns the variables of a model by name, or of one by the rows of its blocks."""
    import keras

    from tf_amalgam import chunks

    if isinstance(model, str):
        make, _ = learned_step.models()[model]
        return make().trainable_variables
    _, blocks = chunks.BLOCKS[0]
    return [keras.Variable(keras.random.normal((blocks * model * chunks.ROW,)))]


def program(model):
    """Returns a function that takes some steps, and coordinates times steps."""
    import numpy as np
    import tensorflow as tf

    variables = tensors(model)
    optimizer = learned_step.optimizer("student")
    optimizer.build(variables)
    generator = np.random.default_rng(0)
    gradients = [
        tf.constant(generator.normal(0.0, 0.01, v.shape), "float32") for v in variables
    ]
    coordinates = sum(int(np.prod(v.shape)) for v in variables)
    steps = -(-LEAST // coordinates)

    def body(i):
        optimizer.apply(gradients, variables)
        return [i + 1]

    @tf.function(autograph=False)
    def loop():
        return tf.while_loop(lambda i: i < steps, body, [0], parallel_iterations=1)

    return loop, coordinates * steps


def measure_calls(model):
    """Prints ns a parameter of a step whenever a line comes in."""
    loop, updated = program(model)
    for _ in sys.stdin:
        start = time.perf_counter()
        loop()[0].numpy()
        print(1e9 * (time.perf_counter() - start) / updated, flush=True)


def report(options):
    """Prints the tables; returns the ratio of the dearest to the cheapest."""
    _check_rows(options.rows)
    runs = [(model,) for model in options.models]
    found = measuring.in_turns(__file__, "measure_calls", runs, options.turns)
    by_model = dict(zip(options.models, found, strict=True))
    what = "learned step alone, ns a parameter"
    even = learned_step.evenness(by_model, what)
    runs = [(rows,) for rows in options.rows]
    found = measuring.in_turns(__file__, "measure_calls", runs, options.turns)
    _report_rows(options.rows, map(statistics.median, found))
    return [even]


def _check_rows(rows):
    """Ends the command unless a line can be drawn, of models in two blocks."""
    from tf_amalgam import chunks

    (least, blocks), (most, _) = chunks.BLOCKS
    least, most = least // (blocks * chunks.ROW) + 1, most // (blocks * chunks.ROW)
    if len({*rows}) < 2 or not all(least <= count <= most for count in rows):
        raise SystemExit(
            f"--rows {' '.join(map(str, rows))}: give two numbers or more, from "
            f"{least} to {most}, which models in {blocks} blocks have."
        )


def _report_rows(rows, nanoseconds):
    """Prints what a step takes by the rows of a block, and the line through it."""
    import numpy as np

    from tf_amalgam import chunks

    coordinates = chunks.BLOCKS[0][1] * chunks.ROW  # of a row of all blocks
    found = list(zip(rows, nanoseconds, strict=True))
    print(f"\n| rows of {chunks.ROW:,} coordinates | ns/parameter | µs a step |")
    print("|---" * 3 + "|")
    for count, each in found:
        print(f"| {count} | {each:.0f} | {each * count * coordinates / 1e3:.0f} |")
    steps = [each * count * coordinates / 1e3 for count, each in found]
    each, fixed = np.polyfit(rows, steps, 1)
    print(
        f"\nA step takes {fixed:.0f} µs, and {each:.0f} µs a row of each block: "
        f"{1e3 * each / coordinates:.0f} ns a parameter."
    )


def parser():
    """Returns what reads the command line."""
    found = measuring.parser(__doc__)
    every = ["Train", "Wider", "ResNet-28", "5M"]
    found.add_argument("--models", nargs="+", default=every)
    found.add_argument("--rows", nargs="+", type=int, default=[3, 5, 8, 12, 15])
    found.add_argument("--turns", type=int, default=16)
    return found


if __name__ == "__main__":
    measuring.command(parser, report, measure_calls)
