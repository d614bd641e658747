"""Equal terms: what records have to share to be compared; no TensorFlow here.

All share the epochs and the warm-up. All runs on one optimizee share its data, model
and minibatch; all runs of one replicate of an optimizer share what made it, its
hyperparameters (what a preset chose is among them) and the hash of its weights.
"""

from typing import Any, NamedTuple

SHARED = ("epochs", "warmup_steps", "warmup_learning_rate")
# Options of every optimizer of Keras; another version of Keras may have others.
KERAS_OPTIONS = frozenset(
    {
        *("name", "learning_rate", "weight_decay", "loss_scale_factor"),
        *("clipnorm", "global_clipnorm", "clipvalue"),
        *("use_ema", "ema_momentum", "ema_overwrite_frequency"),
        "gradient_accumulation_steps",
    }
)


# Records of earlier versions do not tell what an optimizee's model is made of, nor its
# data, nor how its loss is computed.
LATER = frozenset({"model", "data", "loss_options"})


class Difference(NamedTuple):
    """One setting that two records of one subject do not share; None where it lacks."""

    name: str
    there: Any
    here: Any


def claims(record) -> dict[tuple, dict]:
    """Returns what a record says of each of its subjects, as settings by name.

    The subjects: all records, its optimizee, its replicate of an optimizer.

    Args:
        record: a record, or what will be one (`task`, `optimizer`, `replicate`,
            `settings`, `optimizer_config`).
    """
    settings = record["settings"]
    return {
        (): {key: settings[key] for key in SHARED},
        ("task", record["task"]): settings["task"],
        ("optimizer", record["optimizer"], record["replicate"]): record[
            "optimizer_config"
        ],
    }


def differences(there, here) -> list[Difference]:
    """Returns the settings that differ, by name.

    Not the name of an optimizer, since Keras numbers them, nor an option of Keras, or
    of `LATER`, that only one side knows.
    """
    return [
        Difference(name, there.get(name), here.get(name))
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
        and name != "name"
        and (name not in KERAS_OPTIONS | LATER or (name in there and name in here))
    ]


def check(records):
    """Raises ValueError unless records can be compared."""
    known: dict[tuple, dict] = {}
    sources: dict[tuple, str] = {}
    for record in records:
        source = _source(record)
        for subject, here in claims(record).items():
            there = known.setdefault(subject, {})
            different = differences(there, here) if subject in sources else []
            if different:
                told = "; ".join(
                    f"{name} {before} ({sources[subject]}), {name} {now} ({source})"
                    for name, before, now in different
                )
                raise ValueError(
                    f"The records were made on different terms: {told}. Put them into "
                    "folders of their own, or under names of their own."
                )
            sources.setdefault(subject, source)
            there |= here  # options that only a later Keras knows, too


def _source(record):
    who = f"{record['optimizer']} ({record['replicate']})"
    return f"{who} on {record['task']}, seed {record['seed']}"
