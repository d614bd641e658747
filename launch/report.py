"""Turns the records of an evaluation into one page of the paper's tables and figures.

    amalgam-report runs/evaluation

The page, its figures (PNG, SVG) and their numbers (CSV) lie in runs/evaluation/report.
"""

import os
import sys

from absl import flags
from tf_amalgam_launch import binary

flags.DEFINE_string("output", None, "Folder of the report; DIR/report by default.")
flags.DEFINE_string("markdown", None, "Path of a page of Markdown to write besides.")
flags.DEFINE_list("pool", None, "Labels out of which the oracle is taken.")
flags.DEFINE_string("reference", None, "Label against which others are measured.")
flags.DEFINE_list("rivals", [], "Labels; a table against the best of them is added.")


def main(arguments):
    """Runs `tf_amalgam.write_report` under the flags."""
    from tf_amalgam.reporting import write_report

    if len(arguments) != 2:
        sys.exit("error: expected one folder of records: amalgam-report DIR")
    page = write_report(
        arguments[1],
        binary.FLAGS.output,
        pool=binary.FLAGS.pool,
        reference=binary.FLAGS.reference,
        rivals=binary.FLAGS.rivals,
        markdown=binary.FLAGS.markdown,
    )
    print(page)


def entry():
    """Console entry point."""
    # Of many small matrices: more threads of NumPy's products wait for one another, a
    # third of all processor time. It reads this while it is loaded.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    binary.start(main, with_tensorflow=False, words=True)


if __name__ == "__main__":
    entry()
