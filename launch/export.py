"""Writes a trained optimizer and its card, in Markdown and JSON, to hand on.

    amalgam-export --workdir=runs/mine --output=mine.npz [--licence=Apache-2.0]
        [--evaluation=runs/evaluation --label=mine]

Of replicates it is the best one by validation. With --evaluation, what the optimizer
reached there stands on the card beside the oracle, and beside the best of --rivals.
"""

from absl import flags
from tf_amalgam_launch import binary

flags.DEFINE_string("workdir", None, "Folder of a run or of replicates.", required=True)
flags.DEFINE_string("output", None, "The .npz file to write.", required=True)
flags.DEFINE_string("part", "", "Folder of the run that holds it; choice, say.")
flags.DEFINE_string("licence", "", "Of the weights, for the card.")
flags.DEFINE_string("evaluation", None, "Folder of records to take results from.")
flags.DEFINE_string("label", None, "Its label there; by default the output's name.")
flags.DEFINE_list("rivals", [], "Labels there to hold it against, commas between.")


def main(_=None):
    """Runs `tf_amalgam.export` under the flags and prints the card."""
    from tf_amalgam import exporting

    given = binary.FLAGS
    card = exporting.export(
        given.workdir,
        given.output,
        part=given.part,
        licence=given.licence,
        evaluation=given.evaluation,
        label=given.label,
        rivals=given.rivals,
    )
    print(card)


def entry():
    """Console entry point."""
    binary.start(main)


if __name__ == "__main__":
    entry()
