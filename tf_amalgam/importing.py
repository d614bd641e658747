"""Checkpoints of the authors' released code, made into our own trained optimizers."""

import pathlib

import tensorflow as tf

from tf_amalgam import amalgamation, rules, saved
from tf_amalgam.checks import unknown
from tf_amalgam.weights import check_weights

# Rule → our name of each weight → its name in the released code's checkpoints.
VARIABLES = {
    "rnnprop": {
        "lstm_0/kernel": "network/recurrent/0/kernel",
        "lstm_0/recurrent_kernel": "network/recurrent/0/recurrent_kernel",
        "lstm_0/bias": "network/recurrent/0/bias",
        "lstm_1/kernel": "network/recurrent/1/kernel",
        "lstm_1/recurrent_kernel": "network/recurrent/1/recurrent_kernel",
        "lstm_1/bias": "network/recurrent/1/bias",
        "head/kernel": "network/delta/kernel",
        "head/bias": "network/delta/bias",
    },
}

# Huang et al. 2022, C.3, and the released code.
WARMUP_STEPS = 100
WARMUP_LEARNING_RATE = 0.05

# Folder of the released weights → scheme and pool of the students in it.
FOLDERS = {
    "mean": ("mean", "small"),
    "min-max": ("min_max", "small"),
    "choice-small": ("choice", "small"),
    "choice-large": ("choice", "large"),
}

LICENCE = "MIT, Copyright (c) 2021 Tianshu Huang"  # of the released code and weights

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def import_checkpoint(
    path,
    output,
    rule: str = "rnnprop",
    preset: str = "released",
    licence: str = LICENCE,
    scheme: str | None = None,
    teachers=None,
) -> pathlib.Path:
    """Writes a released checkpoint as a `.npz` file that `tf_amalgam.load` reads.

    Args:
        path: prefix of a TensorFlow checkpoint (`…/weights`, beside which lies
            `weights.index`), or a folder that holds one checkpoint.
        output: of the file to write, ending in `.npz`.
        rule: name of the learned rule whose weights they are.
        preset: its hyperparameters; the authors' weights were trained under
            `"released"`, whose normalizer is part of what they learned.
        licence: of the weights; written beside them.
        scheme, teachers: how the student was amalgamated, which a checkpoint does not
            say, and reports want to know: `"mean"`, `"min_max"` or `"choice"`; a pool's
            name, teachers' names (a sequence, or with commas between) or rules. By
            default what the released folders' names stand for (`FOLDERS`), and
            nothing for a folder of another name.

    Returns:
        The path that was written.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: for a damaged checkpoint, or one whose variables or shapes are not
            those of the rule (naming them); an unknown scheme or teacher, or one of
            the two where the other is not known.
    """
    if rule not in VARIABLES:
        raise ValueError(unknown("rule to import", rule, tuple(VARIABLES)))
    saved.check_ending(output)
    made = rules.make_rule(rule, preset)
    prefix = _prefix(pathlib.Path(path).expanduser())
    # The folders that tell schemes and replicates apart, not the whole path.
    parts = prefix.resolve().parts[-3:]
    training = _training(parts, scheme, teachers, preset)
    variables = read_variables(prefix)
    names = VARIABLES[rule]
    missing = sorted(set(names.values()) - variables.keys())
    other = sorted(variables.keys() - set(names.values()))
    if missing or other:
        raise ValueError(
            f"{prefix} does not hold the variables of {rule}. Missing: "
            f"{', '.join(missing) or 'none'}; not expected: "
            f"{', '.join(other) or 'none'}. Give a checkpoint of the released code."
        )
    weights = {ours: variables[theirs] for ours, theirs in names.items()}
    try:
        check_weights(made, weights)
    except ValueError as error:
        raise ValueError(f"{prefix} holds no weights of {rule}. {error}") from error
    return saved.save(
        output,
        made,
        weights,
        warmup_steps=WARMUP_STEPS,
        warmup_learning_rate=WARMUP_LEARNING_RATE,
        about={
            "source": "/".join(parts),
            "preset": preset,
            "licence": licence,
            **training,
        },
    )


def _training(parts, scheme, teachers, preset) -> dict:
    """Returns scheme and teachers as `amalgamate` writes them, and who said so.

    Nothing where neither is given and no part of the path is in `FOLDERS`.
    """
    guessed = next((FOLDERS[p] for p in reversed(parts) if p in FOLDERS), (None, None))
    chosen = [
        guess if given is None else given
        for given, guess in zip((scheme, teachers), guessed, strict=True)
    ]
    if chosen == [None, None]:
        return {}
    if None in chosen:
        raise ValueError(
            f"scheme={scheme!r} and teachers={teachers!r} were given, and the path "
            f"({'/'.join(parts)}) does not say the other; known folders are "
            f"{', '.join(FOLDERS)}. Give both, or neither."
        )
    scheme_told, pool = chosen
    amalgamation.check_scheme(scheme_told)
    if isinstance(pool, str) and ("," in pool or pool in rules.TEACHERS):
        pool = pool.split(",")
    # The only teacher of Optimal Choice is a trained Choice rule.
    members = (
        [rules.make_rule("choice", preset, pool=pool)]
        if scheme_told == "choice"
        else list(rules.make_pool(pool, preset))
    )
    said = [
        f"{name} {'guessed from the folder' if given is None else 'said on import'}"
        for name, given in (("scheme", scheme), ("teachers", teachers))
    ]
    return {
        "scheme": scheme_told,
        "teachers": [rules.as_config(member) for member in members],
        "note": f"Not read from the checkpoint: {', '.join(said)}.",
    }


def read_variables(prefix) -> dict:
    """Returns the trained variables of a checkpoint by name, as NumPy arrays.

    What belongs to the meta-optimizer (its slots and hyperparameters) and to the
    checkpoint itself is left out.
    """
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        return {
            key.removesuffix(SUFFIX): reader.get_tensor(key)
            for key in reader.get_variable_to_shape_map()
            if key.endswith(SUFFIX)
            and "/.OPTIMIZER_SLOT/" not in key
            and not key.startswith(("optimizer/", "save_counter/"))
        }
    # A file cut short is an IndexError here.
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"{prefix} is not a TensorFlow checkpoint, or is damaged ({error}). Copy "
            "both of its files again."
        ) from error


def _prefix(path):
    """Returns the prefix that a path, or the only checkpoint of a folder, has."""
    if path.is_dir():
        found = sorted(path.glob("*.index"))
        if len(found) != 1:
            held = ", ".join(file.stem for file in found) or "none"
            raise FileNotFoundError(
                f"Expected one checkpoint in the folder {path}, found {held}. Give the "
                "prefix of one, the name of its .index file without the ending."
            )
        return found[0].with_suffix("")
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    if not prefix.with_name(f"{prefix.name}.index").is_file():
        raise FileNotFoundError(
            f"There is no checkpoint at {path}. Expected the prefix of a TensorFlow "
            f"checkpoint, beside which lies {prefix.name}.index, or its folder."
        )
    return prefix
