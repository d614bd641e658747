"""Which recorded trainings a guard would have called a climb of the loss.

    python benchmarks/climbs.py runs/evaluate_cpu [--climb 0.2]

Reads the records of an evaluation with the losses of all minibatches, and shows them to
`guard.with_loss`, all trainings of one length and warm-up at a time.
"""

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from tf_amalgam import records
from tf_amalgam.guard import Guard, Watch, from_here, with_loss


def climbs(found, guard):
    """Returns each record that climbed, with (step, average then, lowest before)."""
    alike: dict = {}
    for record in found:
        key = len(record["batch_losses"]), record["settings"]["warmup_steps"]
        alike.setdefault(key, []).append(record)
    step, seen = tf.function(lambda watch, loss: with_loss(guard, watch, loss)), []
    for (_, warmup_steps), several in alike.items():
        losses_RT = np.array([r["batch_losses"] for r in several], "float32")
        watch = Watch(*(tf.zeros(len(several)) for _ in Watch._fields))
        done_R = np.zeros(len(several), bool)
        for t, loss_R in enumerate(losses_RT.T):
            watch, _, climbed_R = step(watch, tf.constant(loss_R))
            watch = from_here(guard, watch, t + 1 == warmup_steps)
            for i in np.flatnonzero(climbed_R.numpy() & ~done_R):
                told = float(watch.average[i]), float(watch.best[i])
                seen.append((several[i], (t, *told)))
            done_R |= climbed_R.numpy()
    return seen


def main():
    """Prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="of the evaluation")
    parser.add_argument("--climb", type=float, default=Guard().climb)
    flags = parser.parse_args()
    found = records.read_all(flags.folder, batch_losses=True)
    if not found:
        sys.exit("There are no records in this folder. Run amalgam-evaluate first.")
    seen = climbs(found, Guard(climb=flags.climb))
    print(f"{len(seen)} of {len(found)} trainings climbed.")
    for record, (step, average, best) in seen:
        print(
            f"{record['task']}, {record['optimizer']}, seed {record['seed']}: "
            f"step {step}, average {average:.3f} after {best:.3f}"
        )


if __name__ == "__main__":
    main()
