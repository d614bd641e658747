"""The binaries as a user calls them."""

import functools
import inspect
import os
import pathlib
import re
import shlex
import subprocess
import sys
import types

import gin
import pytest
from tf_amalgam_launch import report

from tests import helpers
from tests.test_gin import TINY
from tf_amalgam import (
    bindings,
    engines,
    jobs,
    plan,
    processes,
    records,
    rules,
    saved,
)

FILE = "gin_configs/experiments/quickstart.gin"
MANY = "gin_configs/experiments/mnist_evaluate.gin"


@pytest.fixture(autouse=True)
def cleared():
    yield
    gin.clear_config()


def binary(module, *flags, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", f"tf_amalgam_launch.{module}", *flags],
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_home_folder_behind_a_flag(monkeypatch):
    """Shells leave the ~ of --workdir=~/runs as it is."""
    given = {"workdir": "~/runs", "gin_file": ["~/a.gin", "b.gin"], "output": None}
    flags = {k: types.SimpleNamespace(value=value) for k, value in given.items()}
    monkeypatch.setattr(report.binary, "FLAGS", flags)
    monkeypatch.setenv("HOME", "/home/me")
    report.binary._expand_paths()
    assert {k: flag.value for k, flag in flags.items()} == {
        "workdir": "/home/me/runs",
        "gin_file": ["/home/me/a.gin", "b.gin"],
        "output": None,
    }


def printed(module, *flags):
    """Returns what a binary prints that ends well."""
    run = binary(module, *flags)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_amalgamate_then_evaluate(tmp_path):
    tiny = [f"--gin_bindings={line}" for line in TINY]
    flags = [f"--gin_file={FILE}", f"--workdir={tmp_path}/run", *tiny, "--profile"]
    run = printed("amalgamate", *flags)
    assert list(tmp_path.glob("run/tensorboard/plugins/profile/*/*.xplane.pb"))
    assert f"Trained optimizer: {tmp_path}/run/student.npz" in run
    chosen = {"mine": f"{tmp_path}/run/student.npz", "adam": "adam"}
    evaluated = printed(
        "evaluate",
        f"--gin_file={MANY}",
        f"--workdir={tmp_path}/evaluation",
        *tiny,
        f"--gin_bindings=evaluate.optimizers = {chosen}",
    )
    assert "| mine " in evaluated
    assert (tmp_path / "evaluation" / "curves.png").is_file()


def test_the_quickstart_then_a_card_and_a_report(tmp_path):
    tiny = [f"--gin_bindings={line}" for line in TINY]
    told = printed("quickstart", f"--workdir={tmp_path}", *tiny)
    assert {"student", "untrained", "adam", "rmsprop"} <= set(told.split())
    assert f'"{tmp_path}/amalgam/student.npz"' in told
    for file in re.findall(r"/[\w./-]+\.(?:npz|png)", told):
        assert os.path.isfile(file), file
    exported = printed(
        "export",
        f"--workdir={tmp_path}/amalgam",
        f"--output={tmp_path}/mine.npz",
        f"--evaluation={tmp_path}/evaluation",
        "--label=student",
        "--rivals=rmsprop",
        "--licence=CC0-1.0",
    )
    assert "licence: CC0-1.0" in exported
    assert "best rival" in (tmp_path / "mine.md").read_text()
    reported = printed(
        "report",
        f"{tmp_path}/evaluation",
        "--reference=student",
        f"--output={tmp_path}/report",
        f"--markdown={tmp_path}/page.md",
        "--rivals=rmsprop",
    )
    assert reported.strip() == f"{tmp_path}/report/index.html"
    page = (tmp_path / "page.md").read_text()
    assert "Reference: student" in page
    assert "Rivals: rmsprop" in page


@pytest.mark.slow
def test_replicates(tmp_path):
    flags = [f"--gin_file={FILE}", f"--workdir={tmp_path}", "--replicates=2"]
    flags += [f"--gin_bindings={line}" for line in TINY]
    run = printed("amalgamate", *flags)
    assert f"2 replicates: {tmp_path}/replicates.csv" in run
    told = (tmp_path / "README.md").read_text()
    assert shlex.join(["amalgamate", *flags]) in told
    refused = binary("amalgamate", *flags, "--profile")
    assert refused.returncode == 1
    assert "--profile goes with one run" in refused.stderr


@pytest.mark.slow
def test_processes_divide_an_evaluation(tmp_path):
    flags = [f"--gin_file={MANY}", f"--workdir={tmp_path}"]
    flags += [f"--gin_bindings={line}" for line in TINY]
    flags += ["--gin_bindings=evaluate.seeds = [0, 1]"]
    printed("evaluate", *flags, "--parallel=2")
    assert len(records.read_all(tmp_path)) == 4
    logs = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert logs == ["worker-0.txt", "worker-1.txt"]
    assert (tmp_path / "table.md").read_text().count("| 2 ") == 2
    # The folder's files are those of the whole, and all records say the same.
    operative = (tmp_path / "operative_config.gin").read_text()
    (told,) = {record["configuration"] for record in records.read_all(tmp_path)}
    assert "evaluate.seeds = [0, 1]" in operative
    assert "evaluate.seeds = [0, 1]" in told
    assert "evaluate.limit" not in operative + told
    refused = binary("evaluate", *flags, "--parallel=0")
    assert refused.returncode == 1
    assert "parallel must be a whole number from 1" in refused.stderr


@pytest.mark.slow
def test_grid_search(tmp_path):
    run = printed(
        "grid_search",
        "--gin_file=gin_configs/experiments/grid_search.gin",
        f"--workdir={tmp_path}",
        *(f"--gin_bindings={line}" for line in TINY),
        "--gin_bindings=grid_search.teachers = ['sgd']",
    )
    assert "| teacher | 0.01 " in run
    assert f"{tmp_path}/pool.gin" in run
    assert (tmp_path / "pool.gin").is_file()


@pytest.mark.slow
def test_import(tmp_path):
    weights = rules.RNNProp().init_weights(4)
    helpers.released_checkpoint(tmp_path / "1" / "weights", weights)
    run = printed(
        "import_weights",
        f"--checkpoint={tmp_path}/1",
        f"--output={tmp_path}/mine.npz",
        *("--scheme=mean", "--teachers=sgd,adam"),
    )
    assert f"tf_amalgam.load('{tmp_path}/mine.npz')" in run
    assert saved.load(tmp_path / "mine.npz").rule.normalizer == "constant"
    about = saved.read(tmp_path / "mine.npz")[2]["about"]
    assert about["scheme"] == "mean"
    assert [teacher["rule"] for teacher in about["teachers"]] == ["sgd", "adam"]


@pytest.mark.slow
def test_the_plan_is_listed(tmp_path):
    run = printed("train_zoo", f"--workdir={tmp_path}", "--list")
    assert run.count("not begun") == len(plan.entries())


def test_a_report_multiplies_on_one_thread(monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setattr(report.binary, "start", lambda *_, **__: None)
    report.entry()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"


WITHOUT = "gin_configs/experiments/figure2_original.gin"
CPU = "gin_configs/forms/cpu.gin"


@pytest.mark.parametrize(
    ("run", "files", "message"),
    [
        (
            functools.partial(bindings.run, "amalgamate"),
            [WITHOUT],
            f"No optimizee is given: .* amalgamate.task. Add a form, .*{CPU}",
        ),
        (
            functools.partial(bindings.run_replicates, 2),
            [WITHOUT],
            f"No optimizee is given: .* amalgamate.task. Add a form, .*{CPU}",
        ),
        (
            bindings.run_evaluation,
            [CPU],
            r"binds evaluate.tasks\. Add an evaluation, .*evaluate.optimizers\. Add",
        ),
        (
            functools.partial(bindings.run, "grid_search"),
            [CPU],
            "No optimizee is given: .* grid_search.task. Add one: .*tasks/train.gin",
        ),
    ],
)
def test_what_is_missing_is_said_before_any_work(run, files, message, tmp_path):
    with pytest.raises(ValueError, match=message) as refused:
        run(files, TINY, tmp_path / "run")
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_whatever_has_no_default_is_checked():
    for name, needed in bindings.NEEDED.items():
        parameters = inspect.signature(bindings.CONFIGURABLES[name]).parameters
        free = {k for k, v in parameters.items() if v.default is v.empty}
        assert free - {"workdir"} == set(needed)


def test_the_remedies_that_are_named_help():
    """Each file of a remedy exists, each binding does away with the complaint."""
    for name, needed in bindings.NEEDED.items():
        remedies = " ".join(remedy for _, remedy in needed.values())
        files = re.findall(r"--gin_file=(\S+\.gin)", remedies)
        lines = re.findall(r"--gin_bindings='(.*?)'", remedies)
        bindings.parse(files, lines)
        bindings.check_given(name)


@pytest.mark.parametrize(
    ("module", "flags", "message"),
    [
        ("amalgamate", [f"--gin_file={FILE}"], "Flag --workdir must have a value"),
        (
            "amalgamate",
            ["--gin_file=nothing.gin", "--workdir=x"],
            "error: Unknown gin file",
        ),
        (
            "amalgamate",
            [f"--gin_file={FILE}", "--workdir="],
            "It is empty (an unset variable?)",
        ),
        (
            "amalgamate",
            ["--gin_file", FILE, MANY, "--workdir=x"],
            f"error: not understood: {MANY}. Flags are written --name=value",
        ),
        # Others of the kinds above; the first includes files.
        pytest.param(
            "paper",
            ["--gin_bindings=campaign.replicates = 0", "--workdir=x"],
            "error: campaign.replicates must be a whole number from 1",
            marks=pytest.mark.slow,
        ),
        *(
            pytest.param(
                name,
                [f"--gin_file={FILE}", "--workdir=x", "--only=a", "--parallel=2"],
                "error: --only is of one process",
                marks=pytest.mark.slow,
            )
            for name in ("grid_search", "evaluate")
        ),
        pytest.param(
            "amalgamate",
            [f"--gin_file={WITHOUT}", "--workdir=x"],
            "error: No optimizee is given",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "grid_search",
            [f"--gin_file={FILE}", "--workdir=x", "--noreport"],
            "error: --noreport goes with --only",
            marks=pytest.mark.slow,
        ),
        (
            "evaluate",
            [f"--gin_file={FILE}", "--workdir=x", "--ray_address=auto"],
            "error: --ray_address is of a cluster; give --launcher=ray",
        ),
        (
            "evaluate",
            [f"--gin_file={FILE}", "--workdir=x", "--parallel=2", "--job_cpus=4"],
            "error: --job_cpus is of a cluster; give --launcher=ray",
        ),
        (
            "grid_search",
            [f"--gin_file={FILE}", "--workdir=x", "--parallel=2", "--launcher=ray"],
            "error: --parallel is of this machine",
        ),
        pytest.param(
            "amalgamate",
            [
                f"--gin_file={FILE}",
                "--workdir=x",
                "--gin_bindings=amalgamate.teachers=5",
            ],
            "error: Teachers are given by a pool's name",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "report",
            [],
            "error: expected one folder of records",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "import_weights",
            ["--output=x.npz"],
            "Flag --checkpoint must have a value",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "import_weights",
            ["--checkpoint=nothing", "--output=x.npz"],
            "error: There is no checkpoint at nothing",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_mistakes_end_in_one_message(module, flags, message, tmp_path):
    run = binary(module, *flags, cwd=tmp_path)
    assert run.returncode != 0
    assert message in run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    assert "Path not found" not in run.stderr


@pytest.mark.slow
def test_a_campaign_is_planned_and_its_list_is_run(tmp_path):
    """The list may be edited; what it is run with is the campaign's."""
    flags = ["--gin_bindings=campaign.replicates = 1", f"--workdir={tmp_path}"]
    told = printed("paper", "--plan", "--only=train/*", "--job_gpus=0.5", *flags)
    assert re.search(r"\| train/scale +\| 1 +\| 0 +\| not measured", told)
    path = tmp_path / "jobs.jsonl"
    assert told.endswith(f"Jobs, one a line: {path}\n")
    listed = jobs.read(path)
    assert len(listed) == 12
    assert {job.gpus for job in listed} == {0.5}
    done = listed[3]._replace(makes=(str(path),))
    jobs.write([done], path)
    binary_flags = ("--jobs", str(path), *flags)
    run = binary("paper", *binary_flags)
    assert run.returncode == 0, run.stderr
    assert "1/1" in run.stderr
    text = path.read_text()
    told = printed("paper", "--plan", "--share=1/2", *binary_flags)
    assert path.read_text() == text  # a list that is given is left as it is
    assert re.search(r"\| all that was measured +\| 0 ", told)
    jobs.write([done._replace(name="a"), done._replace(name="a")], path)
    with open(path, "a") as file:
        file.write("{}\n")
    refused = binary("paper", *binary_flags)
    assert refused.returncode == 1
    assert "Line 3 of" in refused.stderr


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("amalgamate", ["Trains an optimizer out of", "--replicates", "--gin_file"]),
        ("amalgam-report", ["--markdown", "--reference"]),
    ],
)
def test_help_is_of_the_program(program, told):
    """Of a console script, which is no module of ours."""
    script = pathlib.Path(sys.executable).with_name(program)
    run = subprocess.run(
        [script, "--help"], check=False, capture_output=True, text=True
    )
    assert "USAGE" not in run.stdout
    for words in told:
        assert words in run.stdout
    assert "--replicates" not in run.stdout or program == "amalgamate"


def test_children_are_of_the_version_that_runs(tmp_path):
    """Not of a checkout in whose folder it runs; `-m` looks there first."""
    for name in ("__init__.py", "report.py"):
        path = tmp_path / "tf_amalgam_launch" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("print('of the folder')")
    log = tmp_path / "log.txt"
    processes.started("report", [], [], tmp_path, log, folder=tmp_path).wait()
    assert "of the folder" not in log.read_text()
    assert "workdir" in log.read_text()  # a flag that a report has not
    # Modules beside a script, which it has loaded, are for its children, too.
    command = "import sys; from tf_amalgam import processes; sys.path.insert(0, '')\n"
    command += "processes.started('report', [], [], 'x', 'log.txt').wait()"
    subprocess.run([sys.executable, "-c", command], check=True, cwd=tmp_path)
    assert "of the folder" in log.read_text()


def program_of(folder, code):
    """Returns what became of a program of this code."""
    program = folder / "program.py"
    program.write_text(code)
    return subprocess.run(
        [sys.executable, program], check=False, capture_output=True, text=True
    )


def test_another_experiments_folder_has_a_status_of_its_own(tmp_path):
    run = program_of(
        tmp_path,
        "from tf_amalgam_launch import binary\n"
        "def main(_):\n"
        "    from tf_amalgam.workdir import AnotherExperiment\n"
        "    raise AnotherExperiment('not here')\n"
        "binary.start(main)\n",
    )
    assert (run.returncode, run.stderr) == (engines.ANOTHER, "error: not here\n")


def test_a_stop_from_outside_has_a_status_of_its_own(tmp_path):
    run = program_of(
        tmp_path,
        "import os, signal\n"
        "from tf_amalgam_launch import binary\n"
        "def main(_): os.kill(os.getpid(), signal.SIGTERM)\n"
        "binary.start(main, with_tensorflow=False)\n",
    )
    assert run.returncode == engines.INTERRUPTED
    assert "the same command continues from the last checkpoint" in run.stderr


STOPPED_TWICE = """
import os, signal, time
from tf_amalgam_launch import binary

# Whatever has started this may ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

def main(_):
    try:
        os.kill(os.getpid(), signal.{first})
        time.sleep(10)
    finally:
        for again in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), again)
            time.sleep(0.1)
        print("checkpoint written")

binary.start(main, with_tensorflow=False)
"""
STOPPED_EARLY = """
import os, signal, time
from tf_amalgam_launch import binary

def set_up(onednn):  # the first thing before modules are loaded
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)

binary.processors.set_up = set_up
binary.start(print)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child")
def test_a_process_whose_parent_is_gone_does_nothing(tmp_path):
    """It could not be told any more."""
    code = "binary.start(lambda argv: print('begun'), with_tensorflow=False)"
    for parent, status, said in ((os.getpid(), 0, "begun"), (2**30, 1, "has ended")):
        run = subprocess.run(
            [sys.executable, "-c", f"from tf_amalgam_launch import binary; {code}"],
            env={**os.environ, "TF_AMALGAM_PARENT": str(parent)},
            check=False,
            capture_output=True,
            text=True,
        )
        assert run.returncode == status
        assert said in run.stdout + run.stderr
        assert ("begun" in run.stdout) == (status == 0)


def test_a_stop_has_its_status_also_where_nobody_reads(tmp_path):
    """Ctrl-C ends what it was piped into, too."""
    program = tmp_path / "unread.py"
    program.write_text(
        "import sys\n"
        "from tf_amalgam_launch import binary\n"
        "def main(_):\n"
        "    for stream in (sys.stdout, sys.stderr):\n"
        "        try:\n"
        "            print('to nobody', file=stream)\n"
        "        except OSError:\n"
        "            pass\n"
        "    raise KeyboardInterrupt\n"
        "binary.start(main, with_tensorflow=False)\n"
    )
    read, write = os.pipe()
    os.close(read)
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    run = subprocess.run(
        [sys.executable, program],
        check=False,
        stdout=write,
        stderr=write,
        env=buffered,
        timeout=60,
    )
    os.close(write)
    assert run.returncode == engines.INTERRUPTED


@pytest.mark.parametrize(
    ("code", "said"),
    [
        *(
            (STOPPED_TWICE.format(first=first), "checkpoint written\n")
            for first in ("SIGTERM", "SIGINT")
        ),
        (STOPPED_EARLY, ""),
    ],
)
def test_a_stop_is_heard_once_and_at_any_time(code, said, tmp_path):
    program = tmp_path / "stopped.py"
    program.write_text(code)
    run = subprocess.run(
        [sys.executable, program],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stdout) == (engines.INTERRUPTED, said)
    assert "Traceback" not in run.stderr


def test_a_package_that_is_missing_ends_in_a_message(tmp_path):
    program = tmp_path / "lacking.py"
    program.write_text(
        "from tf_amalgam_launch import binary\n"
        "def main(_): raise ImportError('Install what is private.')\n"
        "binary.start(main, with_tensorflow=False)\n"
    )
    run = subprocess.run(
        [sys.executable, program], check=False, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (1, "error: Install what is private.\n")


@pytest.mark.slow
def test_several_at_a_time_are_replicates(tmp_path):
    flags = [f"--gin_file={FILE}", f"--workdir={tmp_path}/run"]
    for flag in ("--parallel=2", "--launcher=ray"):
        refused = binary("amalgamate", *flags, flag)
        assert "--parallel and --launcher are of replicates" in refused.stderr
    assert not (tmp_path / "run").exists()
