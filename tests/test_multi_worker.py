"""Two processes that train one model together equal one process, to rounding."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests import helpers, multi_worker

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Returns the weights that each of two workers ended with."""
    folder = tmp_path_factory.mktemp("workers")
    running = []
    for index, variables in enumerate(helpers.cluster_of(2)):
        command = [sys.executable, "-m", "tests.multi_worker", folder / f"{index}.npz"]
        log = (folder / f"{index}.log").open("w")
        running.append(
            subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log)
        )
    try:
        for index, worker in enumerate(running):
            code = worker.wait(timeout=600)
            assert code == 0, (folder / f"{index}.log").read_text()[-3000:]
    finally:
        for worker in running:
            worker.kill()
    return [np.load(folder / f"{index}.npz") for index in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", multi_worker.MAKERS)
def test_two_workers_equal_one(together, name):
    first, second = (worker[name] for worker in together)
    np.testing.assert_array_equal(first, second)
    alone = multi_worker.trained(name, tf.distribute.get_strategy())
    start = helpers.flat(multi_worker.fresh_model().get_weights())
    assert np.abs(alone - start).max() > 0.05
    np.testing.assert_allclose(first, alone, atol=2e-5)


@pytest.mark.slow
def test_adapted_adam_equals_keras_own(together):
    for worker in together:
        np.testing.assert_allclose(worker["adapted"], worker["keras"], atol=2e-5)
