"""Trains an optimizer out of a pool of known ones, as a .gin file says.

    amalgamate --gin_file=gin_configs/experiments/mnist_min_max_small.gin \
        --workdir=runs/mnist --gin_bindings='tasks.conv.data_dir="…"'

The same command continues an interrupted run. With --replicates=8 it trains so many
that differ in nothing but their randomness, each in a folder of its own.
"""

from absl import flags as absl_flags
from tf_amalgam.launch import binary

absl_flags.DEFINE_integer(
    "replicates", 0, "Runs that differ in their randomness alone; 0 is one plain run."
)
absl_flags.DEFINE_integer("parallel", 1, "Replicates that run at the same time.")


def main(_=None):
    """Runs `tf_amalgam.amalgamate` under the flags."""
    from tf_amalgam import bindings

    flags = binary.FLAGS
    if flags.replicates:
        bindings.run_replicates(
            flags.replicates,
            flags.gin_file,
            flags.gin_bindings,
            flags.workdir,
            flags.parallel,
        )
        print(f"{flags.replicates} replicates: {flags.workdir}/replicates.csv")
        return
    result = bindings.run(
        "amalgamate", flags.gin_file, flags.gin_bindings, flags.workdir
    )
    print(f"Trained optimizer: {flags.workdir}/student.npz")
    print(f"Validation, untrained student to best: {_scores(result)}")


def _scores(result):
    scores = [row["score"] for row in result.validations]
    return f"{scores[0]:+.3f} to {min(scores):+.3f} (mean log improvement)"


def entry():
    """Console entry point."""
    binary.start(main)


if __name__ == "__main__":
    entry()
