"""What was run, what is missing and what was chosen, in sentences."""

from tf_amalgam import evaluated, frames, sweep
from tf_amalgam.checks import first_of

NAMED = 10  # entries of a list before the others are only counted


def all_facts(given, found, missing, failed) -> list[str]:
    """Returns the sentences at the head of a report.

    Args:
        given: `evaluated.Evaluated`.
        found: the records.
        missing: of `missing_runs`.
        failed: paths of tracebacks (`sweep.failures`).
    """
    settings, runs = found[0]["settings"], given.runs
    seeds = ", ".join(map(str, sorted(set(runs["seed"]))))
    lines = [
        f"{len(runs)} runs: {int(runs['diverged'].sum())} diverged, "
        f"{int((~runs['learned'] & ~runs['diverged']).sum())} did not learn.",
        f"Each of {settings['epochs']} epochs, warm-up of {settings['warmup_steps']} "
        f"SGD steps at {settings['warmup_learning_rate']}, seeds {seeds}; per seed "
        f"{_and_replicate(runs)}the same initial weights, minibatches and warm-up for "
        "all.",
        *_oracle(given),
        *_rivals(given),
        f"Reference: {given.reference or 'none (no learned optimizer took part)'}.",
        *_replicates(runs),
        f"The test split is measured at {evaluated.WEIGHTS}.",
        *_below_zero(runs),
    ]
    if not evaluated.long_enough(given):
        lines.append(
            "Optimization stability (Figures 4 and 5, a part of Figure 10) is left "
            f"out: of fewer than {evaluated.STEADY_EPOCHS} epochs it tells how fast a "
            "curve falls, not how steadily."
        )
    versions = {tuple(record["versions"].items()) for record in found}
    for version in sorted(versions):
        lines.append(f"Made with {', '.join(f'{k} {v}' for k, v in version)}.")
    if missing:
        rest = " (missing.csv)" if len(missing) > NAMED else ""
        lines.append(f"Missing runs: {first_of(missing, NAMED, '; ')}{rest}.")
    if failed:
        names = [
            f"{path.parent.name}/{path.name.removesuffix(sweep.FAILURE_SUFFIX)}"
            for path in failed
        ]
        lines.append(
            f"{len(failed)} runs failed and have no record: {first_of(names, NAMED)}."
        )
    return lines


def _below_zero(runs):
    losses = runs[["best_val_loss", "train_loss", "test_loss", "test_at_best_loss"]]
    below = list(dict.fromkeys(runs.loc[(losses < 0.0).any(axis=1), "task"]))
    if not below:
        return []
    return [
        f"Losses below 0, on {', '.join(below)}, have no logarithm: they are in no "
        "comparison of log losses."
    ]


def _oracle(given):
    pool = ", ".join(given.pool)
    if not pool:
        return ["No analytic optimizer took part, so there is no oracle."]
    chosen = "; ".join(f"{task}: {label}" for task, label in given.best.items())
    lines = [f"The oracle is the best by validation of {pool}: {chosen or 'none'}."]
    tasks = dict.fromkeys(given.runs["task"])
    if without := [task for task in tasks if task not in given.best]:
        lines.append(
            f"No oracle on {', '.join(without)}: every member of the pool has diverged "
            "or missing runs there."
        )
    return lines + _left_out(given.runs, given.pool)


def _left_out(runs, several):
    """Returns who was not chosen from, where others were."""
    if not (found := frames.left_out(runs, several)):
        return []
    named = "; ".join(f"{k} ({', '.join(tasks)})" for k, tasks in found.items())
    return [f"Not chosen from, for diverged or missing runs: {named}."]


def _and_replicate(runs):
    return "and replicate " if runs["replicate"].nunique() > 1 else ""


def _rivals(given):
    if not given.rivals:
        return []
    best = given.best_rivals
    chosen = "; ".join(f"{task}: {label}" for task, label in best.items())
    lines = [
        f"Rivals: {', '.join(given.rivals)}; the best of them by validation: "
        f"{chosen or 'none'}."
    ]
    tasks = dict.fromkeys(given.runs["task"])
    if without := [task for task in tasks if task not in best]:
        lines.append(
            f"No rival on {', '.join(without)}: each has diverged or missing runs "
            "there."
        )
    return lines + _left_out(given.runs, given.rivals)


def _replicates(runs):
    """Returns whose intervals say nothing of training them again."""
    students = evaluated.labels_of(runs[runs["kind"] == "learned"])
    if not (single := evaluated.single(runs)):
        return []
    none = "no σ_α of them"
    if set(students) <= set(single):
        none = "no σ_α, so no Figure 6 and Table 6"
    return [
        f"One replicate each: {first_of(single, NAMED)}; intervals are over "
        f"evaluations, not over retraining; {none}."
    ]


def missing_runs(runs, order) -> list[str]:
    """Returns what was to be run, or was by others, and is not there.

    Args:
        runs: `frames.runs`.
        order: of `records.read_order`.
    """
    tasks = dict.fromkeys([*order["task"], *runs["task"]])
    labels = dict.fromkeys([*order["optimizer"], *runs["optimizer"]])
    seeds, found = {*order.get("seed", ()), *runs["seed"]}, []
    planned = order.get("replicates", {})
    by = runs.groupby(["optimizer", "task", "replicate"])["seed"].agg(set)
    replicates = runs.groupby("optimizer")["replicate"].agg(set)
    for label in labels:
        for task in tasks:
            told = planned.get(label, ())
            expected = sorted({*replicates.get(label, ()), *told} or {0})
            absent = [r for r in expected if (label, task, r) not in by.index]
            if absent == expected:
                found.append(f"{label} on {task}: none")
                continue
            found += [f"{label} ({r}) on {task}: none" for r in absent]
            for r in expected:
                lacks = seeds - by.get((label, task, r), seeds)
                if lacks:
                    told = ", ".join(map(str, sorted(lacks)))
                    found.append(f"{label} ({r}) on {task}: seeds {told}")
    return found
