"""Training fresh optimizees with any optimizer through `model.compile` and `fit`."""

import json
import math
import pathlib
import statistics
import time

import keras
import numpy as np
import tensorflow as tf
import tqdm

from tf_amalgam import data, files, plots, records, saved
from tf_amalgam.numerics import derive_seed
from tf_amalgam.optimizer import RuleOptimizer
from tf_amalgam.optimizers import optimizer_for
from tf_amalgam.rules.rule import AnalyticRule

# Steps left out of the timing: tracing and first allocations.
UNTIMED_STEPS = 5


def evaluate(
    optimizers,
    tasks,
    *,
    workdir,
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
    record exists is not run again, so an interrupted evaluation continues.

    Args:
        optimizers: dict of label → name or path as `tf_amalgam.load` takes them, an
            analytic rule, or a function without arguments that returns a fresh
            `RuleOptimizer`; or a sequence of names and paths.
        tasks: a `Task` or a sequence of them.
        workdir: folder of the records; `table.md` and `curves.png` are made from
            them.
        seeds: whole numbers, one run each.
        epochs: passes over the training data, the warm-up's steps included.
        warmup_steps, warmup_learning_rate: the warm-up of every optimizer.
        preset: hyperparameters of analytic optimizers given by name.
        progress: whether to show a progress bar.
        write_report: whether to make `table.md` and `curves.png`.

    Raises:
        ValueError: for an unknown optimizer, two optimizees or optimizers of one
            name, or a record made with other settings or hyperparameters; before
            any work starts.
    """
    tasks = [tasks] if not isinstance(tasks, (list, tuple)) else list(tasks)
    makers = _makers(optimizers, preset, warmup_steps, warmup_learning_rate)
    names = [task.name for task in tasks]
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"Optimizees need distinct names; received {names}.")
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs must be a whole number from 1, received {epochs!r}.")
    seeds = [seeds] if isinstance(seeds, int) else list(seeds)
    if not seeds:
        raise ValueError("evaluate needs at least one seed; received none.")
    jobs = [(task, label, seed) for task in tasks for seed in seeds for label in makers]
    terms = {
        "epochs": epochs,
        "warmup_steps": warmup_steps,
        "warmup_learning_rate": warmup_learning_rate,
        "preset": preset,
    }
    configs = {label: _brief(make().get_config()) for label, make in makers.items()}
    for task, label, seed in jobs:
        settings = {**configs[label], **terms, "task": task.describe()}
        _check_record(workdir, task, label, seed, settings)
    with tqdm.tqdm(
        total=len(jobs), desc="evaluating", unit="run", disable=not progress
    ) as bar:
        for task, label, seed in jobs:
            bar.set_postfix_str(f"{label} on {task.name}")
            if not records.record_path(workdir, task.name, label, seed).is_file():
                settings = {**terms, "task": task.describe()}
                run = train_once(makers[label](), task, seed, epochs)
                records.write(
                    workdir, {"optimizer": label, **run, "settings": settings}
                )
            bar.update()
    found = [
        records.read(records.record_path(workdir, task.name, label, seed))
        for task in tasks
        for label in makers
        for seed in seeds
    ]
    if write_report:
        report(found, workdir)
    return found


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
    finite ends there and says `diverged`; its last validation loss is NaN-free
    (`Infinity` in JSON).
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
    started = time.perf_counter()
    history = model.fit(
        batches.prefetch(2),
        epochs=epochs,
        steps_per_epoch=per_epoch,
        shuffle=False,
        validation_data=tuple(dataset.validation),
        validation_batch_size=1000,
        callbacks=[watch, keras.callbacks.TerminateOnNaN()],
        verbose=0,
    )
    seconds = time.perf_counter() - started
    curves = {k: [_json(v) for v in values] for k, values in history.history.items()}
    diverged = not all(math.isfinite(v) for v in curves["loss"] + curves["val_loss"])
    test = {}
    if not diverged:
        test = model.evaluate(
            *dataset.test, batch_size=1000, verbose=0, return_dict=True
        )
    steps = watch.seconds[UNTIMED_STEPS:] or watch.seconds
    privacy = task.privacy_report(len(watch.losses))
    return {
        "task": task.name,
        "seed": seed,
        "curves": curves,
        "test": {k: _json(v) for k, v in test.items()},
        "batch_losses": [_json(v) for v in watch.losses],
        "diverged": diverged,
        "seconds": seconds,
        "step_milliseconds": 1e3 * statistics.median(steps),
        "optimizer_config": _brief(optimizer.get_config()),
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


def _makers(optimizers, preset, warmup_steps, warmup_learning_rate):
    """Returns label → function that makes a fresh optimizer."""
    if not isinstance(optimizers, dict):
        given = [optimizers] if isinstance(optimizers, str) else list(optimizers)
        optimizers = {_label(item): item for item in given}
        if len(optimizers) < len(given):
            raise ValueError(
                f"Two of {given} have the same label; pass a dict of label → optimizer."
            )
    if not optimizers:
        raise ValueError("evaluate needs at least one optimizer; received none.")
    makers = {}
    for label, item in optimizers.items():

        def make(item=item):
            if isinstance(item, AnalyticRule):
                return optimizer_for(
                    item,
                    {},
                    warmup_steps=warmup_steps,
                    warmup_learning_rate=warmup_learning_rate,
                )
            if callable(item):
                optimizer = item()
                if not isinstance(optimizer, RuleOptimizer):
                    raise ValueError(
                        "evaluate gives every optimizer the same warm-up, which only "
                        f"tf_amalgam's own have; received {type(optimizer).__name__}."
                    )
                optimizer.warmup_steps = warmup_steps
                optimizer.warmup_learning_rate = warmup_learning_rate
                return optimizer
            return saved.load(
                item,
                preset=preset,
                warmup_steps=warmup_steps,
                warmup_learning_rate=warmup_learning_rate,
            )

        make()  # bad names and files show before any work
        makers[label] = make
    return makers


def _label(item):
    path = pathlib.Path(str(item))
    if path.suffix == ".npz" and path.stem == "student":
        return path.parent.name
    return path.stem if path.suffix == ".npz" else path.name


def _check_record(workdir, task, label, seed, settings):
    path = records.record_path(workdir, task.name, label, seed)
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


def _brief(config):
    """Drops the bulky weights from a config; the rest is JSON-ready."""
    return {k: v for k, v in config.items() if k != "rule_weights"}
