"""Trains an optimizer out of a pool of known ones, as a .gin file says.

    amalgamate --gin_file=gin_configs/experiments/mnist_min_max_small.gin \
        --workdir=runs/mnist --gin_bindings='data_dir="…"'

The same command continues an interrupted run.
"""

from tf_amalgam.launch import binary


def main(_=None):
    """Runs `tf_amalgam.amalgamate` under the flags."""
    from tf_amalgam import bindings

    flags = binary.FLAGS
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
