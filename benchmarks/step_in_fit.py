"""Time of a learned step in Keras' training step, by how that is called.

    python benchmarks/step_in_fit.py [--models Train …]

One training step as `fit` compiles it, called for each step, with a millisecond of
Python between two calls, by `fit`, and so many steps a call: what each takes above
SGD's, in time, and in that of all cores together (spinning threads counted). Says
whether a small model pays for the calls, or for the step. Run it on a quiet machine.
"""

import statistics
import time

import learned_step
import measuring

STEPS = 128  # of a turn
SEVERAL = 32  # steps a call
GAP = 1e-3  # seconds: what Keras' own callbacks take, and more
WAYS = ("a step a call", "1 ms of Python between", "`fit`", f"{SEVERAL} steps a call")


def stepped(model, name):
    """Returns a function: one of `WAYS` -> microseconds (of time, of cores) a step."""
    import tensorflow as tf
    from large_model import stopwatch

    make, shape = learned_step.models()[model]
    batch = learned_step.BATCH
    x, y, loss = learned_step.problem(shape, STEPS)
    given = tf.data.Dataset.from_tensors((x[:batch], y[:batch])).repeat()
    nets, iterators = {}, {}
    for steps in (1, SEVERAL):
        nets[steps] = make()
        nets[steps].compile(
            optimizer=learned_step.optimizer(name),
            loss=loss,
            steps_per_execution=steps,
        )
        whole = batch * SEVERAL
        nets[steps].fit(x[:whole], y[:whole], batch_size=batch, verbose=0)
        iterators[steps] = iter(given)

    def called(steps, gap):
        times = []
        for _ in range(STEPS // steps):
            began = time.perf_counter()
            nets[steps].train_function(iterators[steps])
            times.append((time.perf_counter() - began) / steps)
            while gap and time.perf_counter() - began < gap + steps * times[-1]:
                pass
        return times

    def fitted():
        clock = stopwatch()
        nets[1].fit(x, y, batch_size=batch, verbose=0, callbacks=[clock])
        return clock.times

    def step(way):
        steps = SEVERAL if way == WAYS[3] else 1
        gap = GAP if way == WAYS[1] else 0.0
        began = time.process_time()
        times = fitted() if way == WAYS[2] else called(steps, gap)
        of_cores = (time.process_time() - began) / STEPS
        return 1e6 * statistics.median(times), 1e6 * of_cores

    return step


def measure(model, turns):
    """Returns microseconds (of time, of cores) above SGD's by way, each turn's."""
    least, ours = (stepped(model, name) for name in ("SGD", "student"))
    found = {way: [] for way in WAYS}
    for n in range(turns):
        for way in WAYS if n % 2 == 0 else WAYS[::-1]:
            pair = (least, ours) if n % 2 == 0 else (ours, least)
            took = {step: step(way) for step in pair}
            found[way].append(
                [a - b for a, b in zip(took[ours], took[least], strict=True)]
            )
    return found


def report(options):
    """Prints the table; there is no goal of its own."""
    print("| model | called | µs above SGD | ns/parameter | µs of all cores |")
    print("|---" * 5 + "|")
    for model in options.models:
        make, _ = learned_step.models()[model]
        parameters = make().count_params()
        found = measuring.child(__file__, "measure", model, options.turns)
        for way, took in found.items():
            took, of_cores = (measuring.spread(one) for one in zip(*took, strict=True))
            each = [part and 1e3 * part / parameters for part in took]
            cells = (measuring.shown(*one, 0) for one in (took, each, of_cores))
            print(f"| {model} | {way} | {' | '.join(cells)} |", flush=True)
    return []


def parser():
    """Returns what reads the command line."""
    found = measuring.parser(__doc__)
    found.add_argument("--models", nargs="+", default=["Train"])
    found.add_argument("--turns", type=int, default=12)
    return found


if __name__ == "__main__":
    measuring.command(parser, report, measure)
