"""Campaigns at the edge: what .gin files tell of one, measured and run."""

import contextlib
import copy
import logging
import pathlib
import time

import gin
import tensorflow as tf

from tf_amalgam import (
    bindings,
    campaign,
    experiment,
    launchers,
    records,
    replicates,
    reporting,
    saved,
    trial,
)
from tf_amalgam.curriculum import Stage

# What two meta-updates of a training are measured with.
MEASURED = (
    "amalgamate.period = 1",
    "amalgamate.validation_optimizees = 1",
    "amalgamate.validation_steps = 1",
    "amalgamate.progress = False",
    "amalgamate.repeat_threshold = None",
    "amalgamate.choice_repeat_threshold = None",
    "amalgamate.chances = 0",
)


def read(gin_files, gin_bindings) -> campaign.Campaign:
    """Returns the campaign that .gin files tell of; no optimizee is made.

    Raises:
        ValueError: for what is missing or cannot be read; also in what its trainings
            are told.
    """
    bindings.parse(gin_files, gin_bindings)
    for name in ("campaign", "evaluate"):
        bindings.check_given(name)
    bound = gin.get_bindings("evaluate", resolve_references=False)
    found = bindings.REGISTERED["campaign"](
        gin_files=gin_files,
        gin_bindings=gin_bindings,
        optimizees=[campaign.Optimizee(repr(t), _name_of(t)) for t in bound["tasks"]],
        known=list(bindings.bound("baselines", "evaluate")),
        seeds=list(bindings.bound("seeds", "evaluate")),
    )
    for experiment_file in found.trainings.values():
        bindings.parse([found.form, experiment_file], gin_bindings)
        bindings.check_given("amalgamate")
    bindings.parse(gin_files, gin_bindings)
    return found


def run(what, several, workdir, on):
    """Runs jobs of a campaign; makes the report once all its records are there.

    Args:
        what: the `campaign.Campaign`.
        several: those of its jobs that are to be run.
        workdir: where everything goes.
        on: a launcher.

    Raises:
        RuntimeError: naming the jobs that failed, after all others have ended.
    """
    evaluation = pathlib.Path(workdir) / campaign.EVALUATION
    students = dict.fromkeys(what.trainings, what.replicates)
    records.remember_order(
        evaluation,
        [optimizee.name for optimizee in what.optimizees],
        [*what.known, *what.trainings],
        seeds=what.seeds,
        replicates={**dict.fromkeys(what.known, 1), **students},
    )
    failed = launchers.run(several, on, workdir, description="campaign")
    for label in what.trainings:
        if (pathlib.Path(workdir) / label).is_dir():
            replicates.summarize(pathlib.Path(workdir) / label)
    launchers.check(failed, several, workdir)
    if all(job.done for job in campaign.planned(what, workdir)):
        print(reporting.write_report(evaluation))


def _name_of(optimizee):
    """Returns the name of an optimizee that a .gin file refers to."""
    selector = optimizee.scoped_selector
    if selector.endswith("gin.macro"):
        optimizee = gin.query_parameter(selector.replace("gin.macro", "macro.value"))
        selector = optimizee.scoped_selector
    try:
        return gin.query_parameter(f"{selector}.name")
    except ValueError as error:
        raise ValueError(
            f"A campaign needs the names of its optimizees; bind {selector}.name."
        ) from error


def hours(what, workdir):
    """Returns a function of a job that says its hours by the rates measured there."""
    steps = {label: _inner_steps(what, label) for label in what.trainings}
    bindings.parse(what.gin_files, what.gin_bindings)
    epochs = bindings.bound("epochs", "evaluate")
    return campaign.hours_of(what, campaign.read_rates(workdir), epochs, steps)


def _inner_steps(what, label):
    """Returns how many inner steps a training takes at least, in all its optimizees."""
    bindings.parse([what.form, what.trainings[label]], what.gin_bindings)
    return _bound_inner_steps()


def _bound_inner_steps():
    """Returns the same of the training that has been parsed; a Choice rule's too."""
    stages = list(bindings.bound("stages"))
    if bindings.bound("scheme") == "choice" and bindings.bound("choice") is None:
        truncation = bindings.bound("truncation_steps")
        stages += bindings.bound("choice_stages") or [
            (n * truncation, p) for n, p in experiment.CHOICE_STAGES
        ]
    stages = [s if isinstance(s, Stage) else Stage(*s) for s in stages]
    unrolls = sum(stage.unroll * stage.periods for stage in stages)
    return unrolls * bindings.bound("period") * bindings.bound("meta_batch")


def measure(what, workdir) -> campaign.Rates:
    """Measures the rates of a campaign on this machine and writes them into `workdir`.

    Some steps of each optimizee, by Adam and by RNNProp, and two meta-updates of each
    training, without warm-ups. What cannot be had here (a data set) is left out with a
    warning.
    """
    bindings.parse(what.gin_files, what.gin_bindings)
    bound = gin.get_bindings("evaluate", resolve_references=False)
    epoch = {}
    for optimizee, reference in zip(what.optimizees, bound["tasks"], strict=True):
        try:
            task = copy.deepcopy(reference)
            epoch[optimizee.name] = {
                who: trial.seconds_of_an_epoch(saved.load(name), task)
                for who, name in (("known", "adam"), ("student", "rnnprop"))
            }
        except (ValueError, OSError) as error:
            logging.warning("%s is not measured: %s", optimizee.name, error)
    inner_step = {}
    with _without_retracing_warnings():
        for label, experiment_file in what.trainings.items():
            files = [what.form, experiment_file]
            bindings.parse(files, what.gin_bindings)
            truncation = bindings.bound("truncation_steps")
            seconds, steps = [], []
            for unroll in (truncation, 3 * truncation):  # which build the same
                lines = [
                    *(*what.gin_bindings, *MEASURED),
                    f"amalgamate.stages = [({unroll}, 1)]",
                    f"amalgamate.choice_stages = [({unroll}, 1)]",
                ]
                bindings.parse(files, lines)
                steps.append(_bound_inner_steps())
                began = time.perf_counter()
                bindings.amalgamate()
                seconds.append(time.perf_counter() - began)
            inner_step[label] = (seconds[1] - seconds[0]) / (steps[1] - steps[0])
    rates = campaign.Rates(_machine(), epoch, inner_step)
    campaign.write_rates(rates, workdir)
    return rates


@contextlib.contextmanager
def _without_retracing_warnings():
    """Within it TensorFlow does not mind that each training has its own programs."""
    logger = tf.get_logger()
    kept = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(kept)


def _machine():
    """Returns what measures here, in words."""
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return ", ".join([records.versions()["machine"], *names])
