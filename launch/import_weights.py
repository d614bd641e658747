"""Turns a checkpoint of the authors' released code into an optimizer for `load`.

amalgam-import --checkpoint=choice-large/1/weights --output=choice-large.npz
"""

from absl import flags
from tf_amalgam_launch import binary

flags.DEFINE_string(
    "checkpoint", None, "Prefix of the checkpoint, or its folder.", required=True
)
flags.DEFINE_string("output", None, "The .npz file to write.", required=True)
flags.DEFINE_string(
    "scheme", None, "mean, min_max or choice; by default what the folder's name says."
)
flags.DEFINE_string(
    "teachers",
    None,
    "A pool's name, or names with commas between; by default what the folder says.",
)


def main(_=None):
    """Runs `tf_amalgam.import_checkpoint` under the flags."""
    from tf_amalgam import importing

    given = binary.FLAGS
    path = importing.import_checkpoint(
        given.checkpoint,
        given.output,
        scheme=given.scheme,
        teachers=given.teachers,
    )
    print(f"Use it in Keras: model.compile(optimizer=tf_amalgam.load('{path}'), ...)")


def entry():
    """Console entry point."""
    binary.start(main)


if __name__ == "__main__":
    entry()
