"""Minutes of meta-training until a student is level with its better teacher.

    python benchmarks/time_to_quality.py --data_dir /path/to/tfds

Each recipe is a .gin file of `amalgamate`; the first is what the others are compared
with. Whenever a recipe validates a better student, that one trains fresh optimizees of
the first recipe for five epochs, seed by seed. It is level when the mean of its final
validation losses is no more than a standard error above that of the better teacher of
the first recipe; there the recipe is stopped. What the looks at the student take does
not count. The first recipe runs last, and no longer than it takes to know that the
others reach the goal. An hour or more on two cores; run it on a quiet machine.
"""

import math
import statistics
import time

import measuring
from measuring import Ratio
from tf_amalgam_launch import processors

RECIPES = ("mnist_min_max_small", "mnist_min_max_small_fast")
EXPERIMENTS = "gin_configs/experiments"
HOPELESS = 1.25  # times the better teacher's loss: no further seed is looked at
GOAL, FLOOR = 0.5, 0.75
COLUMNS = ("recipe", "update", "minutes", "validation", "its student's loss", "level")
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


class Known(Exception):
    """What a recipe is run for is known."""


def final_losses(make, task, seeds, epochs, hopeless=math.inf):
    """Returns the final validation loss of each seed; infinite if it diverged.

    Args:
        make: returns a fresh optimizer.
        hopeless: after a higher loss no further seed is tried.
    """
    from tf_amalgam.trial import train_once

    found = []
    for seed in seeds:
        record = train_once(make(), task, seed, epochs)
        last = record["curves"]["val_loss"][-1]
        found.append(math.inf if record["diverged"] else last)
        if found[-1] > hopeless:
            break
    return found


def is_level(ours, theirs):
    """Returns whether a mean is at most a standard error above the other."""
    if len(ours) < len(theirs) or not all(map(math.isfinite, ours)):
        return False
    several = len(ours) > 1
    variances = [statistics.variance(v) if several else 0.0 for v in (ours, theirs)]
    error = math.sqrt(sum(variances) / len(ours))
    return statistics.mean(ours) <= statistics.mean(theirs) + error


class Looks:
    """What students are held against: the better teacher on fresh optimizees."""

    def __init__(self, trainer, seeds, epochs):
        from tf_amalgam import rules

        self.task, self.seeds, self.epochs = trainer.task, seeds, epochs
        self.warm_up = {
            "warmup_steps": trainer.settings.warmup_steps,
            "warmup_learning_rate": trainer.settings.warmup_learning_rate,
        }
        student, teachers, weights = trainer.players
        if isinstance(student, rules.Choice):  # trained before the recipe's student
            teachers = student.pool
            weights = tuple({} for _ in teachers)
        if not teachers:
            raise ValueError(
                "The first recipe has no teachers to be level with; give one that has "
                "some first."
            )
        pairs = zip(teachers, weights, strict=True)
        found = {rule.name: self.look(rule, fixed) for rule, fixed in pairs}
        self.name = min(found, key=lambda name: statistics.mean(found[name]))
        self.losses = found[self.name]
        told = "; ".join(f"{name} {_told(losses)}" for name, losses in found.items())
        print(f"{self.task.name}, {epochs} epochs: {told}.\n\n{HEAD}", flush=True)

    def look(self, rule, weights, hopeless=math.inf):
        """Returns final validation losses of an optimizer."""
        from tf_amalgam.optimizers import optimizer_for

        def make():
            return optimizer_for(rule, weights, **self.warm_up)

        return final_losses(make, self.task, self.seeds, self.epochs, hopeless)


def _told(losses):
    each = ", ".join(f"{loss:.4f}" for loss in losses)
    return f"{statistics.mean(losses):.4f} ({each})"


