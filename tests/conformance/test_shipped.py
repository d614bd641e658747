"""Every optimizer that ships: loaded, used, saved in mid-training, resumed.

The steps that each takes are held to a file by the tests of backends.
"""

import subprocess
import sys

import keras
import numpy as np
import pytest

import tf_amalgam
from tests import helpers
from tests.test_optimizer import DATA, go_on, model, trained
from tf_amalgam import saved
from tf_amalgam.optimizers import OPTIMIZERS


@pytest.mark.parametrize("name", saved.shipped_names())
def test_loaded_used_saved_and_resumed(name, tmp_path):
    rule, _, header = saved.find(name)
    optimizer = tf_amalgam.load(name)
    assert type(optimizer) is OPTIMIZERS[rule.name]
    assert (optimizer.warmup_steps, optimizer.warmup_learning_rate) == (100, 0.05)
    assert saved.digest(optimizer.rule_weights) == header["sha256"]
    net = model()
    # Twelve steps an epoch, of which four are the warm-up.
    _, losses = trained(tf_amalgam.load(name, warmup_steps=4), 4, net)
    assert losses[-1] < 0.8 * losses[0]
    net.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert saved.digest(again.optimizer.rule_weights) == header["sha256"]
    np.testing.assert_array_equal(go_on(again), go_on(net))


def test_the_default_goes_on_in_another_process(tmp_path):
    """Which imports the package, and nothing else of it."""
    net = model()
    trained(tf_amalgam.load(warmup_steps=4), 1, net)
    net.save(tmp_path / "model.keras")
    x, y = DATA
    np.savez(tmp_path / "data.npz", x=x, y=y)
    code = """
import sys, keras, numpy as np, tf_amalgam
folder = sys.argv[1]
data = np.load(f"{folder}/data.npz")
net = keras.models.load_model(f"{folder}/model.keras")
net.fit(data["x"], data["y"], batch_size=8, shuffle=False, verbose=0)
np.savez(f"{folder}/weights.npz", *net.get_weights())
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    with np.load(tmp_path / "weights.npz") as there:
        found = helpers.flat([there[name] for name in there.files])
    np.testing.assert_allclose(found, go_on(net), rtol=0, atol=1e-6)
