"""Trains fresh optimizees with named or saved optimizers, as a .gin file says.

    amalgam-evaluate --gin_file=gin_configs/experiments/mnist_evaluate.gin \
        --workdir=runs/mnist_evaluation \
        --gin_bindings='evaluate.optimizers=["adam", "runs/mnist/student.npz"]'

Finished runs are not run again; several processes on one folder divide the work, and so
does a Ray cluster with --launcher=ray.
"""

from absl import flags
from tf_amalgam_launch import binary

flags.DEFINE_multi_string(
    "only",
    None,
    "Pattern of records to make, in this process (Train/adam-*); repeatable.",
)
flags.DEFINE_boolean("report", True, "Write table.md, curves.png and configuration.")
flags.DEFINE_integer(
    "worker_of", None, "Number of the process whose runs these are; --parallel sets it."
)
flags.DEFINE_integer("worker_since", None, "When that process began; as above.")
binary.define_launcher_flags()
binary.define_gin_flags()


def main(_=None):
    """Runs `tf_amalgam.evaluate` under the flags and prints its table."""
    from tf_amalgam import bindings, records

    given = binary.FLAGS
    what = (given.gin_file, given.gin_bindings, given.workdir)
    if given.only and (given.parallel > 1 or given.launcher == "ray"):
        raise ValueError(
            "--only is of one process; leave --parallel and --launcher out."
        )
    if given.only:
        found = bindings.run_part("evaluate", *what, given.only, given.report)
    elif given.launcher == "ray":
        needs = (given.job_cpus, given.job_gpus)
        on = binary.launcher()
        found = bindings.run_launched("evaluate", *what, on, *needs, given.report)
    else:
        found = bindings.run_evaluation(
            *what, given.parallel, given.worker_of, given.worker_since, given.report
        )
    if not given.report:
        return
    print(records.table(found))
    print(f"Records, table.md and curves.png: {given.workdir}")


def entry():
    """Console entry point."""
    binary.start(main)


if __name__ == "__main__":
    entry()
