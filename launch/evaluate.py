"""Trains fresh optimizees with named or saved optimizers, as a .gin file says.

    amalgam-evaluate --gin_file=gin_configs/experiments/mnist_evaluate.gin \
        --workdir=runs/mnist_evaluation \
        --gin_bindings='evaluate.optimizers=["adam", "runs/mnist/student.npz"]'

Finished runs are not run again; several processes on one folder divide the work.
"""

from absl import flags
from tf_amalgam_launch import binary

flags.DEFINE_integer("parallel", 1, "Processes that divide the runs.")
flags.DEFINE_integer(
    "worker_of", None, "Number of the process whose runs these are; --parallel sets it."
)
flags.DEFINE_integer("worker_since", None, "When that process began; as above.")
binary.define_gin_flags()


def main(_=None):
    """Runs `tf_amalgam.evaluate` under the flags and prints its table."""
    from tf_amalgam import bindings, records

    given = binary.FLAGS
    found = bindings.run_evaluation(
        given.gin_file,
        given.gin_bindings,
        given.workdir,
        given.parallel,
        given.worker_of,
        given.worker_since,
    )
    print(records.table(found))
    print(f"Records, table.md and curves.png: {given.workdir}")


def entry():
    """Console entry point."""
    binary.start(main)


if __name__ == "__main__":
    entry()
