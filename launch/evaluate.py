"""Trains fresh optimizees with named or saved optimizers, as a .gin file says.

    amalgam-evaluate --gin_file=gin_configs/experiments/mnist_evaluate.gin \
        --workdir=runs/mnist_evaluation \
        --gin_bindings='evaluate.optimizers=["adam", "runs/mnist/student.npz"]'

Finished runs are not run again.
"""

from tf_amalgam.launch import binary

binary.define_gin_flags()


def main(_=None):
    """Runs `tf_amalgam.evaluate` under the flags and prints its table."""
    from tf_amalgam import bindings, records

    flags = binary.FLAGS
    found = bindings.run("evaluate", flags.gin_file, flags.gin_bindings, flags.workdir)
    print(records.table(found))
    print(f"Records, table.md and curves.png: {flags.workdir}")


def entry():
    """Console entry point."""
    binary.start(main)


if __name__ == "__main__":
    entry()
