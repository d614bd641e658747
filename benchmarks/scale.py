"""A plan of 100,000 jobs and a report of 10,000 records: seconds and memory.

    python benchmarks/scale.py

Records are one real run's, with made-up losses; nothing is trained beside that run. All
has a process of its own.
"""

import copy
import math
import os
import random
import resource
import tempfile
import time

# As `amalgam-report` does, before NumPy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import measuring
from measuring import Ratio

import tf_amalgam
from tf_amalgam import campaign, jobs, rates, recipe, records, reporting, tasks

RECIPE = "gin_configs/experiments/paper_full.gin"
LINES = ("campaign.replicates = 82", "campaign.runs_per_job = 1")
POOL = ("adam", "rmsprop", "sgd", "momentum", "addsign", "powersign")
STUDENTS, REPLICATES, SEEDS, OPTIMIZEES, EPOCHS = 12, 8, 10, 10, 25


def megabytes():
    """Returns the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def planned(folder):
    """Returns how many jobs were written and summed up, in how many seconds."""
    began = time.perf_counter()
    what = recipe.read([RECIPE], LINES)
    jobs.write(campaign.planned(what, folder), f"{folder}/{jobs.FILE}")
    hours = rates.hours(what, folder)
    found = campaign.groups(campaign.planned(what, folder), hours)
    return sum(group.jobs for group in found), time.perf_counter() - began


def made_up(folder):
    """Writes as many records as the paper's protocol has; returns how many."""
    task = tasks.mlp(dataset="digits", hidden=(20,), batch_size=64, name="real")
    terms = {"seeds": [0], "epochs": 1, "warmup_steps": 0, "progress": False}
    (real,) = tf_amalgam.evaluate(["adam"], task, workdir=f"{folder}/real", **terms)
    numbers, count = random.Random(0), 0
    students = [f"student-{i}" for i in range(STUDENTS)]
    for j in range(OPTIMIZEES):
        for label in (*POOL, *students):
            known = label in POOL
            for replicate in range(1 if known else REPLICATES):
                for seed in range(SEEDS):
                    record = copy.deepcopy(real)
                    del record["format"], record["version"]
                    scale = math.exp(numbers.gauss(0.0, 0.1))
                    losses = [
                        scale / (1 + e) * math.exp(numbers.gauss(0.0, 0.05))
                        for e in range(EPOCHS)
                    ]
                    record["curves"] = {
                        **dict.fromkeys(("loss", "val_loss"), losses),
                        **dict.fromkeys(("accuracy", "val_accuracy"), [0.9] * EPOCHS),
                    }
                    record["test"] = record["test_at_best"] = {
                        "loss": losses[-1],
                        "accuracy": 0.9,
                    }
                    record["settings"]["epochs"] = EPOCHS
                    record["optimizer_config"] = {"class": label}
                    record |= {
                        "task": f"T{j}",
                        "optimizer": label,
                        "replicate": replicate,
                        "seed": seed,
                        "kind": "analytic" if known else "learned",
                        "batch_losses": [0.1] * 1000,
                    }
                    where = (f"T{j}", label, seed, replicate)
                    records.write(records.record_path(f"{folder}/many", *where), record)
                    count += 1
    return count


def measure():
    """Returns counts, seconds and megabytes of both, and those of the page."""
    with tempfile.TemporaryDirectory() as folder:
        before = megabytes()
        count, seconds = planned(folder)
        plan = {"count": count, "s": seconds, "MB": megabytes() - before}
        count = made_up(folder)
        before, began = megabytes(), time.perf_counter()
        page = reporting.write_report(f"{folder}/many")
        seconds = time.perf_counter() - began
        size = page.stat().st_size / 2**20
        more = megabytes() - before
    return plan, {"count": count, "s": seconds, "MB": more, "page": size}


def report(options):
    """Prints both; returns their seconds."""
    plan, page = measuring.child(__file__, "measure")
    jobs_planned = f"{plan['count']:,} jobs planned"
    reported = f"a report of {page['count']:,} records"
    print(f"{jobs_planned} in {plan['s']:.1f} s, {plan['MB']:.0f} MB more than before")
    print(
        f"{reported} in {page['s']:.1f} s, {page['MB']:.0f} MB more; its page has "
        f"{page['page']:.1f} MB"
    )
    return [
        Ratio(f"{jobs_planned}, s", "", plan["s"], None, 10, 15, False),
        Ratio(f"{reported}, s", "", page["s"], None, 40, 60, False),
    ]


def parser():
    """Returns what reads the command line."""
    return measuring.parser(__doc__)


if __name__ == "__main__":
    measuring.command(parser, report, measure)
