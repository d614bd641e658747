"""A trained optimizer with its card: files to hand on."""

import dataclasses
import json
import math
import pathlib

from tf_amalgam import cards, files, plots, reached, records, replicates, saved
from tf_amalgam.workdir import MADE_FILE, VALIDATION_FILE

# Parameters that say where somebody's files lie, or how a run is shown.
PRIVATE = ("data_dir", "initial_weights", "choice", "progress", "checkpoint_seconds")


def export(
    workdir, output, *, part="", licence="", evaluation=None, label=None, rivals=()
) -> cards.Card:
    """Writes a trained optimizer and its card; returns the card.

    Of replicates it is the best one by validation, of those that have finished if there
    are any; the card has the figures of all.

    Args:
        workdir: what `amalgamate` wrote: the folder of one run, or of replicates.
        output: path of the `.npz` file that `load` and `card` read. Beside it the card
            is written as Markdown (`.md`) and JSON (`.json`), and validation by
            meta-update is drawn (`.png`).
        part: folder of the run that holds the optimizer: `"choice"` for the Choice
            rule that taught the student.
        licence: of the weights, for the card.
        evaluation: folder of records that say what it reached; None for none.
        label: of it in these records; by default the name of `output`.
        rivals: labels there, the best of which stands beside it on the card.

    Raises:
        FileNotFoundError: where there is no trained optimizer.
        ValueError: if its file is damaged, `output` does not end in `.npz`, a label or
            rivals come without an evaluation, or that has no records of it.
    """
    output = pathlib.Path(output).expanduser()
    saved.check_ending(output)
    if evaluation is None and (label or rivals):
        raise ValueError(
            "A label or rivals are of an evaluation's records; give the evaluation."
        )
    run, told = _best(pathlib.Path(workdir).expanduser(), part)
    rule, weights, header = saved.read(run / part)
    results = ()
    if evaluation is not None:
        name = label or output.stem
        results = _results(evaluation, name, header["sha256"], rivals)
    about = {**header["about"], **_history(run / part), **_made(run, part)}
    if isinstance(origin := about.get("initial_weights"), dict):
        if not saved.is_name(path := origin["path"]):
            path = pathlib.Path(path).name  # nobody else's business where it lies
        about["initial_weights"] = {**origin, "path": path}
    about |= {"licence": licence} if licence else {}
    about |= {"replicates": told} if told else {}
    saved.save(
        output,
        rule,
        weights,
        warmup_steps=header["warmup_steps"],
        warmup_learning_rate=header["warmup_learning_rate"],
        about=about,
    )
    card = cards.card(output)
    card = dataclasses.replace(card, name=output.stem, results=tuple(results))
    write_card(card, output.with_suffix(""))
    return card


def write_card(card, path, drawn=""):
    """Writes a card as `path`.md and .json; draws `path`.png if it has validations.

    Args:
        card: what to write.
        path: without an ending.
        drawn: Markdown of a picture of its validations, where the card has none.
    """
    path = pathlib.Path(path)
    if card.validations:
        points = [(row["update"], row["score"]) for row in card.validations]
        plots.validations({card.name: points}, path.with_name(f"{path.name}.png"))
    files.write_json(path.with_name(f"{path.name}.json"), as_json(card))
    files.write_text(path.with_name(f"{path.name}.md"), markdown(card, drawn))


def as_json(card) -> dict:
    """Returns a card ready for JSON; what is not known is null."""
    derived = {"what": card.what, "known_failures": reached.failures(card)}
    told = json.dumps({**dataclasses.asdict(card), **derived})
    return json.loads(told, parse_constant=lambda _: None)


def markdown(card, drawn="") -> str:
    """Returns a card as a page of Markdown, beside the picture of its validations.

    Args:
        card: what to write.
        drawn: Markdown of such a picture, where the card has no validations.
    """
    facts = card.facts()
    command = facts.pop("made by", "")
    parts = [f"# {card.name}", f"{card.what}.", _table([("", ""), *facts.items()])]
    if command:
        parts.append(f"```bash\n{command}\n```")
    if card.validations:
        drawn = f"![validation by meta-update]({card.name}.png)"
    if drawn:
        parts.append(drawn)
    if card.replicates:
        parts += ["## Replicates", _replicates(card.replicates)]
    if card.results:
        parts += ["## Results", f"{reached.terms(card.results)}."]
        parts.append(_measured(card.results))
    if card.held_out:
        parts += ["## Held-out seeds", f"{reached.terms(card.held_out)}."]
        parts.append(_measured(card.held_out))
    if card.results or card.held_out or card.limits:
        rows = (*card.results, *card.held_out)
        parts.append("## Known failures")
        lines = [f"- {line}" for line in reached.failures(card)]
        parts.append("\n".join(lines) or _no_failures(rows))
    return "\n\n".join(parts) + "\n"


