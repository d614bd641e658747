"""Everything a resume needs, in one file at a time, written atomically."""

import io
import json
import logging
import pathlib

import numpy as np

from tf_amalgam import files

KEEP = 2


def save(folder, updates, arrays, facts):
    """Writes checkpoint number `updates` and removes all but the newest two.

    Args:
        folder: where checkpoints lie.
        updates: meta-updates done.
        arrays: dict of name → array.
        facts: JSON-ready facts.
    """
    folder = pathlib.Path(folder)
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
    np.savez(buffer, facts=text, **{f"array/{k}": v for k, v in arrays.items()})
    path = folder / f"checkpoint-{updates:08d}.npz"
    files.write_bytes(path, buffer.getvalue())
    for old in sorted(folder.glob("checkpoint-*.npz"))[:-KEEP]:
        old.unlink(missing_ok=True)


def load_newest(folder):
    """Returns `(arrays, facts)` of the newest readable checkpoint, or None.

    A damaged file is reported as a warning and the one before it is taken.

    Raises:
        ValueError: if there are checkpoints and none can be read.
    """
    paths = sorted(pathlib.Path(folder).glob("checkpoint-*.npz"), reverse=True)
    for path in paths:
        try:
            with np.load(path, allow_pickle=False) as archive:
                everything = {name: archive[name] for name in archive.files}
            facts = json.loads(everything.pop("facts").tobytes())
        except files.UNREADABLE_ZIP as error:
            logging.warning(
                "Checkpoint %s is damaged (%s); falling back to the one before.",
                path,
                error,
            )
            continue
        arrays = {k.removeprefix("array/"): v for k, v in everything.items()}
        return arrays, facts
    if paths:
        raise ValueError(
            f"None of the {len(paths)} checkpoints in {folder} can be read. Remove the "
            "folder to start over."
        )
    return None
