"""Training fresh optimizees with any optimizer through `model.compile` and `fit`."""

import json
import math
import pathlib
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from tf_amalgam import data, files, plots, records
from tf_amalgam.lineup import labelled, lineup
from tf_amalgam.numerics import derive_seed
from tf_amalgam.sweep import Job, sweep

# Steps left out of the timing: tracing and first allocations.
UNTIMED_STEPS = 5
SAMPLES_FILE = "datasets.png"


def evaluate(
    optimizers,
    tasks,
    *,
    workdir,
    baselines=(),
    seeds=(0, 1, 2),
    epochs: int = 5,
    warmup_steps: int = 100,
    warmup_learning_rate: float = 0.01,
    preset: str = "paper",
    progress: bool = True,
    write_report: bool = True,
) -> list[dict]:
    """Trains every optimizee with every optimizer and seed; returns the records.

    All optimizers get equal terms: per seed the same initial weights, the same
    order of minibatches and the same warm-up (Huang et al. 2022, B.3). A run whose
    record exists is not run again, so an interrupted evaluation continues, and
    processes that are given the same folder divide the work.

    Args:
        optimizers: dict of label → optimizer, or a sequence of optimizers with names
            of their own; names, paths, folders of replicates, rules, functions that
            return a Keras optimizer (see `lineup.lineup`).
        baselines: more of them, so that a .gin file can hold these and a binding the
            students.
        tasks: a `Task` or a sequence of them.
        workdir: folder of the records; `table.md` and `curves.png` are made from
            them.
        seeds: whole numbers, one evaluation each of every replicate.
        epochs: passes over the training data, the warm-up's steps included.
        warmup_steps, warmup_learning_rate: the warm-up of every optimizer.
        preset: hyperparameters of analytic optimizers given by name.
        progress: whether to show one progress bar over all runs.
        write_report: whether to make `table.md` and `curves.png`.

    Raises:
        ValueError: for an unknown optimizer, two optimizees or optimizers of one
            name, or a record made with other settings, hyperparameters or weights;
            before any work starts.
        RuntimeError: naming the runs that failed, after all others have ended.
        OSError: naming a record that cannot be written (a full disk, say).
    """
    tasks = [tasks] if not isinstance(tasks, (list, tuple)) else list(tasks)
    names = [task.name for task in tasks]
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"Optimizees need distinct names; received {names}.")
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs must be a whole number from 1, received {epochs!r}.")
    seeds = [seeds] if isinstance(seeds, int) else list(seeds)
    if not seeds:
        raise ValueError("evaluate needs at least one seed; received none.")
    terms = {
        "epochs": epochs,
        "warmup_steps": warmup_steps,
        "warmup_learning_rate": warmup_learning_rate,
        "preset": preset,
    }
    contestants = lineup(
        {**labelled(baselines), **_others(optimizers, baselines)},
        preset=preset,
        warmup_steps=warmup_steps,
        warmup_learning_rate=warmup_learning_rate,
    )
    # All optimizers of a seed follow one another: an unfinished evaluation compares.
    runs = [
        (task, seed, one) for task in tasks for seed in seeds for one in contestants
    ]
    jobs = [
        Job(
            records.record_path(workdir, task.name, one.label, seed, one.replicate),
            f"{one.title} on {task.name}, seed {seed}",
        )
        for task, seed, one in runs
    ]
    if len({job.path for job in jobs}) < len(jobs):
        raise ValueError(
            "Two optimizers or optimizees would share records: their names "
            f"({', '.join({one.label for one in contestants})}; {', '.join(names)}) or "
            f"seeds ({seeds}) differ in nothing that a file name can hold."
        )
    for job, (task, _, one) in zip(jobs, runs, strict=True):
        _check_record(job.path, {**one.config, **terms, "task": task.describe()})

    def run(index):
        task, seed, one = runs[index]
        about = {
            "optimizer": one.label,
            "replicate": one.replicate,
            "kind": one.kind,
            "trained": one.trained,
            "settings": {**terms, "task": task.describe()},
            "optimizer_config": one.config,
        }
        record = {**train_once(one.make(), task, seed, epochs), **about}
        files.write_json(jobs[index].path, records.stamped(record), indent=None)

    records.remember_order(workdir, names, [one.label for one in contestants])
    _draw_samples(tasks, workdir)
    sweep(jobs, run, workdir, progress=progress, description="evaluating")
    found = [records.read(job.path) for job in jobs]
    if write_report:
        report(found, workdir)
    return found


def _others(optimizers, baselines):
    """Returns the optimizers by label, none of which may be a baseline's."""
    found, known = labelled(optimizers), labelled(baselines)
    if both := sorted(found.keys() & known.keys()):
        raise ValueError(
            f"Optimizers and baselines share a label: {', '.join(both)}. Pass a dict "
            "of label → optimizer."
        )
    return found


