"""Every optimizer that ships: loaded, used, saved in mid-training, resumed."""

import keras
import numpy as np
import pytest

import tf_amalgam
from tests.test_optimizer import go_on, model, trained
from tf_amalgam import saved
from tf_amalgam.optimizers import OPTIMIZERS


@pytest.mark.parametrize("name", saved.shipped_names())
def test_loaded_used_saved_and_resumed(name, tmp_path):
    rule, _, header = saved.find(name)
    optimizer = tf_amalgam.load(name)
    assert type(optimizer) is OPTIMIZERS[rule.name]
    assert optimizer.warmup_steps == header["warmup_steps"] == 100
    assert saved.digest(optimizer.rule_weights) == header["sha256"]
    net = model()
    # Twelve steps an epoch, of which four are the warm-up.
    _, losses = trained(tf_amalgam.load(name, warmup_steps=4), 4, net)
    assert losses[-1] < 0.8 * losses[0]
    net.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert saved.digest(again.optimizer.rule_weights) == header["sha256"]
    np.testing.assert_array_equal(go_on(again), go_on(net))
