"""The curriculum at work in a run: repeats, hand-over, and resuming at every point."""

import contextlib
import os
import shutil

import numpy as np
import pytest

import tf_amalgam
from tests import helpers
from tests.test_meta_train import SMALL, amalgamated, same
from tf_amalgam import curriculum, files, records, run, saved, state, workdir
from tf_amalgam.meta_train import Trainer
from tf_amalgam.programs import Programs

# Scores of successive validations: of the start, then of each period.
#        start  best  bit worse  much worse  again  |  start  good, finish
SCRIPT = [1.0, -1.0, -0.8, 5.0, -0.9, -1.0, -2.0, -3.0]
OPTIONS = {**SMALL, "stages": ((6, 3), (12, 2)), "repeat_threshold": 0.5}


def test_one_process_trains_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir, "LOCK_SECONDS", 0.0)
    refused = pytest.raises(RuntimeError, match="Another process trains in")
    with files.locked(tmp_path / ".lock"), refused:
        amalgamated(stages=((6, 1),), workdir=tmp_path)
    assert not (tmp_path / "student.npz").exists()
    for _ in range(2):  # a lock ends with its run
        amalgamated(stages=((6, 1),), workdir=tmp_path)


def test_it_waits_for_a_lock_that_outlives_its_process(tmp_path, monkeypatch):
    """As a file server's may; what that process left half written is removed."""
    left = tmp_path / "checkpoints" / ".checkpoint-00000001.npz.abcdefgh.tmp"
    left.parent.mkdir()
    left.touch()
    os.utime(left, (0, 0))
    kept = contextlib.ExitStack()
    kept.enter_context(files.locked(tmp_path / ".lock"))
    waited = []

    def sleep(seconds):
        waited.append(left.exists())
        kept.close()

    monkeypatch.setattr(workdir.time, "sleep", sleep)
    amalgamated(stages=((6, 1),), workdir=tmp_path)
    assert waited == [True]
    assert (tmp_path / "student.npz").exists()
    assert not left.exists()


def test_a_run_is_done_when_nothing_is_left_to_do(tmp_path, monkeypatch):
    """Its last file comes after all that could fail."""

    def costs(self, state):
        raise RuntimeError("killed while costs are measured")

    monkeypatch.setattr(Trainer, "costs", costs)
    with pytest.raises(RuntimeError, match="killed while"):
        amalgamated(stages=((6, 1),), workdir=tmp_path, progress=True)
    assert (tmp_path / "student.npz").exists()
    assert not (tmp_path / "curves.png").exists()
    monkeypatch.undo()
    # The same call has no step left to take, and ends all the same.
    monkeypatch.setattr(Trainer, "step", None)
    amalgamated(stages=((6, 1),), workdir=tmp_path, progress=True)
    assert (tmp_path / "curves.png").exists()


