"""Replicates: own randomness, resume, several at once, failures named."""

import gin
import numpy as np
import pytest

from tests import helpers
from tests.test_gin import TINY
from tf_amalgam import bindings, replicates, saved

FILES = ["gin_configs/experiments/quickstart.gin"]


@pytest.fixture(autouse=True)
def cleared():
    yield
    gin.clear_config()


def weights(folder):
    return helpers.flat(saved.read(folder)[1])


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    bindings.run_replicates(3, FILES, TINY, folder)
    return folder


def test_each_has_its_own_randomness(three):
    ends = [weights(three / f"replicate-{i}") for i in range(3)]
    starts = [
        helpers.flat(saved.read(three / f"replicate-{i}" / "untrained.npz")[1])
        for i in range(3)
    ]
    for found in (ends, starts):
        assert np.any(found[0] != found[1])
        assert np.any(found[1] != found[2])


def test_the_folder_explains_itself(three):
    rows = replicates.read_summary(three)
    assert [row["replicate"] for row in rows] == [0, 1, 2]
    assert all(row["finished"] and row["meta_updates"] == 2 for row in rows)
    assert len({row["seed"] for row in rows}) == 3
    assert (three / "replicates.png").stat().st_size > 1000
    assert "replicate" in (three / "README.md").read_text()
    assert "student.npz" in (three / "replicate-0" / "README.md").read_text()


def test_fewer_are_the_first_of_more_and_finished_ones_stay(three, monkeypatch):
    from tf_amalgam.meta_train import Trainer

    before = weights(three / "replicate-1")
    monkeypatch.setattr(Trainer, "step", None)
    bindings.run_replicates(2, FILES, TINY, three)
    np.testing.assert_array_equal(weights(three / "replicate-1"), before)


def test_several_at_once_equal_one_after_another(three, tmp_path):
    bindings.run_replicates(2, FILES, TINY, tmp_path, parallel=2)
    for i in range(2):
        np.testing.assert_array_equal(
            weights(tmp_path / f"replicate-{i}"), weights(three / f"replicate-{i}")
        )
        assert "Trained" in (tmp_path / f"replicate-{i}" / "log.txt").read_text()


def test_a_failed_one_is_named_and_the_others_end(three, tmp_path):
    (tmp_path / "replicate-0").mkdir()
    (tmp_path / "replicate-0" / "settings.json").write_text("{")
    with pytest.raises(RuntimeError, match="1 of 2 replicates failed: replicate-0"):
        bindings.run_replicates(2, FILES, TINY, tmp_path, parallel=2)
    assert "damaged" in (tmp_path / "replicate-0" / "log.txt").read_text()
    np.testing.assert_array_equal(
        weights(tmp_path / "replicate-1"), weights(three / "replicate-1")
    )


@pytest.mark.parametrize(("count", "parallel"), [(0, 1), (2, 0)])
def test_counts_are_checked(tmp_path, count, parallel):
    with pytest.raises(ValueError, match="must be a whole number from 1"):
        bindings.run_replicates(count, FILES, TINY, tmp_path / "x", parallel)
    assert not (tmp_path / "x").exists()
