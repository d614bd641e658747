"""What a run says of its own costs: shares that add up, and a trace by name."""

import pytest

import tf_amalgam
from tests import helpers
from tf_amalgam import costs, meta_step, tasks
from tf_amalgam.objective import Objective

SHORT = {
    "stages": ((4, 1),),
    "truncation_steps": 4,
    "period": 2,
    "meta_batch": 2,
    "warmup_steps": 0,
    "validation_optimizees": 1,
}


def small():
    return tasks.mlp("digits", hidden=(4,), batch_size=8)


def test_shares_add_up():
    clock = costs.Clock()
    clock.seconds.update(steps=9.0, data=1.0, building=5.0)
    clock.inner_steps = 200
    found = costs.costs(clock, {"optimizee": 2.0, "student": 1.0})
    assert (found.seconds, found.building) == (10.0, 5.0)
    assert found.shares == pytest.approx(
        {"optimizee": 0.6, "student": 0.3, "data": 0.1}
    )
    assert str(found).startswith("20.0 inner steps a second (200 in 10.0 s, after 5.0")
    assert "optimizee 60 %" in str(found)


def test_a_run_says_what_it_took_and_writes_a_trace(tmp_path, capsys):
    tf_amalgam.amalgamate(small(), workdir=tmp_path, profile=True, **SHORT)
    told = capsys.readouterr().out
    # Two truncations of two optimizees on one or two replicas; the first call builds.
    assert "inner steps a second" in told
    for who in ("optimizee", "teachers", "student", "data"):
        assert f"{who} " in told
    (trace,) = tmp_path.glob("tensorboard/plugins/profile/*/*.xplane.pb")
    found = trace.read_bytes()
    assert all(name in found for name in (b"teacher", b"student", b"way_back"))


def test_without_a_progress_bar_nothing_is_said(capsys):
    tf_amalgam.amalgamate(small(), progress=False, **SHORT)
    assert capsys.readouterr().out == ""


def test_a_trace_needs_a_folder():
    with pytest.raises(ValueError, match="workdir; give one"):
        tf_amalgam.amalgamate(small(), profile=True, **SHORT)


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("taught", [True, False])
def test_pieces(taught, second_order):
    task, who = small(), helpers.players()
    if not taught:
        who = who._replace(teachers=(), teacher_weights=())
    carry = helpers.constants(meta_step.initial_carry(task, who, 0))
    found = costs.pieces_of_a_step(
        task,
        who,
        Objective(second_order=second_order, segment=2),
        helpers.weights_of(who.student),
        carry,
        helpers.constants(task.minibatches(0, 0, 4)),
    )
    names = ["optimizee", *["teachers"] * taught, "student"]
    assert list(found) == names
    assert all(seconds > 0 for seconds in found.values())
