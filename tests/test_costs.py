"""What a run says of its own costs: shares that add up, and a trace by name."""

import pytest

import tf_amalgam
from tests import helpers
from tf_amalgam import costs, meta_step, tasks
from tf_amalgam.objective import Objective

SHORT = {
    **helpers.SHORT_LESSON,
    "stages": ((4, 1),),
    "truncation_steps": 4,
    "period": 2,
}


def small():
    return tasks.mlp("digits", hidden=(4,), batch_size=8)


def test_shares_add_up():
    clock = costs.Clock()
    clock.seconds.update(steps=9.0, data=1.0, building=5.0)
    # Twice as many steps, at half the seconds of each.
    clock.inner_steps.update({Objective(): 40, Objective(alpha=0.0): 160})
    clock.inner_steps.update({Objective(teacher_forcing=True): 400})
    pieces = {False: {"optimizee": 2.0, "student": 1.0}, True: {"optimizee": 0.5}}
    asked = []

    def pieces_of(objective):
        asked.append(objective)
        return pieces[objective.teacher_forcing]

    found = costs.costs(clock, pieces_of)
    assert len(asked) == 2
    assert (found.seconds, found.building) == (10.0, 5.0)
    assert found.shares == pytest.approx(
        {"optimizee": 0.675, "student": 0.225, "data": 0.1}
    )
    assert str(found).startswith("60.0 inner steps a second (600 in 10.0 s, after 5.0")
    assert "optimizee 68 %" in str(found)


def test_a_run_says_what_it_took_and_writes_a_trace(tmp_path, capsys):
    shown = {**SHORT, "progress": True}
    tf_amalgam.amalgamate(small(), workdir=tmp_path, profile=True, **shown)
    told = capsys.readouterr().out
    # Two truncations of four steps, of which the first builds the program.
    assert "inner steps a second (4 in " in told
    for who in ("optimizee", "teachers", "student", "data"):
        assert f"{who} " in told
    (trace,) = tmp_path.glob("tensorboard/plugins/profile/*/*.xplane.pb")
    found = trace.read_bytes()
    assert all(name in found for name in (b"teacher", b"student", b"way_back"))


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_steps_of_all_replicas_count(replicas, capsys):
    shown = {**SHORT, "progress": True, "meta_batch": 2, "replicas": replicas}
    tf_amalgam.amalgamate(small(), **shown)
    # One replica takes the optimizees in turn: the first of them builds the program.
    steps = {1: 12, 2: 8}[replicas]
    assert f"inner steps a second ({steps} in " in capsys.readouterr().out


def test_without_a_progress_bar_nothing_is_said(capsys):
    tf_amalgam.amalgamate(small(), **SHORT)
    assert capsys.readouterr().out == ""


def test_a_single_step_builds_and_measures_nothing(capsys):
    shown = {**SHORT, "progress": True, "period": 1}
    tf_amalgam.amalgamate(small(), **shown)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_finished_run_has_nothing_to_trace(tmp_path, capsys, caplog):
    shown = {**SHORT, "progress": True}
    tf_amalgam.amalgamate(small(), workdir=tmp_path, **shown)
    capsys.readouterr()
    tf_amalgam.amalgamate(small(), workdir=tmp_path, profile=True, **shown)
    assert capsys.readouterr().out == ""
    assert "No trace was written" in caplog.text


def test_a_trace_needs_a_folder():
    with pytest.raises(ValueError, match="workdir; give one"):
        tf_amalgam.amalgamate(small(), profile=True, **SHORT)


@pytest.fixture
def a_second_each(monkeypatch):
    """Each piece is compiled and called, and is then said to take a second."""
    measured = costs._seconds
    monkeypatch.setattr(
        costs, "_seconds", lambda *args: 1.0 if measured(*args) else 0.0
    )


def test_pieces_of_teacher_forcing(a_second_each):
    """One gradient, and the loss at the start; teachers' rules alone; ours and back."""
    task, who = small(), helpers.players()
    found = costs.pieces_of_a_step(
        task,
        who,
        Objective(teacher_forcing=True, segment=1),
        helpers.weights_of(who.student),
        helpers.constants(meta_step.initial_carry(task, who, 0)),
        helpers.constants(task.minibatches(0, 0, 4)),
    )
    assert found == {"optimizee": 2.0, "teachers": 1.0, "student": 2.0}


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("taught", [True, False])
def test_pieces(taught, second_order, a_second_each):
    """They count as often as a step needs them."""
    task, who = small(), helpers.players()
    if not taught:
        who = who._replace(teachers=(), teacher_weights=())
    carry = helpers.constants(meta_step.initial_carry(task, who, 0))
    found = costs.pieces_of_a_step(
        task,
        who,
        Objective(second_order=second_order, segment=4),
        helpers.weights_of(who.student),
        carry,
        helpers.constants(task.minibatches(0, 0, 4)),
    )
    # Gradient and loss at the start, and the second derivative.
    expected = {"optimizee": 3.0 if second_order else 2.0}
    if taught:
        expected["teachers"] = 2.0 + 1.0  # a gradient for each, all rules at once
    # Forward, three of four times again, and back.
    assert found == expected | {"student": 1.75 + 1.0}
