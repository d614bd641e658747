"""All tables of speed and memory, with their goals; fails where something broke.

    python benchmarks/run.py [--only start meta_step learned_step large_model]

An hour or two on two cores; run it on a quiet machine. What is measured is divided by
what the plain implementation, Keras' Adam, or the hardware takes in the same run. It
fails if a ratio is worse than its floor by more than the noise that it measured.
"""

import argparse
import importlib
import sys

import measuring

# Arguments beside the defaults.
BENCHMARKS = {
    "start": [],
    "learned_step": [],
    "large_model": [],
    "meta_step": ["--long"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = list(BENCHMARKS)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    print(measuring.machine(), flush=True)
    ratios = []
    for name in options.only:
        benchmark = importlib.import_module(name)
        print(f"\n## {benchmark.__doc__.splitlines()[0]}\n", flush=True)
        ratios += benchmark.report(benchmark.parser().parse_args(BENCHMARKS[name]))
    print(f"\n## Goals\n\n{measuring.verdicts(ratios)}")
    broke = [one.what for one in ratios if one.broke]
    if broke:
        sys.exit(f"Worse than the floor by more than the noise: {'; '.join(broke)}.")


if __name__ == "__main__":
    main()
