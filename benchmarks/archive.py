"""The records of an evaluation in one small file, from which reports can be made.

    python benchmarks/archive.py runs/evaluate_cpu docs/report/records.tar.xz

What stays out: the losses of minibatches, by far the longest part, and where data and
weights lay. Unpacked, it is a folder that `amalgam-report` reads, and that the same
evaluation goes on in. Equal records give equal files.
"""

import argparse
import io
import json
import lzma
import pathlib
import re
import sys
import tarfile

from tf_amalgam import files, records

# A path of somebody's machine in a configuration, and its last part.
PLACE = re.compile(
    r"""(['"])(?:[\w+.-]+:|~\w*|\.{1,2})?[/\\]"""
    r"""(?:(?:(?!\1).)*[/\\])?((?:(?!\1)[^/\\\n])+)[/\\]*\1"""
)


def without_places(text):
    """Returns a configuration that does not say where somebody's files lie."""
    return PLACE.sub(r"\1/path/to/\2\1", text)


def archived(record):
    """Returns a record as the archive has it."""
    kept = {key: value for key, value in record.items() if key != records.LOSSES}
    if "configuration" in kept:
        kept["configuration"] = without_places(kept["configuration"])
    return kept


def packed(folder) -> bytes:
    """Returns the archive of an evaluation's folder.

    Raises:
        ValueError: where there are no records, or one cannot be read.
    """
    folder = pathlib.Path(folder)
    paths = records.record_paths(folder)
    if not paths:
        raise ValueError(
            f"There are no records under {folder}. Expected the workdir of an "
            "evaluation, as amalgam-evaluate writes it."
        )
    content = {
        path.relative_to(folder): json.dumps(
            archived(records.read(path)), sort_keys=True
        ).encode()
        for path in paths
    }
    shared = (records.ORDER_FILE, records.TERMS_FILE)
    pictures = sorted((folder / records.SAMPLES).glob("*.png"))
    for path in (
        *filter(pathlib.Path.is_file, map(folder.joinpath, shared)),
        *pictures,
    ):
        content[path.relative_to(folder)] = path.read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, text in content.items():
            info = tarfile.TarInfo(path.as_posix())
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    return lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def main():
    """Writes the archive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="of the evaluation")
    parser.add_argument("archive", help="to write; ends in .tar.xz")
    given = parser.parse_args()
    if not given.archive.endswith(".tar.xz"):
        parser.error(f"{given.archive} does not end in .tar.xz.")
    try:
        content = packed(given.folder)
    except ValueError as error:
        sys.exit(str(error))
    files.write_bytes(given.archive, content)
    print(f"{given.archive}: {len(content)} bytes")


if __name__ == "__main__":
    main()
