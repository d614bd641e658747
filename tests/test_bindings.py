"""What was really in force is in every record, and workers leave the folder's files."""

import errno
import functools
import os
import types

import gin
import pytest

import tf_amalgam
from tests import helpers
from tf_amalgam import bindings, records, references, rules

FILE = "gin_configs/experiments/mnist_evaluate.gin"
LINES = [
    "Train/conv.dataset = 'digits'",
    "Train/conv.filters = [(4, 3)]",
    "Train/conv.batch_size = 16",
    "evaluate.seeds = [0]",
    "evaluate.epochs = 1",
    "evaluate.progress = False",
    "evaluate.optimizers = ['sgd']",
    "evaluate.baselines = ()",
    "evaluate.warmup_steps = 1",
    "amalgamate.alpha = 0.3",
]


@pytest.fixture(autouse=True)
def cleared():
    yield
    gin.clear_config()


def evaluated(folder, **options):
    return bindings.run_evaluation([FILE], LINES, folder, **options)


def test_records_hold_the_operative_configuration(tmp_path):
    """Defaults in force are in it; what nobody asked for is not."""
    (record,) = evaluated(tmp_path)
    told = record["configuration"]
    assert "evaluate.epochs = 1" in told
    assert "evaluate.write_report = True" in told
    assert "Train/conv.batch_size = 16" in told
    assert "Train/conv.name = " in told
    assert "amalgamate" not in told
    # What is called is one evaluation, whoever does it and wherever it lies.
    for own in ("workdir", "configuration"):
        assert f"evaluate.{own}" not in told
    assert (tmp_path / "operative_config.gin").read_text() == told
    assert "amalgamate.alpha = 0.3" in (tmp_path / "config.gin").read_text()


def test_a_worker_does_its_share_and_leaves_the_folders_files(tmp_path):
    for name in ("config.gin", "operative_config.gin", "table.md"):
        (tmp_path / name).write_text("of the whole")
    (record,) = evaluated(tmp_path, worker_of=os.getppid())
    assert "evaluate.epochs = 1" in record["configuration"]
    # Not in force for the evaluation as a whole.
    for own in ("limit", "halt", "progress", "write_report"):
        assert f"evaluate.{own}" not in record["configuration"]
    for name in ("config.gin", "operative_config.gin", "table.md"):
        assert (tmp_path / name).read_text() == "of the whole"


@pytest.mark.parametrize("error", [KeyboardInterrupt, TypeError, RuntimeError])
@pytest.mark.parametrize(
    ("there", "written"),
    [
        ([], False),  # before the folder was anybody's
        (["settings.json"], True),  # its own, as it seems
        (["settings.json", "made.json"], False),  # maybe another experiment's
    ],
)
def test_an_interrupted_run_leaves_what_made_a_folder(
    tmp_path, monkeypatch, there, written, error
):
    def stopped(**_):
        raise error("by hand")

    for name in there:
        (tmp_path / name).write_text("{}")
    monkeypatch.setitem(bindings.REGISTERED, "amalgamate", stopped)
    with pytest.raises(error):
        bindings.run("amalgamate", [], ["amalgamate.task = 'none'"], tmp_path)
    for name in ("made.json", "config.gin", "operative_config.gin"):
        path = tmp_path / name
        assert path.is_file() == (written or name in there)
        assert not path.is_file() or written == (path.read_text() != "{}")


def test_a_parameter_without_its_function_is_refused(tmp_path):
    for name, line, meant in (
        ("amalgamate", "alpha = 0.3", "amalgamate.alpha"),
        ("evaluate", "seeds = [1]", "evaluate.seeds"),
        ("amalgamate", "x = 1\nseed=3", "amalgamate.seed"),
    ):
        needed = "amalgamate.task = 'none'"
        with pytest.raises(ValueError, match=rf"bind it with its .*, {meant}\.$"):
            bindings.run(name, [FILE], [needed, line], tmp_path / "run")
    # What something refers to is a macro, as is what another function's parameter is.
    lines = [
        "seed = 3",
        "amalgamate.seed = %seed",
        "epochs = 1",
        "evaluate:\n  epochs=2",
    ]
    bindings.parse([FILE], lines)
    # As is what another configuration refers to, of which this is a part.
    bindings.check_used(["amalgamate"], ["alpha = 1"], "amalgamate.alpha = %alpha")
    bindings.check_used(["amalgamate"], lines)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train/conv.name = 'x'", "@train/conv"),  # it is Train
        ("rules.rnnprop.units = 40", "@rules.rnnprop"),
        ("Train/tasks.mlp.name = 'x'", "@Train/tasks.mlp"),
        ("thing = 1", "%thing"),
    ],
)
def test_what_nothing_refers_to_is_said(line, said, caplog):
    def check(*lines):
        bindings.parse([FILE], lines)
        bindings.check_used(["evaluate"], lines)

    references._warn_once.cache_clear()
    for _ in range(2):
        check(line)
    assert caplog.text.count(f"but nothing refers to {said}.") == 1
    caplog.clear()
    references._warn_once.cache_clear()
    check("data_dir = '/data'", *LINES)
    check("rules.rnnprop.units = 40", "amalgamate.student = @rules.rnnprop()")
    check("thing = 1", "evaluate.epochs = %thing")
    assert not caplog.text