def _draw_samples(tasks, folder):
    """Draws examples of the data sets that are images; records alone do not say."""
    images = {
        task.dataset.name: task.dataset.train.x[:8]
        for task in tasks
        if task.dataset.train.x.dtype == np.uint8 and task.dataset.train.x.ndim == 4
    }
    if images:
        plots.samples(images, pathlib.Path(folder) / SAMPLES_FILE)


def report(found, folder):
    """Writes `table.md` and `curves.png` of these records into a folder."""
    folder = pathlib.Path(folder)
    files.write_text(folder / "table.md", records.table(found) + "\n")
    plots.learning_curves(found, folder / "curves.png")


def train_once(optimizer, task, seed, epochs) -> dict:
    """Trains one fresh optimizee; returns its record.

    Curves hold one value per epoch: training loss, validation loss, and the task's
    metrics. `test` is measured once, at the end; a private task's record says under
    `privacy` what epsilon the steps have spent. A run whose loss stops being
    finite ends there and says `diverged`; `start_loss` is the validation loss of
    the initial weights, which tells whether a run learned at all.
    """
    model = task.training_model(derive_seed(seed, "initial", task.name))
    model.compile(optimizer=optimizer, **task.compile_arguments())
    batch_size, dataset = task.batch_size, task.dataset
    per_epoch = len(dataset.train.x) // batch_size
    indices = data.batch_indices(
        len(dataset.train.x),
        batch_size,
        derive_seed(seed, "minibatches", task.name),
        0,
        per_epoch * epochs,
    )
    x, y = (tf.constant(part) for part in dataset.train)
    batches = tf.data.Dataset.from_tensor_slices(indices).map(
        lambda index: (tf.gather(x, index), tf.gather(y, index))
    )
    watch = _Watch()
    held_out = tuple(dataset.validation)
    options = {"batch_size": 1000, "verbose": 0, "return_dict": True}
    start = model.evaluate(*held_out, **options)["loss"]
    started = time.perf_counter()
    history = model.fit(
        batches.prefetch(2),
        epochs=epochs,
        steps_per_epoch=per_epoch,
        shuffle=False,
        validation_data=held_out,
        validation_batch_size=1000,
        callbacks=[watch, keras.callbacks.TerminateOnNaN()],
        verbose=0,
    )
    seconds = time.perf_counter() - started
    curves = {k: [_json(v) for v in values] for k, values in history.history.items()}
    diverged = not all(math.isfinite(v) for v in curves["loss"] + curves["val_loss"])
    test = {}
    if not diverged:
        test = model.evaluate(*dataset.test, **options)
    steps = watch.seconds[UNTIMED_STEPS:] or watch.seconds
    privacy = task.privacy_report(len(watch.losses))
    return {
        "task": task.name,
        "seed": seed,
        "start_loss": _json(start),
        "curves": curves,
        "test": {k: _json(v) for k, v in test.items()},
        "batch_losses": [float(f"{v:.7g}") for v in watch.losses],  # all of a float32
        "diverged": diverged,
        "seconds": seconds,
        "steps_per_epoch": per_epoch,
        "step_milliseconds": 1e3 * statistics.median(steps),
        "versions": records.versions(),
        **({"privacy": privacy} if privacy else {}),
    }


class _Watch(keras.callbacks.Callback):
    """Takes each minibatch's own loss and time."""

    def __init__(self):
        super().__init__()
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch, logs=None):
        self._total = 0.0
        self._count = 0

    def on_train_batch_begin(self, batch, logs=None):
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        # Keras reports the epoch's running mean; take the last term out of it.
        self._count += 1
        total = logs["loss"] * self._count
        self.losses.append(total - self._total)
        self._total = total
        self.seconds.append(time.perf_counter() - self._began)


def _check_record(path, settings):
    """Raises ValueError if a record was made with other settings."""
    if not path.is_file():
        return
    record = records.read(path)
    found = {**record["optimizer_config"], **record["settings"]}
    settings = json.loads(json.dumps(settings))  # tuples are lists in a record
    # Keras numbers names, and another version of it may know other options.
    known = settings.keys() & found.keys() - {"name"}
    different = [k for k in sorted(known) if found[k] != settings[k]]
    if different:
        text = "; ".join(
            f"{k}: {found.get(k)} there, {settings[k]} here" for k in different
        )
        raise ValueError(
            f"{path} was made with other settings ({text}). Use another workdir, or "
            "remove that record."
        )


def _json(value):
    return float(np.float64(value))
