"""Epsilon against published figures, and what is refused."""

import math
import subprocess
import sys

import pytest

from tests.test_evaluation import made_up
from tf_amalgam import privacy, records
from tf_amalgam.privacy import Mechanism, epsilon


@pytest.mark.parametrize(
    ("steps", "batch_size", "examples", "noise_multiplier", "delta", "published"),
    [
        # tensorflow_privacy 0.9.0, analysis/compute_dp_sgd_privacy_test.py: MNIST's
        # 60,000 examples, 15 epochs; 100,000 examples, 30 epochs; sampling
        # probability 1e-2 for 1.2 epochs, no microbatching, RDP.
        (6000, 150, 60_000, 1.3, 1e-5, 0.7242234026109595),
        (30_000, 100, 100_000, 1.0, 1e-7, 1.4154988495444845),
        (120, 100, 10_000, 0.7, 1e-5, 3.2391922),
    ],
)
def test_epsilon_is_the_published_one(
    steps, batch_size, examples, noise_multiplier, delta, published
):
    found = epsilon(steps, batch_size, examples, noise_multiplier, delta)
    assert found == pytest.approx(published, abs=1e-7)


def test_epsilon_moves_as_it_must():
    base = epsilon(100, 128, 7200, 1.1, 1e-5)
    assert epsilon(0, 128, 7200, 1.1, 1e-5) == 0.0
    assert epsilon(200, 128, 7200, 1.1, 1e-5) > 1.05 * base
    assert epsilon(100, 256, 7200, 1.1, 1e-5) > 1.05 * base
    assert epsilon(100, 128, 7200, 1.0, 1e-5) > 1.05 * base
    assert epsilon(100, 128, 7200, 1.1, 1e-6) > 1.05 * base
    # All examples in every minibatch: the Gaussian mechanism itself, for which
    # ε = ρ + 2√(ρ log 1/δ), ρ = steps/2σ², is an upper bound (Bun & Steinke 2016).
    rho = 10 / (2 * 8.0**2)
    bound = rho + 2 * math.sqrt(rho * math.log(1e5))
    assert 0.8 * bound < epsilon(10, 50, 50, 8.0, 1e-5) < bound


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"l2_norm_clip": -1.0}, "l2_norm_clip must be above 0.*-1.0"),
        ({"l2_norm_clip": 0.0}, "l2_norm_clip"),
        ({"l2_norm_clip": math.inf}, "l2_norm_clip"),
        ({"l2_norm_clip": math.nan}, "l2_norm_clip"),
        ({"noise_multiplier": -0.1}, "noise_multiplier must be at least 0"),
        ({"noise_multiplier": math.nan}, "noise_multiplier"),
        ({"noise_multiplier": 0.0}, "epsilon is infinite.*delta=None"),
        ({"delta": 0.0}, r"delta must be in \(0, 1\)"),
        ({"delta": 1.0}, "delta"),
    ],
)
def test_impossible_mechanisms_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        Mechanism(**numbers)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ((10, 101, 100, 1.1, 1e-5), "batch_size must be from 1 to the 100.*101"),
        ((10, 0, 100, 1.1, 1e-5), "batch_size"),
        ((-1, 10, 100, 1.1, 1e-5), "steps"),
        ((10, 10, 100, 0.0, 1e-5), "epsilon is infinite"),
        ((10, 10, 100, 1.1, None), "depends on delta"),
        ((10, 10, 100, 1.1, 0.01), "delta=0.01 says nothing about 100 examples"),
        ((0, 10, 1000, 1.1, 0.5), "below 1/1000 = 0.001"),
    ],
)
def test_impossible_runs_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        epsilon(*call)


def test_delta_may_come_close_to_one_in_all_examples():
    assert epsilon(10, 10, 100, 1.1, 0.0099) > 0.0


def test_no_claim_reports_no_epsilon():
    report = Mechanism(2.0, 0.0, None).report(5, 10, 100)
    assert report == {
        "epsilon": None,
        "steps": 5,
        "l2_norm_clip": 2.0,
        "noise_multiplier": 0.0,
        "delta": None,
    }


def test_only_private_training_needs_the_package():
    """Python 3.12 and later have no tensorflow-privacy."""
    code = """
import sys
sys.modules["tensorflow_privacy"] = sys.modules["dp_accounting"] = None
import tf_amalgam
from tf_amalgam import tasks
task = tasks.quadratic(3)
tf_amalgam.evaluate
for private in (tasks.private, lambda t: tf_amalgam.private_model(t.build_model(0))):
    try:
        private(task)
    except ImportError as error:
        print("ERROR", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    errors = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 2
    assert all("pip install tensorflow-privacy==0.9.0" in line for line in errors)


def test_importing_leaves_no_switch_behind():
    privacy.imported("tensorflow_privacy.privacy.dp_query.gaussian_query")
    assert not hasattr(sys, "skip_tf_privacy_import")


def row(table, place):
    return [cell.strip() for cell in table.splitlines()[place].strip("|").split("|")]


def test_table_says_epsilon_where_a_run_was_private():
    spent = {"epsilon": 1.234, "delta": 1e-5}
    private = [
        made_up(task="DP", privacy=spent),
        made_up(task="DP", seed=1, diverged=True, privacy={**spent, "epsilon": 1.0}),
    ]
    claimless = made_up(task="noisy", privacy={"epsilon": None, "delta": None})
    table = records.table([*private, made_up(), claimless])
    assert row(table, 0)[-1] == "epsilon"
    assert row(table, 2)[-1] == "1.23 (delta 1e-05)"
    assert row(table, 3)[-1] == "∞"
    assert row(table, 4)[-1] == "∞"
    assert "epsilon" not in records.table([made_up()])