def test_a_bracket_that_is_not_closed():
    with pytest.raises(ValueError, match="configuration cannot be read"):
        bindings.parse([FILE], ["evaluate.optimizers = ['adam'"])


def test_a_full_disk_keeps_its_number(tmp_path, monkeypatch):
    """Gin raises another error in its place."""

    def full(**_):
        raise OSError(errno.ENOSPC, "No space left")

    wrapped = gin.external_configurable(full, name="full_disk")
    monkeypatch.setitem(bindings.REGISTERED, "amalgamate", wrapped)
    with pytest.raises(OSError, match="No space") as raised:
        bindings.run("amalgamate", [], ["amalgamate.task = 'none'"], tmp_path)
    assert raised.value.errno == errno.ENOSPC


def test_a_training_and_an_evaluation_do_not_share_a_folder(tmp_path, caplog):
    """Each would replace the other's configuration, and what made it."""
    task, short = helpers.tiny_task(), {"stages": ((6, 1),), "truncation_steps": 6}
    training = functools.partial(
        tf_amalgam.amalgamate, task, student="learned_scalars", progress=False, **short
    )
    given = {"seeds": [0], "epochs": 1, "warmup_steps": 1, "progress": False}
    evaluation = functools.partial(tf_amalgam.evaluate, ["sgd"], task, **given)
    whole, single = tmp_path / "replicates", tmp_path / "replicates" / "replicate-0"
    training(workdir=single)
    for folder in (whole, single):
        before = {path: path.read_bytes() for path in folder.glob("*.*")}
        with pytest.raises(ValueError, match="holds a training"):
            evaluation(workdir=folder)
        assert {path: path.read_bytes() for path in folder.glob("*.*")} == before
    folder = single / "evaluation"
    evaluation(workdir=folder)
    with pytest.raises(ValueError, match="holds an evaluation"):
        training(workdir=folder)
    lines = ["amalgamate.task = @tasks.quadratic()"]
    with pytest.raises(ValueError, match="holds an evaluation"):
        bindings.run_replicates(2, [], lines, folder)
    assert not (folder / "settings.json").exists()
    # One that both have made, before, is gone on with.
    (folder / "settings.json").write_text("{}")
    evaluation(workdir=folder)
    assert "holds a training" in caplog.text


@pytest.mark.parametrize("parallel", [1, 2])
def test_an_evaluation_without_its_report(tmp_path, parallel):
    (record,) = evaluated(tmp_path, report=False, parallel=parallel)
    assert record["optimizer"] == "sgd"
    assert not list(tmp_path.glob("*.md")) + list(tmp_path.glob("*.gin"))


@pytest.mark.parametrize("chief", [True, False])
def test_of_several_machines_the_chief_alone_writes(tmp_path, monkeypatch, chief):
    extended = types.SimpleNamespace(should_checkpoint=chief)
    joined = types.SimpleNamespace(extended=extended)
    monkeypatch.setattr(bindings.cluster, "_joined", [joined])
    monkeypatch.setitem(bindings.REGISTERED, "amalgamate", lambda **_: None)
    lines = ["amalgamate.strategy = 'multi_worker'", "amalgamate.task = 'none'"]
    bindings.run("amalgamate", [], lines, tmp_path)
    assert bool(list(tmp_path.iterdir())) == chief


def test_a_worker_whose_parent_is_gone_does_nothing(tmp_path):
    assert evaluated(tmp_path, worker_of=os.getppid() + 1) == []
    assert records.record_paths(tmp_path) == []


def test_from_python_the_arguments_are_kept(tmp_path):
    (record,) = tf_amalgam.evaluate(
        {"mine": rules.SGD(0.1)},
        helpers.tiny_task(),
        workdir=tmp_path,
        seeds=[4],
        epochs=1,
        warmup_steps=2,
        preset="released",
        progress=False,
    )
    lines = record["configuration"].splitlines()
    assert lines[0] == "# Arguments of tf_amalgam.evaluate"
    assert lines[1:] == [
        "evaluate.tasks = ['tiny']",
        "evaluate.optimizers = ['mine']",
        "evaluate.seeds = [4]",
        "evaluate.epochs = 1",
        "evaluate.warmup_steps = 2",
        "evaluate.warmup_learning_rate = 0.01",
        "evaluate.preset = 'released'",
    ]
