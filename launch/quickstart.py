"""The first five minutes: train an optimizer on the embedded digits, then compare it.

Run by launch/quickstart.sh. Safe to run twice: finished work is not done again, and
an interrupted run continues.
"""

import pathlib

from absl import flags
from tf_amalgam_launch import binary

binary.define_gin_flags()


def main(_=None):
    """Amalgamates, evaluates the result beside its teachers, prints the table."""
    from tf_amalgam import bindings, records

    config, workdir = binary.FLAGS.gin_file, pathlib.Path(binary.FLAGS.workdir)
    extra = binary.FLAGS.gin_bindings
    amalgam = workdir / "amalgam"
    bindings.run("amalgamate", config, extra, amalgam)
    students = [
        f"student = {str(amalgam / 'student.npz')!r}",
        f"untrained = {str(amalgam / 'untrained.npz')!r}",
    ]
    found = bindings.run(
        "evaluate", config, [*extra, *students], workdir / "evaluation"
    )
    print(f"\n{records.table(found)}\n")
    print(f"Your optimizer:           {amalgam}/student.npz")
    print(f"How it was trained:       {amalgam}/curves.png")
    print(f"How it trains networks:   {workdir}/evaluation/curves.png")
    print("Use it in Keras:          model.compile(optimizer=tf_amalgam.load(")
    print(f'                              "{amalgam}/student.npz"), ...)')


if __name__ == "__main__":
    flags.FLAGS.set_default("gin_file", ["gin_configs/experiments/quickstart.gin"])
    flags.FLAGS.set_default("workdir", "quickstart")
    binary.start(main)
