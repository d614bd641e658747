"""All tables of speed and memory, with their goals; fails where something broke.

    python benchmarks/run.py [--only start learned_step step_alone step_in_fit …]
    python benchmarks/run.py --data_dir /path/to/tfds  # with time_to_quality, on MNIST

An hour or two on two cores; run it on a quiet machine. What is measured is divided by
what the plain implementation, Keras' Adam, or the hardware takes in the same run. It
fails if a ratio is worse than its floor by more than the noise that it measured (a
fifth of the floor at most), or if a measurement failed; the others are taken all the
same.
"""

import argparse
import importlib
import os
import pathlib
import traceback

import measuring
from tf_amalgam_launch import processors

# Arguments beside the defaults.
BENCHMARKS = {
    "start": [],
    "learned_step": [],
    "step_alone": [],
    "step_in_fit": [],
    "large_model": [],
    "meta_step": ["--long"],
    "where_time_goes": ["--teachers", "0", "2", "6"],
    "scale": [],
}
OF_REAL_DATA = "time_to_quality"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*BENCHMARKS, OF_REAL_DATA]
    parser.add_argument("--only", nargs="+", choices=names)
    parser.add_argument("--data_dir", help="folder of prepared TFDS data sets")
    options = parser.parse_args()
    arguments = dict(BENCHMARKS)
    if options.data_dir:
        if not (pathlib.Path(options.data_dir) / "mnist").is_dir():
            parser.error(f"There is no folder mnist in {options.data_dir}.")
        arguments[OF_REAL_DATA] = ["--data_dir", options.data_dir]
    elif options.only and OF_REAL_DATA in options.only:
        parser.error(f"{OF_REAL_DATA} trains on MNIST: give --data_dir.")
    processors.set_up()  # for what is measured in this process, as `amalgamate` does
    print(measuring.machine(), flush=True)
    ratios, failed = [], []
    for name in options.only or arguments:
        benchmark = importlib.import_module(name)
        print(f"\n## {benchmark.__doc__.splitlines()[0]}\n")
        print(f"Load {os.getloadavg()[0]:.1f}.\n", flush=True)
        try:
            ratios += benchmark.report(benchmark.parser().parse_args(arguments[name]))
        except (Exception, SystemExit):  # hours of others are not lost by it
            print(traceback.format_exc(), flush=True)
            failed.append(name)
    print("\n## Goals")
    measuring.end(ratios, failed)


if __name__ == "__main__":
    main()
