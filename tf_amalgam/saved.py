"""Trained optimizers on disk: one small `.npz` file that says all about itself."""

import functools
import hashlib
import io
import json
import os
import pathlib

import numpy as np

from tf_amalgam import files, optimizers, rules
from tf_amalgam.checks import unknown
from tf_amalgam.weights import check_weights

FORMAT = "tf_amalgam optimizer"
VERSION = 1
STUDENT_FILE = "student.npz"
# Parts that every header has.
PARTS = {
    "version": int,
    "rule": str,
    "hyperparameters": dict,
    "warmup_steps": int,
    "warmup_learning_rate": float,
    "sha256": str,
    "about": dict,
}
ZOO = pathlib.Path(__file__).parent / "zoo"
SUMS = ZOO / "SHA256SUMS"  # of the files that ship, as `sha256sum` writes them
# What `load` takes if nothing is named; a test holds it to `zoo/results.csv`.
DEFAULT = "choice-agreement-small"


def save(path, rule, weights, *, warmup_steps, warmup_learning_rate, about=None):
    """Writes a rule and its weights; returns the path.

    Args:
        path: of the file, ending in `.npz`.
        rule: a `rules.Rule`.
        weights: its weights by name.
        warmup_steps, warmup_learning_rate: the warm-up it was trained with.
        about: JSON-ready facts on its making (task, teachers, seed, command).
    """
    check_ending(path)
    path = pathlib.Path(path).expanduser()
    weights = {k: np.asarray(v, dtype="float32") for k, v in weights.items()}
    check_weights(rule, weights)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "rule": rule.name,
        "hyperparameters": rule.get_config(),
        "warmup_steps": int(warmup_steps),
        "warmup_learning_rate": float(warmup_learning_rate),
        "sha256": digest(weights),
        "about": about or {},
    }
    text = np.frombuffer(json.dumps(header, sort_keys=True).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, header=text, **{f"weights/{k}": v for k, v in weights.items()})
    files.write_bytes(path, buffer.getvalue())
    return path


def check_ending(path):
    """Raises ValueError for a path that `load` would not take for a file of ours."""
    if pathlib.Path(path).suffix != ".npz":
        raise ValueError(f"output must end in .npz, received {os.fspath(path)}.")


