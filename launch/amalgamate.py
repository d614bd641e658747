"""Trains an optimizer out of a pool of known ones, as a .gin file says.

    amalgamate --gin_file=gin_configs/experiments/mnist_min_max_small.gin \
        --workdir=runs/mnist --gin_bindings='data_dir="…"'

The same command continues an interrupted run. With --replicates=8 it trains so many
that differ in nothing but their randomness, each in a folder of its own, some at a time
with --parallel or on a Ray cluster with --launcher=ray.
"""

from absl import flags
from tf_amalgam_launch import binary

flags.DEFINE_integer(
    "replicates", 0, "Runs that differ in their randomness alone; 0 is one plain run."
)
flags.DEFINE_boolean(
    "profile", False, "Write a TensorBoard trace of one truncation into workdir."
)
binary.define_launcher_flags()
binary.define_gin_flags()


def main(_=None):
    """Runs `tf_amalgam.amalgamate` under the flags."""
    from tf_amalgam import bindings

    given = binary.FLAGS
    if given.replicates and given.profile:
        raise ValueError("--profile goes with one run; leave --replicates out.")
    if (given.parallel > 1 or given.launcher == "ray") and not given.replicates:
        raise ValueError(
            "--parallel and --launcher are of replicates; give --replicates, too."
        )
    if given.replicates:
        bindings.run_replicates(
            given.replicates,
            given.gin_file,
            given.gin_bindings,
            given.workdir,
            binary.launcher(),
            binary.command("amalgamate"),
            given.job_cpus,
            given.job_gpus,
        )
        print(f"{given.replicates} replicates: {given.workdir}/replicates.csv")
        return
    result = bindings.run(
        "amalgamate",
        given.gin_file,
        given.gin_bindings,
        given.workdir,
        **({"profile": True} if given.profile else {}),  # or a .gin file may say
    )
    print(f"Trained optimizer: {given.workdir}/student.npz")
    print(f"Validation, untrained student to best: {_scores(result)}")


def _scores(result):
    first, best = result.validations[0]["score"], result.about["best_validation"]
    score = "mean log change of held-out loss; lower is better"
    return f"{first:+.3f} to {best:+.3f} ({score})"


def entry():
    """Console entry point."""
    binary.start(main)


if __name__ == "__main__":
    entry()
