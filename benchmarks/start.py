"""What importing the package and loading an optimizer take beyond importing Keras.

    python benchmarks/start.py [--repeats 5]

Each is a process of its own, in turns with one that only imports Keras.
"""

import argparse
import json
import statistics

import measuring
from measuring import Ratio, timed


def measure(student):
    """Returns seconds that Keras takes, and then the package and `load`."""

    def keras():
        import keras  # noqa: F401

    def ours():
        import tf_amalgam

        tf_amalgam.load(student)

    return {"Keras": timed(keras), "beyond": timed(ours)}


def report(options):
    """Prints the table; returns the ratios."""
    found = [measuring.child(__file__, "choice-large") for _ in range(options.repeats)]
    beyond, noise = measuring.spread([one["beyond"] for one in found])
    keras = statistics.median(one["Keras"] for one in found)
    print("| | s |")
    print("|---" * 2 + "|")
    print(f"| import keras | {keras:.2f} |")
    print(f"| import tf_amalgam, load | {beyond:.3f} |")
    what = "import tf_amalgam + load beyond Keras, s"
    return [Ratio(what, "", beyond, noise, 0.1, 0.1, False)]


def parser():
    """Returns what reads the command line."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    found.add_argument("--repeats", type=int, default=5)
    found.add_argument("--child", help=argparse.SUPPRESS)
    return found


def main():
    options = parser().parse_args()
    if options.child:
        print(json.dumps(measure(*json.loads(options.child))))
        return
    print(f"{measuring.machine()}\n")
    print(f"\n{measuring.verdicts(report(options))}")


if __name__ == "__main__":
    main()
