"""Learning rates of the teachers by the paper's grid search."""

import dataclasses
import logging
import math
import pathlib
import statistics
from typing import NamedTuple

from tf_amalgam import evaluation, files, plots, records, rules
from tf_amalgam.checks import check_number, several
from tf_amalgam.lineup import KERAS, KerasOptimizer
from tf_amalgam.tasks.task import check_task

# {5e-4, 1e-3, 2e-3, …, 1} (Huang et al. 2022, section 5 and C.2), in 1-2-5 steps.
PAPER_GRID = (5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

POOL_FILE = "pool.gin"
TABLE_FILE = "grid.md"
FIGURE_FILE = "grid.png"
PRIVATE_NOTE = "Epsilon is of one run; choosing among the runs is not in it."


class GridSearch(NamedTuple):
    """What a grid search found.

    Attributes:
        teachers: the teachers at their best learning rates; `amalgamate` takes them.
            Keras' own optimizers stand among them where they were asked for.
        losses: teacher → {learning rate: mean validation loss after the last epoch};
            infinite where a run diverged.
        at_edge: names of the teachers whose best learning rate is the grid's first
            or last.
    """

    teachers: tuple[rules.Rule | KerasOptimizer, ...]
    losses: dict[str, dict[float, float]]
    at_edge: tuple[str, ...]


def grid_search(
    task,
    teachers="large",
    *,
    workdir,
    learning_rates=PAPER_GRID,
    seeds=(0,),
    epochs: int = 5,
    warmup_steps: int = 100,
    warmup_learning_rate: float = 0.01,
    preset: str = "paper",
    progress: bool = True,
    only=None,
    launch=None,
) -> GridSearch:
    """Tunes the learning rate of every teacher on one optimizee.

    The best rate has the lowest mean over seeds of the validation loss after the last
    epoch (Huang et al. 2022, section 5: 5 epochs of Train on MNIST). A rate that
    diverged with any seed is not chosen. Every run is one of `evaluate`'s, so the same
    call continues an interrupted search, and a wider grid on the same folder trains
    only what is new.

    Args:
        task: the optimizee, a `tf_amalgam.Task`.
        teachers: a pool's name (`"small"`, `"large"`, `"sgd_adam"`), or a sequence of
            teachers' names and analytic rules (their own rates do not matter). Keras'
            own optimizers (`"keras.AdamW"`, `KerasOptimizer`) can be tuned among
            them, so that a comparison gives all the same budget.
        workdir: folder of the records; gets a table (`grid.md`), a figure
            (`grid.png`) and the tuned pool for experiments to include (`pool.gin`).
            The table of a private optimizee says epsilon: that of one run, which does
            not cover the choice among them.
        learning_rates: the grid, numbers above 0.
        seeds: whole numbers, one run each per teacher and rate.
        epochs: passes over the training data.
        warmup_steps, warmup_learning_rate: the warm-up of every run.
        preset: hyperparameters of teachers given by name.
        progress: whether to show a progress bar.
        only, launch: see `evaluate`; with `only` nothing is chosen.

    Returns:
        A `GridSearch`: `teachers` at their best rates, `losses`, `at_edge`.

    Raises:
        ValueError: for a teacher, a grid or a folder that cannot be used, or trainings
            that are all warm-up, before any work starts.
        RuntimeError: if runs failed, or all rates of a teacher diverged; table and
            figure are written.
    """
    check_task(task)
    pool = _pool(teachers, preset)
    rates = _grid(learning_rates)
    folder, failure = pathlib.Path(workdir).expanduser(), None
    try:
        found = evaluation.evaluate(
            {
                _label(rule.name, rate): dataclasses.replace(rule, learning_rate=rate)
                for rule in pool
                for rate in rates
            },
            task,
            workdir=workdir,
            seeds=seeds,
            epochs=epochs,
            warmup_steps=warmup_steps,
            warmup_learning_rate=warmup_learning_rate,
            preset=preset,
            progress=progress,
            write_report=False,  # a line per teacher and rate would hide everything
            only=only,
            launch=launch,
        )
    except RuntimeError as error:  # of runs that failed
        if only is not None:
            raise
        found, failure = _those_of(task, seeds, folder), error
    if only is not None:
        return GridSearch((), {}, ())
    runs = {
        rule.name: {rate: _runs(found, rule.name, rate) for rate in rates}
        for rule in pool
    }
    losses = {
        name: {
            rate: _loss(mine) if len(mine) == len(set(several(seeds))) else math.nan
            for rate, mine in by_rate.items()
        }
        for name, by_rate in runs.items()
    }
    title = f"Validation loss on {task.name} after {epochs} epochs"
    epsilons = _epsilons(found, losses)
    files.write_text(folder / TABLE_FILE, table(losses, title, epsilons))
    plots.loss_by_learning_rate(losses, folder / FIGURE_FILE, title)
    if failure:
        raise failure
    best = {name: _best(name, by_rate) for name, by_rate in losses.items()}
    at_edge = tuple(name for name in best if _at_edge(best[name], rates))
    for name in at_edge:
        logging.warning(
            "The best learning rate of %s, %s, lies at the edge of the grid. Extend "
            "the grid there; finished runs are kept.",
            name,
            best[name],
        )
    tuned = tuple(
        dataclasses.replace(rule, learning_rate=best[rule.name]) for rule in pool
    )
    seeds = sorted({record["seed"] for record in found})
    source = [
        f"Learning rates found by grid search on {task.name} ({task.dataset.name}):",
        f"lowest validation loss after {epochs} epochs, mean over seeds {seeds}.",
        f"Grid: {', '.join(map(str, rates))}.",
        f"Preset {preset}; warm-up of {warmup_steps} SGD steps at "
        f"{warmup_learning_rate}.",
    ]
    files.write_text(folder / POOL_FILE, pool_gin(tuned, losses, at_edge, source))
    return GridSearch(tuned, losses, at_edge)


# What stands in the table where there is none: of runs that failed, or that diverged.
_NO_LOSS = {True: "missing", False: "diverged"}


def table(losses, title, epsilons=None) -> str:
    """Returns teachers × learning rates as Markdown, the best of each in bold.

    Args:
        losses: see `GridSearch`.
        title: what the numbers are.
        epsilons: of a private optimizee, teacher → text; makes a last column.
    """
    rates = list(next(iter(losses.values())))
    rows = [["teacher", *map(str, rates), *(["epsilon"] if epsilons else [])]]
    for name, by_rate in losses.items():
        cells = {
            rate: f"{loss:.4g}" if math.isfinite(loss) else _NO_LOSS[math.isnan(loss)]
            for rate, loss in by_rate.items()
        }
        finite = [rate for rate, loss in by_rate.items() if math.isfinite(loss)]
        if finite:
            best = min(finite, key=by_rate.__getitem__)
            cells[best] = f"**{cells[best]}**"
        rows.append([name, *cells.values(), *([epsilons[name]] if epsilons else [])])
    note = f" {PRIVATE_NOTE}" if epsilons else ""
    return f"{title}, by learning rate.{note}\n\n{records.markdown(rows)}\n"


def pool_gin(pool, losses, at_edge, source) -> str:
    """Returns a .gin file that makes `amalgamate` use these teachers.

    All hyperparameters that are not a rule's defaults are bound, so that the teachers
    are what was tuned under any preset. A Keras optimizer becomes a macro for
    evaluations, `%tuned_AdamW` say.
    """
    lines = [f"# {line}" for line in source]
    for rule in pool:
        loss = losses[rule.name][rule.learning_rate]
        note = "; at the edge of the grid" if rule.name in at_edge else ""
        ours = not isinstance(rule, KerasOptimizer)
        scope = f"rules.{rule.name}" if ours else f"{rule.name}/KerasOptimizer"
        lines += [
            "",
            f"# validation loss {loss:.4g}{note}",
            f"{scope}.learning_rate = {rule.learning_rate!r}",
        ]
        for field in dataclasses.fields(rule):
            value = getattr(rule, field.name)
            if field.name != "learning_rate" and value != field.default:
                lines.append(f"{scope}.{field.name} = {value!r}")
        if isinstance(rule, KerasOptimizer):
            lines.append(f"tuned_{rule.name} = @{rule.name}/KerasOptimizer()")
    teachers = [rule for rule in pool if not isinstance(rule, KerasOptimizer)]
    if teachers:
        references = [f"    @rules.{rule.name}()," for rule in teachers]
        lines += ["", "amalgamate.teachers = [", *references, "]"]
    return "\n".join(lines) + "\n"


def _pool(teachers, preset):
    keras, others = [], teachers
    if not isinstance(teachers, str):
        keras = [_keras(one) for one in teachers if _keras(one)]
        others = [one for one in teachers if not _keras(one)]
    pool = (*(rules.make_pool(others, preset) if others or not keras else ()), *keras)
    names = [rule.name for rule in pool]
    for name in names[: len(pool) - len(keras)]:
        if name not in rules.TEACHERS:
            raise ValueError(
                f"{name} is a rule that .gin files do not know, so {POOL_FILE} could "
                f"not hold it. Teachers of a grid search: {', '.join(rules.TEACHERS)}."
            )
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"{name} stands twice among the teachers ({', '.join(names)}); a grid "
                "search tunes each once. Search the other in a workdir of its own."
            )
    return pool


