"""What the jobs of a campaign take, by rates that a machine has measured."""

import contextlib
import copy
import logging
import time

import tensorflow as tf

from tf_amalgam import bindings, campaign, experiment, recipe, records, saved, trial
from tf_amalgam.curriculum import Stage
from tf_amalgam.meta_train import Diverged

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
# What a measurement ends in where a data set, a package or memory is missing, or where
# two meta-updates are not enough of a training.
NOT_HERE = (
    *(ValueError, OSError, ImportError),
    *(Diverged, tf.errors.ResourceExhaustedError),
)


def hours(what, workdir):
    """Returns a function of a job that says its hours by the rates measured there."""
    steps = {label: _inner_steps(what, label) for label in what.trainings}
    bindings.parse(what.gin_files, what.gin_bindings)
    epochs = bindings.bound("epochs", "evaluate")
    return campaign.hours_of(what, campaign.read_rates(workdir), epochs, steps)


def _inner_steps(what, label):
    """Returns the inner steps of a training's stages, of all its optimizees."""
    bindings.parse(*campaign.of_training(what, label))
    return _bound_inner_steps()


def _bound_inner_steps():
    """Returns the same of the training that has been parsed; a Choice rule's too."""
    stages = list(bindings.bound("stages"))
    trained = isinstance(bindings.bound("choice"), str)  # a name or a path
    if bindings.bound("scheme") == "choice" and not trained:
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
    training, without warm-ups. The folder is this campaign's from then on. What cannot
    be had here (a data set, a package, memory), or diverges at once, is left out with a
    warning.
    """
    recipe.claim(what, workdir)
    bindings.parse(what.gin_files, what.gin_bindings)
    epoch = {}
    for optimizee, reference in zip(what.optimizees, recipe.optimizees(), strict=True):
        try:
            task = copy.deepcopy(reference)
            epoch[optimizee.name] = {
                who: trial.seconds_of_an_epoch(saved.load(name, warmup_steps=0), task)
                for who, name in (("known", "adam"), ("student", "rnnprop"))
            }
        except NOT_HERE as error:
            logging.warning("%s is not measured: %s", optimizee.name, error)
    # What was measured here before stays until it has been measured anew.
    there = campaign.read_rates(workdir)
    kept = there.inner_step if there.machine == _machine() else {}
    rates = campaign.Rates(_machine(), epoch, {**kept})
    campaign.write_rates(rates, workdir)
    with _without_retracing_warnings():
        for label in what.trainings:
            try:
                rates.inner_step[label] = _seconds_of_an_inner_step(what, label)
            except NOT_HERE as error:
                logging.warning("%s is not measured: %s", label, error)
                rates.inner_step.pop(label, None)
            campaign.write_rates(rates, workdir)
    return rates


def _seconds_of_an_inner_step(what, label):
    """Returns what an inner step of a training takes, by two short ones."""
    gin_files, lines = campaign.of_training(what, label)
    bindings.parse(gin_files, lines)
    truncation = bindings.bound("truncation_steps")
    seconds, steps = [], []
    for unroll in (truncation, 3 * truncation):  # which build the same
        short = (
            f"amalgamate.stages = [({unroll}, 1)]",
            f"amalgamate.choice_stages = [({unroll}, 1)]",
        )
        bindings.parse(gin_files, [*lines, *MEASURED, *short])
        steps.append(_bound_inner_steps())
        began = time.perf_counter()
        bindings.amalgamate()
        seconds.append(time.perf_counter() - began)
    if seconds[1] <= seconds[0]:
        raise ValueError(
            f"{steps[1]} inner steps took no longer than {steps[0]}: the machine is "
            "busy with something else; measure again."
        )
    return (seconds[1] - seconds[0]) / (steps[1] - steps[0])


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
