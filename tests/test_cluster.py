"""Meta-training by several processes equals that by one; what is lost is told."""

import json
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import tensorflow as tf

from tests import helpers
from tf_amalgam import bindings, cluster, files, programs, saved

# Two truncations in an unroll, so that what they hand on crosses processes, too.
BINDINGS = (
    "amalgamate.stages = [(20, 1, 0.1)]",
    "amalgamate.truncation_steps = 10",
    "amalgamate.period = 3",
    "amalgamate.warmup_steps = 2",
    "amalgamate.scaling = 0.5",
    "amalgamate.checkpoint_seconds = 0.0",
    "amalgamate.progress = False",
)
GIN = ["gin_configs/experiments/quickstart.gin"]
HOSTS = {"worker": ["a:1", "b:1"]}


class Workers:
    """Processes of `amalgamate` on one folder."""

    def __init__(self, count, folder, bindings=()):
        self.folder = folder
        self.logs = [folder.parent / f"worker-{i}.txt" for i in range(count)]
        given = [*BINDINGS, *bindings, "amalgamate.strategy = 'multi_worker'"]
        command = [sys.executable, "-m", "tf_amalgam_launch.amalgamate"]
        command += [f"--gin_file={name}" for name in GIN]
        command += [f"--gin_bindings={one}" for one in given]
        self.running = []
        for log, variables in zip(self.logs, helpers.cluster_of(count), strict=True):
            with log.open("w") as file:
                process = subprocess.Popen(
                    [*command, f"--workdir={folder}"],
                    env=variables,
                    stdout=file,
                    stderr=file,
                )
            self.running.append(process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.kill()
            process.wait()

    def kill_in_the_middle(self, index):
        """Kills a worker when the run has a few updates behind it."""
        history, deadline = self.folder / "history.csv", time.monotonic() + 300
        while not history.is_file() or len(history.read_text().splitlines()) < 4:
            assert time.monotonic() < deadline, self.logs[0].read_text()[-3000:]
            assert self.running[index].poll() is None
            time.sleep(0.02)
        self.running[index].send_signal(signal.SIGKILL)

    def ended(self, index):
        """Returns the exit status of a worker, and what it said."""
        return self.running[index].wait(timeout=300), self.logs[index].read_text()


def alone(folder, *others, strategy="mirrored"):
    """Returns the folder after the same run by one process."""
    given = [*BINDINGS, *others, f"amalgamate.strategy = '{strategy}'"]
    bindings.run("amalgamate", GIN, given, folder)
    return folder


def equal(folder, other):
    """Compares runs, to rounding that a few meta-updates multiply."""
    ours, theirs = (files.read_csv(where / "history.csv") for where in (folder, other))
    assert [row["update"] for row in ours] == [row["update"] for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        for name in ("loss", "meta_gradient_norm", "distance/adam"):
            assert a[name] == pytest.approx(b[name], rel=2e-3), (a["update"], name)
    start = helpers.flat(saved.read(folder / "untrained.npz")[1])
    found, expected = (helpers.flat(saved.read(where)[1]) for where in (folder, other))
    moved = np.abs(expected - start).max()
    assert moved > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-2 * moved)


def test_two_processes_equal_one(tmp_path):
    together = tmp_path / "together"
    with Workers(2, together) as workers:
        for index in range(2):
            status, said = workers.ended(index)
            assert status == 0, said[-3000:]
    equal(together, alone(tmp_path / "alone", "amalgamate.replicas = 2"))
    # The chief alone writes, and all that one process would.
    there = {p.name for p in together.iterdir()}
    assert there == {p.name for p in (tmp_path / "alone").iterdir()}
    assert len(list((together / "tensorboard").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_worker_stops_the_run_which_another_number_resumes(tmp_path, lost):
    longer = "amalgamate.period = 20"
    broken = tmp_path / "broken"
    with Workers(2, broken, [longer]) as workers:
        workers.kill_in_the_middle(lost)
        status, said = workers.ended(1 - lost)
    assert status != 0
    assert "error: Another worker has ended" in said
    done = len(files.read_csv(broken / "history.csv"))
    assert 3 <= done < 40
    alone(broken, longer, strategy="none")
    equal(broken, alone(tmp_path / "whole", longer, strategy="none"))


@pytest.mark.slow
def test_more_workers_go_on_where_one_was_killed(tmp_path):
    longer = "amalgamate.period = 20"
    broken = tmp_path / "broken"
    with Workers(1, broken, [longer]) as workers:
        workers.kill_in_the_middle(0)
        workers.ended(0)
    assert 3 <= len(files.read_csv(broken / "history.csv")) < 40
    # Three share four optimizees.
    with Workers(3, broken, [longer]) as workers:
        for index in range(3):
            status, said = workers.ended(index)
            assert status == 0, said[-3000:]
    equal(broken, alone(tmp_path / "whole", longer, strategy="none"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not set"),
        ("{", "it is '{'"),
        ("[]", "needs TF_CONFIG"),
        (json.dumps({"cluster": HOSTS}), "'task'"),
        (
            json.dumps({"cluster": HOSTS, "task": {"type": "worker", "index": 2}}),
            "no worker 2 in the cluster",
        ),
        (
            json.dumps({"cluster": HOSTS, "task": {"type": "chief", "index": 0}}),
            "chief",
        ),
    ],
)
def test_mistakes_in_the_environment(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=message):
        cluster.join_cluster()


def test_joining_comes_first(monkeypatch):
    place = {"cluster": HOSTS, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(place))
    tf.zeros(())  # TensorFlow has begun
    with pytest.raises(ValueError, match="before TensorFlow does anything"):
        cluster.strategy("multi_worker", None, 2)


@pytest.mark.parametrize(
    ("kind", "expected", "message"),
    [
        (tf.errors.UnknownError, ValueError, r"its port free\. \(gRPC\)"),
        (tf.errors.DeadlineExceededError, cluster.WorkerLost, r"has ended.*\(gRPC\)"),
    ],
)
def test_a_worker_that_cannot_join(monkeypatch, kind, expected, message):
    def refused():
        raise kind(None, None, "gRPC")

    place = {"cluster": HOSTS, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(place))
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", refused)
    with pytest.raises(expected, match=message):
        cluster.join_cluster()


def test_a_loss_without_words_is_told(monkeypatch):
    lost = pytest.raises(cluster.WorkerLost, match=r"\(AbortedError\)")
    with lost, cluster.telling_of_losses():
        raise tf.errors.AbortedError(None, None, "")


@pytest.mark.parametrize(
    "error",
    [
        tf.errors.FailedPreconditionError(
            None, None, "RecvBuf expects a different device incarnation: 1 vs. 2."
        ),
        tf.errors.InternalError(None, None, "Collective ops is aborted by: gone"),
    ],
)
def test_a_worker_that_was_begun_again_was_lost(error):
    lost = pytest.raises(cluster.WorkerLost, match="any number of them")
    with lost, cluster.telling_of_losses():
        raise error


def test_other_trouble_is_no_loss():
    with pytest.raises(tf.errors.InternalError), cluster.telling_of_losses():
        raise tf.errors.InternalError(None, None, "Blas GEMM launch failed")


def test_mistakes_in_devices(monkeypatch):
    monkeypatch.setattr(
        cluster, "_joined", [type("Two", (), {"num_replicas_in_sync": 2})]
    )
    for given, message in [
        (("several", None, 2), "one of none, mirrored, multi_worker"),
        (("none", 2, 2), "strategy='none' is one device"),
        (("multi_worker", 3, 6), "have 2 devices"),
    ]:
        with pytest.raises(ValueError, match=message):
            cluster.strategy(*given)


@pytest.mark.parametrize(
    ("meta_batch", "replicas"), [(1, 1), (2, 2), (4, 4), (5, 3), (6, 3), (9, 3)]
)
def test_as_many_devices_as_save_a_round(meta_batch, replicas):
    found = cluster.strategy("mirrored", None, meta_batch)
    assert found.num_replicas_in_sync == replicas


def test_gpus_are_taken_where_there_are_some(monkeypatch):
    gpus = [types.SimpleNamespace(name=f"/device:GPU:{i}") for i in range(2)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", list)
    found = cluster.strategy("mirrored", None, 4)
    assert found == ["/device:GPU:0", "/device:GPU:1"]
    with pytest.raises(ValueError, match="there are 2 GPU devices"):
        cluster.strategy("mirrored", 3, 4)


def test_workers_that_have_nothing_to_do_are_told_of(monkeypatch, caplog):
    three = type("Three", (), {"num_replicas_in_sync": 3})
    monkeypatch.setattr(cluster, "_joined", [three])
    assert cluster.strategy("multi_worker", None, 4) is three
    assert not caplog.text
    assert cluster.strategy("multi_worker", None, 2) is three
    assert "1 of the workers' 3 devices have nothing to do" in caplog.text


def test_replicates_take_no_cluster(tmp_path):
    with pytest.raises(ValueError, match="Replicates cannot share one cluster"):
        bindings.run_replicates(
            2, GIN, ["amalgamate.strategy = 'multi_worker'"], tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


def test_workers_must_see_one_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(programs.Programs, "everywhere", lambda self, n: [n, n + 3])
    with pytest.raises(
        ValueError, match=r"different meta-updates in their workdir \(0, 3\)"
    ):
        alone(tmp_path / "run", strategy="none")