def read(path):
    """Returns `(rule, weights, header)` of a saved optimizer.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a saved optimizer, is damaged, was written by a
            newer version, or its weights do not fit its rule.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        several = sorted(one.parent.name for one in path.glob(f"*/{STUDENT_FILE}"))
        if several and not (path / STUDENT_FILE).is_file():
            raise FileNotFoundError(
                f"{path} holds trained optimizers in {', '.join(several)}. Give the "
                f"folder of one, {path / several[0]} say; of replicates amalgam-export "
                "takes the best."
            )
        path = path / STUDENT_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no trained optimizer at {path}. Expected a .npz file, or a "
            f"folder with {STUDENT_FILE}, as amalgamate writes."
        )
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):  # whatever the file is called
            raise ValueError("it holds one array")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
        header = _header(arrays.pop("header"))
    except files.UNREADABLE_ZIP as error:
        raise ValueError(
            f"{path} is not a trained optimizer, or is damaged ({error}). Expected a "
            "file written by amalgamate; copy or train it again."
        ) from error
    if header["version"] > VERSION:
        raise ValueError(
            f"{path} was written in format version {header['version']}; this "
            f"tf_amalgam reads up to {VERSION}. Update tf_amalgam."
        )
    weights = {name.removeprefix("weights/"): value for name, value in arrays.items()}
    try:
        rule = rules.rule_class(header["rule"])(**header["hyperparameters"])
        check_weights(rule, weights)
    except TypeError as error:
        raise ValueError(
            f"{path}: a {header['rule']} with hyperparameters that this tf_amalgam "
            f"does not know ({error}). Update tf_amalgam, or train it again."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if digest(weights) != header["sha256"]:
        raise ValueError(
            f"{path}: the weights do not have the SHA-256 written beside them; the "
            "file is damaged. Copy or train it again."
        )
    return rule, weights, header


def _header(text):
    """Returns the header of a file; raises where it is none."""
    header = json.loads(text.tobytes())
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError("it says nothing of a tf_amalgam optimizer")
    newer = isinstance(header.get("version"), int) and header["version"] > VERSION
    for name, kind in ({} if newer else PARTS).items():
        if not isinstance(header.get(name), kind):
            raise ValueError(f"its {name} is {header.get(name)!r}")
    return header


def load(name_or_path=DEFAULT, *, preset="paper", **kwargs):
    """Returns a Keras optimizer by name or from disk, offline.

    Args:
        name_or_path: a trained optimizer that ships with the package (see
            `available()`), by default the one that validates best over all optimizees
            of `zoo/results.csv`; an analytic one (`"adam"`, `"sgd"`, …); or the path
            of a saved optimizer or of the folder that `amalgamate` wrote it to. A text
            that is a name is one; a folder called so is a `pathlib.Path` or "./name".
        preset: `"paper"` or `"released"`: hyperparameters of an analytic one; a
            trained one has its own, whatever is given here.
        **kwargs: override what the optimizer is built with: `learning_rate` (of a
            trained one it multiplies the learned step, 1.0), `warmup_steps` and
            `warmup_learning_rate` (a trained one brings its own, others have no
            warm-up), `guard=True` (of trained ones: Adam takes over where a learned
            step fails, and `optimizer.guard_report` counts it),
            `state_dtype="bfloat16"` (half of an LSTM's state), `chunk_size`, and what
            every Keras optimizer takes: `clipnorm`, `weight_decay`, ….
            `tf_amalgam.optimizer.RuleOptimizer` describes each.

    Raises:
        ValueError: for an unknown name (near matches are suggested), an unknown
            preset, a damaged file, or one that is not what ships under its name.
        FileNotFoundError: for a path where there is none.

    A model that was saved with one of these optimizers is loaded by Keras after
    `import tf_amalgam`, which tells Keras of its classes.

    Example:
        >>> type(load("adam", learning_rate=0.001)).__name__
        'Adam'
    """
    if preset not in rules.PRESETS:
        raise ValueError(unknown("preset", preset, rules.PRESETS))
    if is_name(name_or_path) and name_or_path in rules.TEACHERS:
        rule = rules.make_rule(name_or_path, preset)
        return optimizers.optimizer_for(rule, {}, **kwargs)
    rule, weights, header = find(name_or_path)
    options = {
        "warmup_steps": header["warmup_steps"],
        "warmup_learning_rate": header["warmup_learning_rate"],
    }
    return optimizers.optimizer_for(rule, weights, **{**options, **kwargs})


def find(name_or_path):
    """Returns `(rule, weights, header)` of a trained optimizer, shipped or on disk.

    Raises:
        ValueError, FileNotFoundError: as `load`.
    """
    if not isinstance(name_or_path, str):
        return read(name_or_path)
    text = name_or_path
    if text in shipped_names():
        check_shipped(text)
        return read(ZOO / f"{text}.npz")
    if os.sep in text or text.endswith(".npz") or os.path.exists(text):
        return read(text)
    raise ValueError(unknown("optimizer", text, (*shipped_names(), *rules.TEACHERS)))


def check_shipped(name):
    """Raises ValueError where a shipped file is missing, or is not what shipped."""
    path, expected, told = ZOO / f"{name}.npz", _sums()[name], "there is no such file"
    if path.is_file():
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found == expected:
            return
        told = f"its SHA-256 is {found}, in {SUMS.name} stands {expected}"
    raise ValueError(
        f"{path} is not what ships with tf_amalgam as {name!r}: {told}. Install "
        "tf_amalgam again; an optimizer of your own is loaded by its path."
    )


@functools.cache
def _sums():
    """Returns the SHA-256 of each file that ships, by the optimizer's name."""
    if not SUMS.is_file():
        raise ValueError(
            f"There is no {SUMS}, which lists the optimizers that ship. Install "
            "tf_amalgam again."
        )
    lines = [
        line.split() for line in SUMS.read_text("utf-8").splitlines() if line.strip()
    ]
    return {name.lstrip("*").removesuffix(".npz"): sha256 for sha256, name in lines}


def is_name(given) -> bool:
    """Returns whether `load` takes something for a name; else it is a path."""
    return isinstance(given, str) and given in (*shipped_names(), *rules.TEACHERS)


def shipped_names() -> tuple[str, ...]:
    """Returns the names of the trained optimizers that ship with the package."""
    return tuple(sorted(_sums()))


def teachers(about) -> list[str]:
    """Returns the names of a student's teachers, out of what a file says of it.

    Of Optimal Choice, whose only teacher mixes a pool, they are that pool.
    """
    found = about.get("teachers", ())
    if about.get("scheme") == "choice":
        found = [member for mixer in found for member in mixer["pool"]]
    return [teacher["rule"] for teacher in found]


def digest(weights) -> str:
    """Returns the SHA-256 of weights by name."""
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode())
        found.update(np.ascontiguousarray(weights[name], dtype="<f4").tobytes())
    return found.hexdigest()
