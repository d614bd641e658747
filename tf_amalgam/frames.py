"""Records of evaluations as data frames, for statistics and figures; no TensorFlow."""

import itertools
import math

import numpy as np
import pandas as pd

from tf_amalgam import stats

# Logarithms of losses that reached zero stop here.
TINY = float(np.finfo("float32").tiny)

# Figures of a run, from its record; NaN in all where it diverged.
FIGURES = (
    "best_val_loss",
    "log_best_val_loss",
    "final_val_loss",
    "train_loss",
    "log_train_loss",
    "best_val_accuracy",
    "test_loss",
    "log_test_loss",
    "test_accuracy",
    "test_at_best_loss",
    "log_test_at_best_loss",
    "test_at_best_accuracy",
    "stability",
    "log_stability",
)


def runs(records) -> pd.DataFrame:
    """Returns one row per record.

    Columns: what the run was (`task`, `optimizer`, `replicate`, `seed`, `kind`), how it
    ended (`diverged`: its loss did not stay finite; `learned`: its best validation loss
    is below that of the initial weights, and of a net that always says the same, where
    that is known), `FIGURES`, times, privacy, and, of students,
    how they were trained. `test_…` is of the last epoch's weights, `test_at_best_…` of
    those of the epoch that validates best, as `best_val_loss` is.
    """
    rows = [_row(record) for record in records]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["task", "optimizer"])


def _row(record):
    curves = record["curves"]
    best = min(curves["val_loss"], default=math.nan)
    figures = dict.fromkeys(FIGURES, math.nan)
    test, at_best = record["test"], record["test_at_best"]
    if not record["diverged"]:
        logarithm = {
            name: _log(loss)
            for name, loss in (
                *(("best", best), ("train", curves["loss"][-1])),
                ("test", test.get("loss", math.nan)),
                ("test_at_best", at_best.get("loss", math.nan)),
            )
        }
        figures |= {
            "best_val_loss": best,
            "log_best_val_loss": logarithm["best"],
            "final_val_loss": curves["val_loss"][-1],
            "train_loss": curves["loss"][-1],
            "log_train_loss": logarithm["train"],
            "best_val_accuracy": max(curves.get("val_accuracy", [math.nan])),
            "test_loss": test.get("loss", math.nan),
            "log_test_loss": logarithm["test"],
            "test_accuracy": test.get("accuracy", math.nan),
            "test_at_best_loss": at_best.get("loss", math.nan),
            "log_test_at_best_loss": logarithm["test_at_best"],
            "test_at_best_accuracy": at_best.get("accuracy", math.nan),
            "stability": stats.optimization_stability(curves["val_loss"]),
            "log_stability": stats.optimization_stability(
                np.maximum(curves["val_loss"], TINY), "log"
            )
            if best >= 0.0
            else math.nan,
        }
    trained, privacy = record["trained"], record.get("privacy", {})
    return {
        **{key: record[key] for key in ("task", "optimizer", "replicate", "seed")},
        "kind": record["kind"],
        "diverged": record["diverged"],
        "learned": bool(not record["diverged"] and best < _to_beat(record)),
        **figures,
        "epochs": len(curves["val_loss"]),
        "milliseconds": record["step_milliseconds"],
        "seconds": record["seconds"],
        "load": record["load"],
        "epsilon": _epsilon(privacy),
        "delta": math.nan if privacy.get("delta") is None else privacy["delta"],
        "trained_on": trained.get("task", ""),
        "student": trained.get("student", ""),
        "scheme": trained.get("scheme", ""),
        "teachers": ", ".join(trained.get("teachers", ())),
        "amalgamated": amalgamated(trained),
        "perturbation": (trained.get("perturbation") or {}).get("kind", ""),
        "radius": (trained.get("perturbation") or {}).get("radius", 0.0),
        "input_noise": trained.get("input_noise", 0.0),
        "begun_from": trained.get("begun_from", ""),
        "meta_updates": trained.get("meta_updates", math.nan),
        "training_hours": trained.get("seconds", math.nan) / 3600.0,
    }


def amalgamated(trained) -> bool:
    """Whether several teachers were combined: by a Choice rule, or all beside it."""
    return trained.get("scheme") == "choice" or len(trained.get("teachers") or ()) > 1


def _log(loss):
    """Returns a loss' logarithm: that of the least number for 0, NaN below it."""
    return math.nan if loss < 0.0 else math.log(max(loss, TINY))


def _to_beat(record):
    """Returns the loss below which a run has learned; records of before know less."""
    constant = record.get("constant_loss")
    # Nets that always say the same come this near, by rounding.
    known = math.inf if constant is None else (1.0 - 1e-5) * constant
    return min(record["start_loss"], known)


