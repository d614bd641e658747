"""Time of a student's step alone, repeated in one program, by the size of the model.

    python benchmarks/step_alone.py [--models Train Wider ResNet-28 5M]

What `learned_step.py` finds in Keras' `fit` is above another optimizer's step, beside
the model's own operations; here nothing else runs. Gradients are made up. Every model
has a process of its own; they take turns, so that a drift of the machine cancels. Run
it on a quiet machine.
"""

import sys
import time

import learned_step
import measuring

LEAST = 500_000  # coordinates that a call updates: some tenths of a second


def program(model):
    """Returns a function that takes some steps, and coordinates times steps."""
    import numpy as np
    import tensorflow as tf

    make, _ = learned_step.models()[model]
    variables = make().trainable_variables
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
    """Prints the table; returns the ratio of the dearest to the cheapest."""
    runs = [(model,) for model in options.models]
    found = measuring.in_turns(__file__, "measure_calls", runs, options.turns)
    by_model = dict(zip(options.models, found, strict=True))
    what = "learned step alone, ns a parameter"
    return [learned_step.evenness(by_model, what)]


def parser():
    """Returns what reads the command line."""
    found = measuring.parser(__doc__)
    every = ["Train", "Wider", "ResNet-28", "5M"]
    found.add_argument("--models", nargs="+", default=every)
    found.add_argument("--turns", type=int, default=16)
    return found


if __name__ == "__main__":
    measuring.command(parser, report, measure_calls)