def _keras(given):
    """Returns the Keras optimizer that is meant, or None."""
    if isinstance(given, str) and given.startswith(KERAS):
        return KerasOptimizer(given.removeprefix(KERAS))
    return given if isinstance(given, KerasOptimizer) else None


def _grid(learning_rates):
    """Returns the rates in ascending order."""
    rates = list(learning_rates)
    if not rates:
        raise ValueError("A grid search needs at least one learning rate; got none.")
    for rate in rates:
        check_number("A learning rate of the grid", rate, above=True)
    if len(set(rates)) < len(rates):
        raise ValueError(f"A learning rate stands twice in the grid: {rates}.")
    return sorted(map(float, rates))


def _label(name, rate):
    return f"{name}-{rate}"


def _those_of(task, seeds, folder):
    """Returns the records that there are of a search some of whose runs failed."""
    found = records.read_all(folder)
    return [r for r in found if r["task"] == task.name and r["seed"] in several(seeds)]


def _runs(found, name, rate):
    return [r for r in found if r["optimizer"] == _label(name, rate)]


def _loss(runs):
    """Returns the mean loss over seeds; infinite where one of them diverged."""
    if any(run["diverged"] for run in runs):
        return math.inf
    return statistics.fmean(run["curves"]["val_loss"][-1] for run in runs)


def _epsilons(found, losses):
    """Returns teacher → the largest epsilon of its runs; None without privacy."""
    if not any("privacy" in run for run in found):
        return None
    labels = {name: {_label(name, r) for r in rates} for name, rates in losses.items()}
    return {
        name: records.epsilon(mine) if mine else ""
        for name, mine in (
            (name, [run for run in found if run["optimizer"] in those])
            for name, those in labels.items()
        )
    }


def _best(name, by_rate):
    rate = min(by_rate, key=by_rate.__getitem__)
    if math.isinf(by_rate[rate]):
        raise RuntimeError(
            f"Every learning rate of {name} diverged: {', '.join(map(str, by_rate))}. "
            "Extend the grid downwards; finished runs are kept."
        )
    return rate


def _at_edge(rate, rates):
    return len(rates) > 1 and rate in (rates[0], rates[-1])