def optimizees(records) -> pd.DataFrame:
    """Returns one row per optimizee: data set, parameters, minibatch (Table 1)."""
    rows = {}
    for record in records:
        told = record["settings"]["task"]
        rows[record["task"]] = {
            "task": record["task"],
            "dataset": told["dataset"],
            "parameters": sum(math.prod(shape) for shape in told["shapes"]),
            "batch_size": told["batch_size"],
            "examples": told["examples"][0],
            "private": "privacy" in record,
        }
    return pd.DataFrame(list(rows.values()))


def curves(records) -> pd.DataFrame:
    """Returns one row per run and epoch, of the runs that did not diverge."""
    rows = []
    for record in records:
        if record["diverged"]:
            continue
        found = record["curves"]
        accuracy = found.get("val_accuracy", [math.nan] * len(found["val_loss"]))
        for epoch, values in enumerate(
            zip(found["loss"], found["val_loss"], accuracy, strict=True), 1
        ):
            rows.append(
                {
                    **{k: record[k] for k in ("task", "optimizer")},
                    **{k: record[k] for k in ("replicate", "seed")},
                    "epoch": epoch,
                    **dict(
                        zip(("loss", "val_loss", "val_accuracy"), values, strict=True)
                    ),
                }
            )
    return pd.DataFrame(rows)


def pool_of(frame) -> list[str]:
    """Returns the analytic optimizers' labels: the pool, unless said otherwise."""
    return list(dict.fromkeys(frame.loc[frame["kind"] == "analytic", "optimizer"]))


def oracle(frame, pool) -> dict[str, str]:
    """Returns the oracle of each optimizee: the pool's best (Huang et al. 2022, 5).

    Best is the lowest mean over runs of the best validation loss; an optimizer of which
    a run diverged on an optimizee is not its oracle, nor is one of which a replicate
    lacks a seed that another optimizer has there. An optimizee of which nobody is left
    has no oracle.
    """
    found = {}
    for task, means in _means(frame, pool).items():
        if whole := {k: v for k, v in means.items() if not math.isnan(v)}:
            found[task] = min(whole, key=whole.__getitem__)
    return found


def left_out(frame, pool) -> dict[str, list[str]]:
    """Returns who cannot be the oracle, label → optimizees, where another one is."""
    found: dict[str, list[str]] = {}
    for task, means in _means(frame, pool).items():
        lacking = [label for label, mean in means.items() if math.isnan(mean)]
        for label in lacking if len(lacking) < len(means) else ():
            found.setdefault(label, []).append(task)
    return found


def _means(frame, pool):
    """Returns optimizee → label → mean best loss, NaN for who lacks or lost a run."""
    found: dict[str, dict[str, float]] = {}
    replicates = frame.groupby("optimizer")["replicate"].agg(set)
    for task, here in frame[frame["optimizer"].isin(pool)].groupby("task", sort=False):
        seeds, means = set(here["seed"]), found.setdefault(task, {})
        for label in pool:
            runs_ = here[here["optimizer"] == label]
            there = set(zip(runs_["replicate"], runs_["seed"], strict=True))
            whole = there >= set(itertools.product(replicates[label], seeds))
            # A diverged run has no loss.
            mean = runs_["best_val_loss"].mean(skipna=False)
            means[label] = mean if whole else math.nan
    return found


def reference_of(frame) -> str | None:
    """Returns the amalgamated optimizer that does best, or the best learned one.

    Where there is none, it is the best Choice rule. Best has runs on the most
    optimizees, then the least share that diverged, then the lowest log validation loss
    against the others: the mean over optimizees of the difference from the mean of the
    optimizee's runs of that seed.
    """
    learned = frame[frame["kind"] == "learned"]
    combined, mixing = learned[learned["amalgamated"]], frame[frame["kind"] == "choice"]
    several = [part for part in (combined, learned, mixing) if len(part)]
    return _best(several[0], "optimizer") if several else None


def trained_on(frame) -> str:
    """Returns the optimizee on which most students were trained, or the first one."""
    students = frame.drop_duplicates("optimizer")
    tasks = students.loc[students["trained_on"].isin(set(frame["task"])), "trained_on"]
    return str(tasks.mode()[0] if len(tasks) else frame["task"].iloc[0])


def best_replicate(frame, label) -> int:
    """Returns the replicate of a label that does best (see `reference_of`)."""
    return int(_best(frame[frame["optimizer"] == label], "replicate"))


def _best(frame, column):
    # Some seeds are easier than others, and not all optimizers may have all.
    above = frame["log_best_val_loss"] - frame.groupby(["task", "seed"])[
        "log_best_val_loss"
    ].transform("mean")
    table = frame.assign(above=above).groupby(column, sort=False)
    means = table.apply(lambda runs_: runs_.groupby("task")["above"].mean().mean())
    order = pd.DataFrame(
        {
            "tasks": -table["task"].nunique(),
            "diverged": table["diverged"].mean(),
            "mean": means,
        }
    )
    return order.sort_values(["tasks", "diverged", "mean"], kind="stable").index[0]


