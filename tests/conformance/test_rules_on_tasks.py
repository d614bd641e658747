"""Every registered rule on every kind of optimizee, as student or as teacher."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from tests import helpers
from tf_amalgam import meta_step, rules, tasks
from tf_amalgam.meta_step import Players
from tf_amalgam.objective import Objective
from tf_amalgam.perturbation import Perturbation
from tf_amalgam.rules.rule import AnalyticRule

MAKERS = {
    "conv": lambda: tasks.conv("digits", filters=((4, 3),), batch_size=8),
    "mlp": lambda: tasks.mlp("digits", hidden=(5,), batch_size=8),
    "private": lambda: tasks.private(tasks.mlp("digits", hidden=(5,), batch_size=8)),
    "quadratic": lambda: tasks.quadratic(dimensions=4),
    "rastrigin": lambda: tasks.rastrigin(dimensions=3),
    "resnet": lambda: tasks.resnet("digits", depth=10, widths=(2, 3, 4), batch_size=8),
}
SOME = ("adam", "choice", "rnnprop")
# Second order needs longer to build than these tests need to say.
OBJECTIVE = Objective(
    alpha=0.1, second_order=False, perturbation=Perturbation("gaussian_relative", 1e-3)
)


def test_every_task_is_here():
    assert set(MAKERS) == {name for name in tasks.__all__ if name != "Task"}


@pytest.fixture(scope="module")
def task(request):
    if request.param == "private" and sys.version_info >= (3, 12):
        pytest.skip("tensorflow-privacy needs Python < 3.12")
    return MAKERS[request.param]()


# Every rule on one kind, some on every kind.
PAIRS = [
    pytest.param(
        kind, name, marks=[pytest.mark.slow] * (kind != "mlp" and name not in SOME)
    )
    for kind in sorted(MAKERS)
    for name in sorted(rules.RULES)
]


@pytest.mark.parametrize(("task", "name"), PAIRS, indirect=["task"])
def test_two_steps(task, name):
    """Finite, and whoever is not built to stand still at first moves."""
    rule = rules.make_rule(name)
    if isinstance(rule, AnalyticRule):
        players = Players(rules.make_rule("learned_scalars"), (rule,), ({},))
    else:
        players = Players(rule, rules.make_pool(["adam"]), ({},))
    carry = helpers.started(task, players, warmup=1)
    batches = helpers.constants(task.minibatches(0, 1, 2))
    gradient, after, metrics = meta_step.truncation(
        task, players, OBJECTIVE, helpers.weights_of(players.student), carry, batches
    )
    assert np.all(np.isfinite(helpers.flat(gradient)))
    assert np.any(helpers.flat(gradient))
    assert np.isfinite(float(metrics.loss))
    side = after.student if players.student is rule else after.teachers[0]
    moved = np.abs(helpers.flat(side.params_P) - helpers.flat(carry.start_params_P))
    assert np.any(moved) == (name != "scale")  # its fresh heads are zero
    assert np.all(np.isfinite(moved))
    for before, now in zip(
        tf.nest.flatten(carry.student.model_state),
        tf.nest.flatten(side.model_state),
        strict=True,
    ):
        assert before.shape == now.shape