def looks_of(recipe, options):
    """Returns the `Looks` of a recipe."""
    from tf_amalgam import meta_train

    found = []

    class Asked(meta_train.Trainer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            found.append(Looks(self, options.seeds, options.epochs))
            raise Known

    run(recipe, Asked, options)
    return found[0]


def watched(recipe, looks, options, rows, enough=math.inf):
    """Returns a `Trainer` that looks at its students and stops at a level one.

    Args:
        recipe: its name.
        looks: `Looks` of the first recipe.
        rows: list that a dict is added to at each validation.
        enough: minutes after which it stops, too.
    """
    from tf_amalgam import meta_train, rules

    spent = []  # seconds, those of a Choice rule that is trained before included

    class Watched(meta_train.Trainer):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.looked_at = 0  # meta-updates of that student
            self.a_teacher = isinstance(self.players.student, rules.Choice)

        def step(self, state):
            return self._timed(super().step, state)

        def validate(self, state):
            state = self._timed(super().validate, state)
            losses: list = []
            if not self.a_teacher and state.best_updates != self.looked_at:
                self.looked_at = state.best_updates
                hopeless = HOPELESS * statistics.mean(looks.losses)
                best = state.best.weights
                losses = looks.look(self.players.student, best, hopeless)
            row = {
                "recipe": recipe,
                "minutes": sum(spent) / 60.0,
                "update": state.updates,
                "validation": state.validations[-1]["score"],
                "losses": losses,
                "level": is_level(losses, looks.losses),
            }
            rows.append(row)
            print(_line(row), flush=True)
            if row["level"] or row["minutes"] > enough:
                raise Known
            return state

        def _timed(self, function, state):
            began = time.perf_counter()
            try:
                return function(state)
            finally:
                spent.append(time.perf_counter() - began)

    return Watched


def _line(row):
    losses = _told(row["losses"]) if row["losses"] else "no better one"
    told = "yes" if row["level"] else "no"
    return (
        f"| {row['recipe']} | {row['update']} | {row['minutes']:.1f} | "
        f"{row['validation']:+.2f} | {losses} | {told} |"
    )


def run(recipe, trainer, options):
    """Runs a recipe with a `Trainer` of another class, until all is known."""
    from tf_amalgam import bindings, experiment

    usual = experiment.Trainer
    experiment.Trainer = trainer
    try:
        bindings.parse(
            [recipe if recipe.endswith(".gin") else f"{EXPERIMENTS}/{recipe}.gin"],
            [f"data_dir = {options.data_dir!r}", *options.gin_bindings],
        )
        bindings.amalgamate(progress=False)
    except Known:
        pass
    finally:
        experiment.Trainer = usual


def minutes_to_level(recipe, looks, options, enough=math.inf):
    """Returns minutes until the student is level, or `enough` if it takes longer."""
    rows: list = []
    run(recipe, watched(recipe, looks, options, rows, enough), options)
    return min(rows[-1]["minutes"], enough) if rows[-1]["level"] else enough


def report(options):
    """Prints a line for each validation; returns the ratios to the first recipe."""
    first, *others = options.recipes
    looks = looks_of(first, options)
    minutes = {name: minutes_to_level(name, looks, options) for name in others}
    known = [spent for spent in minutes.values() if spent < math.inf]
    enough = max(known) / GOAL if known else math.inf
    whole = minutes_to_level(first, looks, options, enough)
    return [
        Ratio(
            f"minutes until level with {looks.name}, {name}",
            f"{first}, stopped there" if whole == enough < math.inf else first,
            spent / whole,
            None,
            GOAL,
            FLOOR,
            False,
        )
        for name, spent in minutes.items()
    ]


def parser():
    """Returns what reads the command line."""
    found = measuring.parser(__doc__)
    found.add_argument("--data_dir", help="folder of prepared TFDS data sets")
    found.add_argument(
        "--recipes",
        nargs="+",
        default=list(RECIPES),
        help=f".gin files, or names of some in {EXPERIMENTS}",
    )
    found.add_argument("--gin_bindings", nargs="*", default=[], help="for all recipes")
    found.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    found.add_argument("--epochs", type=int, default=5)
    return found


if __name__ == "__main__":
    processors.set_up()  # as `amalgamate` does
    measuring.command(parser, report)
