"""Where a trained optimizer fails without a guard, and what the guard makes of it.

Real data throughout. The margin that the docs state: in the last tenth of the epochs
the worst training loss under guard is above the fallback's by at most a fifth of what
there is to gain, the loss of knowing nothing (log 10 of ten classes).
"""

import pytest

import tf_amalgam
from benchmarks.limits import SCENARIOS, digits, fallback, mlp, worst
from tf_amalgam.reached import MARGIN
from tf_amalgam.tasks.resnet import resnet_model


def check(name, make_net, data, epochs, **options):
    """Trains with a guard, by the fallback and without either; returns the report."""
    optimizer = tf_amalgam.load(name, guard=True)
    guarded = worst(make_net, optimizer, data, epochs, **options)
    print(f"{name}: {guarded=:.4g}, {optimizer.guard_report}", flush=True)
    assert optimizer.guard_report["fallback_steps"] > 0
    limit = worst(make_net, fallback(), data, epochs, **options) + MARGIN
    print(f"{name}: {limit=:.4g}", flush=True)
    assert guarded <= limit
    alone = worst(make_net, tf_amalgam.load(name), data, epochs, **options)
    print(f"{name}: {alone=:.4g}", flush=True)
    assert not alone <= limit  # or it needs no guard
    return optimizer.guard_report


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rnnprop", "choice-large"])
def test_absurd_input_scale(name):
    """Inputs a thousand times too large: the warm-up alone would kill the net."""
    scale, epochs = SCENARIOS["inputs 1,000 times too large"]
    report = check(name, mlp, digits(scale), epochs)
    assert report["out_of_bounds"] > 0


@pytest.mark.slow
def test_ten_times_the_horizon():
    """Unrolls of meta-training had 500 steps; here are 5,000."""
    scale, epochs = SCENARIOS["5,000 steps"]
    report = check("stronger", mlp, digits(scale), epochs)
    assert report["loss_climbed"] > 0


@pytest.mark.slow
def test_a_resnet_52(shared_data):
    """760,266 parameters in 202 tensors; meta-training saw 18,122 in six."""
    images = tf_amalgam.load_dataset("cifar10", data_dir=shared_data).train
    data = images.x[:320], images.y[:320]

    def net():
        shape = (32, 32, 3)
        return resnet_model(images.x.shape[1:], shape, 10, 52, (16, 32, 64))

    report = check("stronger", net, data, epochs=60, batch_size=8)
    assert report["gained_too_little"] > 0