def _no_failures(rows):
    compared = [row for row in rows if row["oracle"]]
    told = "None: all runs learned"
    if compared:
        told += f", and no mean is more than {reached.BEHIND:.0%} above the oracle's"
    alone = dict.fromkeys(row["optimizee"] for row in rows if not row["oracle"])
    if alone:
        told += f"; there was no oracle on {', '.join(alone)}"
    return f"{told}."


def _table(rows):
    return records.markdown([[str(cell) for cell in row] for row in rows])


def _replicates(rows):
    head = ("replicate", "seed", "meta-updates", "best validation", "finished")
    lines = [
        (
            f"{row['replicate']}{' (this one)' if row['chosen'] else ''}",
            row["seed"],
            row["meta_updates"],
            f"{row['best_validation']:.3f}",
            "yes" if row["finished"] else "no",
        )
        for row in rows
    ]
    return _table([head, *lines])


def _measured(rows):
    head = ["optimizee", "validation loss", "test loss", "test accuracy", "diverged"]
    lines = [
        [
            row["optimizee"],
            reached.loss(row["validation_loss"], row["validation_sd"]),
            reached.loss(row["test_loss"]),
            reached.loss(row["test_accuracy"]),
            _lost(row),
        ]
        for row in rows
    ]
    for kind in ("oracle", "rival"):
        if any(row.get(kind) for row in rows):
            head.append("oracle" if kind == "oracle" else "best rival")
            for line, row in zip(lines, rows, strict=True):
                told = f"{row[kind]} {reached.loss(row[f'{kind}_loss'])}"
                line.append(told if row[kind] else "–")
    return _table([head, *lines])


def _lost(row):
    told = f"{row['diverged']:.0f} of {row['seeds']:.0f}"
    if row["not_learned"]:
        told += f", {row['not_learned']:.0f} more did not learn"
    return told


def _results(evaluation, label, sha256, rivals):
    """Returns rows for a card, out of an evaluation's records of these weights."""
    from tf_amalgam import measured  # statistics: half a second

    found = records.read_all(pathlib.Path(evaluation).expanduser())
    labels = list(dict.fromkeys(record["optimizer"] for record in found))
    # Other replicates may stand under the same label.
    found = [
        record
        for record in found
        if record["optimizer"] != label
        or record["optimizer_config"].get("weights_sha256") == sha256
    ]
    if not any(record["optimizer"] == label for record in found):
        raise ValueError(
            f"{evaluation} has no records of {label!r} with the weights {sha256[:8]}…. "
            f"It has {', '.join(labels) or 'none'}. Evaluate this optimizer, or give "
            "its label there."
        )
    return measured.rows(measured.results(found, rivals), label)


def _best(workdir, part):
    """Returns the folder of a run or of the best replicate, and figures of all."""
    folders = replicates.students(workdir)
    if (workdir / saved.STUDENT_FILE).is_file() or not folders:
        return workdir, []
    rows = replicates.fates(workdir, part)
    if not rows:
        raise FileNotFoundError(f"No replicate in {workdir} has readable results.")
    scores = [row["best_validation"] for row in rows]
    begun = [not row["finished"] for row in rows]  # stopped, or diverged
    # Scores of different stages do not compare: who came far goes before who did not.
    stages = [row["stage"] for row in rows]

    def standing(i):
        return begun[i], math.isnan(scores[i]), -stages[i] * begun[i], scores[i]

    best = min(range(len(rows)), key=standing)
    told = [{**row, "chosen": i == best} for i, row in enumerate(rows)]
    return folders[rows[best]["replicate"]], told


def _history(folder):
    """Returns a run's validations, which files of earlier versions do not hold."""
    file = folder / VALIDATION_FILE
    if not file.is_file():
        return {}
    keys = ("update", "stage", "steps", "score", "then")
    return {"validations": [{k: row[k] for k in keys} for row in files.read_csv(file)]}


def _made(run, part):
    """Returns the gin files and bindings of a run, and which part of it this is."""
    file = run / MADE_FILE
    if not file.is_file():  # a call in Python
        return {}
    made = json.loads(file.read_text("utf-8"))
    paths = map(pathlib.Path, made["gin_files"])
    return {
        "made": {
            "gin_files": [
                path.name if path.is_absolute() else str(path) for path in paths
            ],
            "gin_bindings": [
                line for line in made["gin_bindings"] if not _private(line)
            ],
            "part": part,
        }
    }


def _private(line):
    """Returns whether a binding is `PRIVATE`; a shipped optimizer's name is not.

    Nor is a Choice rule that is no path: a reference, or its hyperparameters.
    """
    name, _, value = line.partition("=")
    parameter, value = name.strip().rpartition(".")[2], value.strip()
    public = value.strip("'\"") in saved.shipped_names()
    public |= parameter == "choice" and value[:1] not in ("'", '"')
    return parameter in PRIVATE and not public
