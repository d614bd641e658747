"""What importing the package and loading an optimizer take beyond importing Keras.

    python benchmarks/start.py [--repeats 5]

Each repeat is a process of its own, which first imports Keras and makes its Adam: with
its first tensor TensorFlow starts the devices, which is none of the package's time.
"""

import statistics

import measuring
from measuring import Ratio, timed


def measure(student):
    """Returns seconds that Keras takes, and then the package and `load`."""

    def keras():
        import keras

        keras.optimizers.Adam()

    def ours():
        import tf_amalgam

        tf_amalgam.load(student)

    return {"Keras": timed(keras), "beyond": timed(ours)}


def report(options):
    """Prints the table; returns the ratios."""
    found = [
        measuring.child(__file__, "measure", "choice-large")
        for _ in range(options.repeats)
    ]
    beyond, noise = measuring.spread([one["beyond"] for one in found])
    keras = statistics.median(one["Keras"] for one in found)
    print("| | s |")
    print("|---" * 2 + "|")
    print(f"| import keras, make its Adam | {keras:.2f} |")
    print(f"| import tf_amalgam, load | {beyond:.3f} |")
    what = "import tf_amalgam + load beyond Keras, s"
    return [Ratio(what, "", beyond, noise, 0.1, 0.1, False)]


def parser():
    """Returns what reads the command line."""
    found = measuring.parser(__doc__)
    found.add_argument("--repeats", type=int, default=5)
    return found


if __name__ == "__main__":
    measuring.command(parser, report, measure)
