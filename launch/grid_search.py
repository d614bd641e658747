"""Tunes the learning rates of teachers on an optimizee, as a .gin file says.

    amalgam-grid-search --gin_file=gin_configs/experiments/grid_search.gin \
        --workdir=runs/grid --gin_bindings='data_dir="…"'

Experiments then include runs/grid/pool.gin. Finished runs are not run again. With
--parallel=2 so many are run at a time, with --launcher=ray on a Ray cluster.
"""

import pathlib

from absl import flags
from tf_amalgam_launch import binary

flags.DEFINE_multi_string(
    "only", None, "Pattern of records to make (Train/adam-*); nothing is chosen then."
)
flags.DEFINE_boolean("report", True, "With --only: write the configuration.")
binary.define_launcher_flags()
binary.define_gin_flags()


def main(_=None):
    """Runs `tf_amalgam.grid_search` under the flags and prints its table."""
    from tf_amalgam import bindings

    given = binary.FLAGS
    if given.only and (given.parallel > 1 or given.launcher == "ray"):
        raise ValueError(
            "--only is of one process; leave --parallel and --launcher out."
        )
    if not (given.report or given.only):
        raise ValueError("--noreport goes with --only; leave it out.")
    what = ("grid_search", given.gin_file, given.gin_bindings, given.workdir)
    if given.only:
        bindings.run_part(*what, given.only, given.report)
        return
    if on := binary.launcher():
        bindings.run_launched(*what, on, given.job_cpus, given.job_gpus)
    else:
        bindings.run(*what)
    print((pathlib.Path(given.workdir) / "grid.md").read_text("utf-8"))
    print(f"Tuned pool, to include: {given.workdir}/pool.gin")


def entry():
    """Console entry point."""
    binary.start(main)


if __name__ == "__main__":
    entry()