def test_a_board_that_cannot_be_closed_loses_nothing(tmp_path, monkeypatch):
    def close(self):
        raise OSError("TensorBoard's disk is full")

    monkeypatch.setattr(run._Board, "close", close)
    with pytest.raises(OSError, match="TensorBoard"):
        amalgamated(stages=((6, 1),), workdir=tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(Trainer, "step", None)
    assert amalgamated(stages=((6, 1),), workdir=tmp_path).finished


def test_a_finished_run_says_what_trained_it(tmp_path, monkeypatch):
    """Not who looked at it later: another machine, another version."""
    first = amalgamated(stages=((6, 1),), workdir=tmp_path)
    student = tmp_path / "student.npz"
    trained = student.read_bytes()
    assert saved.read(student)[2]["about"]["versions"] == records.versions()
    monkeypatch.setattr(records, "versions", lambda: {"keras": "9"})
    same(amalgamated(stages=((6, 1),), workdir=tmp_path), first)
    assert student.read_bytes() == trained
    # One that was killed between its last checkpoint and its student has that written.
    other = amalgamated(stages=((6, 1),), seed=1, workdir=tmp_path / "other")
    assert helpers.flat(other.weights).tolist() != helpers.flat(first.weights).tolist()
    for left in ("missing", "damaged", "of another state"):
        student.unlink()
        if left == "damaged":
            student.write_bytes(trained[:-100])
        if left == "of another state":
            shutil.copy(tmp_path / "other" / "student.npz", student)
        same(amalgamated(stages=((6, 1),), workdir=tmp_path), first)
        _, weights, header = saved.read(student)
        assert equal(weights, first.weights)
        assert header["about"]["versions"] == {"keras": "9"}


@pytest.fixture(scope="module")
def scripted():
    """Validations score as the script says; returns the states before and after."""
    monkeypatch = pytest.MonkeyPatch()
    of, validate, seen, scores = Programs.of, Trainer.validate, [], []

    def scored(self, kind, *key):
        if kind == "validation":
            return lambda weights, carry, batches, held_out: (scores[-1], 0.0)
        return of(self, kind, *key)

    def noted(self, state):
        scores.append(SCRIPT[len(state.validations)])
        after = validate(self, state)
        seen.append((state, after))
        return after

    monkeypatch.setattr(Programs, "of", scored)
    monkeypatch.setattr(Trainer, "validate", noted)
    yield seen
    monkeypatch.undo()


@pytest.fixture(scope="module")
def whole(scripted):
    return tf_amalgam.amalgamate(helpers.tiny_task(), **OPTIONS)


def equal(a, b):
    return np.array_equal(helpers.flat(a), helpers.flat(b))


def test_what_the_curriculum_says_is_done(scripted, whole):
    rows = whole.validations
    assert [row["then"] for row in rows] == [
        *("continue", "continue", "continue", "repeat", "next"),
        *("continue", "continue", "finish"),
    ]
    assert [row["stage"] for row in rows] == [0, 0, 0, 0, 0, 1, 1, 1]
    assert [row["period"] for row in rows] == [0, 1, 2, 3, 3, 0, 1, 2]
    assert [row["repeat"] for row in rows] == [0, 0, 0, 0, 1, 0, 0, 0]
    best, last, bad, again = scripted[1][1], *scripted[2:5]
    assert not equal(last[1].now, best.now)
    # A repeated period starts from the best weights and optimizer slots, not the last …
    assert not equal(bad[0].now, best.now)
    assert equal(bad[1].now, best.now)
    # … on other optimizees, so it does not end where it ended before.
    assert not equal(again[0].now, bad[0].now)
    assert again[0].meta_epoch == bad[0].meta_epoch + 1
    # The next stage starts from the best of this one (−1.0), not from the last (−0.9).
    assert not equal(again[0].now, best.now)
    assert equal(again[1].now, best.now)
    handed = scripted[5][1]
    assert handed.best_updates == best.updates < handed.updates
    assert equal(whole.weights, scripted[7][0].now.weights)
    assert whole.about["best_validation"] == -3.0


def test_a_period_given_up_is_not_built_upon():
    """As a repeated one, but the period is over; its optimizer slots go too."""
    start = state.fresh({"w": np.zeros(2)}, (np.zeros(1),))
    lost = start._replace(now=state.Learned({"w": np.full(2, np.nan)}, (np.ones(1),)))
    progress = curriculum.Progress(started=True, period=1, best_score=-1.0)
    for then in ("abandon", "repeat"):
        verdict = curriculum.Verdict(progress, best=False, then=then)
        assert equal(Trainer._judged(lost, verdict, 5.0).now, start.now)
    verdict = curriculum.Verdict(progress, best=False, then="continue")
    assert Trainer._judged(lost, verdict, 5.0).now is lost.now


@pytest.mark.parametrize(
    "stop_after", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 5))]
)
def test_resumed_at_every_turn(scripted, whole, tmp_path, stop_after):
    """Right before a repeat, before a new stage, and in the middle of an unroll."""
    assert len(whole.history) == 1 + 1 + 1 + 1 + 2 + 2  # one period is done twice
    with helpers.interrupted_after(stop_after):
        tf_amalgam.amalgamate(helpers.tiny_task(), workdir=tmp_path, **OPTIONS)
    before = saved.read(tmp_path)[2]["about"]["seconds"]
    resumed = tf_amalgam.amalgamate(helpers.tiny_task(), workdir=tmp_path, **OPTIONS)
    same(resumed, whole)
    assert 0.0 < before < resumed.about["seconds"]


def test_an_unroll_of_another_version_is_refused(tmp_path):
    """In the middle of an unroll, with states the other way round."""
    options = {**OPTIONS, "stages": ((12, 1),), "repeat_threshold": None}
    with helpers.interrupted_after(1):
        tf_amalgam.amalgamate(helpers.tiny_task(), workdir=tmp_path, **options)
    (path,) = (tmp_path / "checkpoints").glob("*.npz")
    with np.load(path) as archive:
        found = dict(archive)
    turned = {k: v.T if v.ndim == 2 else v for k, v in found.items()}
    assert any(found[k].shape != v.shape for k, v in turned.items())
    last = max(int(k.rpartition("/")[2]) for k in found if "/carry/0/" in k)
    fewer = {k: v for k, v in found.items() if not k.endswith(f"/carry/0/{last}")}
    more = {**found, f"array/carry/0/{last + 1}": np.zeros(3, "float32")}
    for other in (turned, fewer, more):
        assert len(found) - 1 <= len(other) <= len(found) + 1
        np.savez(path, **other)
        with pytest.raises(ValueError, match="another version .* in another folder"):
            tf_amalgam.amalgamate(helpers.tiny_task(), workdir=tmp_path, **options)


def test_chances_lengthen_a_run(scripted):
    options = {**OPTIONS, "stages": ((6, 1),), "chances": 2, "repeat_threshold": None}
    amalgam = tf_amalgam.amalgamate(helpers.tiny_task(), **options)
    # Best after period 1; periods 2 and 3 are not better.
    assert [row["then"] for row in amalgam.validations][-1] == "finish"
    assert len(amalgam.history) == 3