def with_oracle(frame, best, name="oracle") -> pd.DataFrame:
    """Returns the frame with the oracle's runs again, under its name."""
    rows = [
        frame[(frame["task"] == task) & (frame["optimizer"] == label)].assign(
            optimizer=name
        )
        for task, label in best.items()
    ]
    return pd.concat([frame, *rows], ignore_index=True) if rows else frame


def reaching(records, best) -> pd.DataFrame:
    """Returns how soon each optimizer reaches the oracle's loss.

    The oracle's loss on an optimizee is the mean over its runs of the best validation
    loss. A run's steps are those up to the end of the first epoch at or below it; its
    seconds are these steps at its median time of a step.

    Columns: `task`, `optimizer`, `runs`, `reached`, and the means over the runs that
    reached it of `steps` and `seconds`.
    """
    goals = {}
    for task, label in best.items():
        lowest = [
            min(r["curves"]["val_loss"])
            for r in records
            if (r["task"], r["optimizer"]) == (task, label) and not r["diverged"]
        ]
        goals[task] = sum(lowest) / len(lowest)
    rows = []
    for record in records:
        if record["task"] not in goals:
            continue
        goal = goals[record["task"]]
        losses = [] if record["diverged"] else record["curves"]["val_loss"]
        epoch = next((t for t, loss in enumerate(losses, 1) if loss <= goal), None)
        steps = math.nan if epoch is None else epoch * record["steps_per_epoch"]
        rows.append(
            {
                "task": record["task"],
                "optimizer": record["optimizer"],
                "steps": steps,
                "seconds": steps * record["step_milliseconds"] / 1e3,
            }
        )
    frame = pd.DataFrame(rows, columns=["task", "optimizer", "steps", "seconds"])
    return (
        frame.groupby(["task", "optimizer"], sort=False)
        .agg(
            runs=("steps", "size"),
            reached=("steps", "count"),
            steps=("steps", "mean"),
            seconds=("seconds", "mean"),
        )
        .reset_index()
    )


def verdicts(frame, opponent, value="log_test_at_best_loss") -> pd.DataFrame:
    """Returns how each optimizer stands against one opponent on each optimizee.

    `difference` is the mean of `value` minus the opponent's (below 0 is better), `low`
    and `high` its 95 % interval, and `verdict` "better" or "worse" where that leaves
    out 0, else "level" (`stats.difference`). The sample is the means of replicates
    where there are several (their evaluations are not independent), else the runs by
    seed. Equal seeds (or replicates) are paired where both have a value: `pairs` of
    them, `of` all that either ran; 0 where the two samples are compared as such;
    `unit` says whether these are seeds or replicates, "" where there is nothing to
    pair: replicates with seeds, or one replicate with another.
    `effect` is Hedges' g of runs. Where more runs
    diverged than of the opponent, the verdict is "diverged", whatever the others say;
    where there are fewer than two finite values it is "unknown".
    """
    rows = []
    for task, here in frame.groupby("task", sort=False):
        others = here[here["optimizer"] == opponent]
        for label, runs_ in here.groupby("optimizer", sort=False):
            if label == opponent or not len(others):
                continue
            found = stats.difference(_sample(runs_, value), _sample(others, value))
            found["unit"] = _unit(runs_) if _comparable(runs_, others) else ""
            found["effect"] = stats.effect_size(runs_[value], others[value])
            lost = int(runs_["diverged"].sum())
            if lost > others["diverged"].sum():
                found["verdict"] = "diverged"
            rows.append({"task": task, "optimizer": label, **found, "diverged": lost})
    return pd.DataFrame(rows)


def unpaired(row) -> str:
    """Returns in words how many were paired, of a row of `verdicts`; "" if all were."""
    nothing = not row["unit"] or math.isnan(row["difference"])
    if nothing or row["pairs"] == row["of"]:
        return ""
    return f"{row['pairs']:.0f} of {row['of']:.0f} {row['unit']}s"


def _comparable(runs_, others):
    """Whether runs may have partners: replicates both, or both of one replicate."""
    if _unit(runs_) != _unit(others):
        return False
    return _unit(runs_) == "replicate" or set(runs_["replicate"]) == set(
        others["replicate"]
    )


def _unit(frame):
    return "replicate" if frame["replicate"].nunique() > 1 else "seed"


def _sample(frame, value):
    """Returns means by replicate, or the runs of a single one by seed."""
    if _unit(frame) == "replicate":
        means = frame.groupby("replicate")[value].mean()  # NaN where all are
        # So that replicates of one are never paired with seeds of another.
        return means.rename(lambda key: ("replicate", key))
    # A seed says how weights begin for runs of replicates of one number alone.
    return frame.groupby(["replicate", "seed"])[value].mean()


def _epsilon(privacy):
    """Returns epsilon; infinite where a private run makes no claim."""
    if not privacy:
        return math.nan
    found = privacy.get("epsilon")
    return math.inf if found is None else found
