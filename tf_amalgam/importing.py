"""Checkpoints of the authors' released code, made into our own trained optimizers."""

import pathlib

import tensorflow as tf

from tf_amalgam import rules, saved
from tf_amalgam.optimizer import check_weights

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

LICENCE = "MIT, Copyright (c) 2021 Tianshu Huang"  # of the released code and weights

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def import_checkpoint(
    path,
    output,
    rule: str = "rnnprop",
    preset: str = "released",
    licence: str = LICENCE,
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

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: for a damaged checkpoint, or one whose variables or shapes are not
            those of the rule (naming them).
    """
    if rule not in VARIABLES:
        raise ValueError(rules.unknown("rule to import", rule, tuple(VARIABLES)))
    made = rules.make_rule(rule, preset)
    prefix = _prefix(pathlib.Path(path))
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
            # The folders that tell schemes and replicates apart, not the whole path.
            "source": "/".join(prefix.resolve().parts[-3:]),
            "preset": preset,
            "licence": licence,
        },
    )


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
