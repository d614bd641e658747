"""Scripts and manifests of clusters: sound, with flags that exist; a Slurm of ours."""

import ast
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests import helpers
from tests.test_cluster import BINDINGS, alone, equal

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = [*LAUNCH.glob("*.sh"), *(LAUNCH / "slurm").iterdir()]
MANIFESTS = sorted((LAUNCH / "kubernetes").glob("*.yaml"))
TEXTS = [*SCRIPTS, *MANIFESTS, LAUNCH / "Dockerfile", LAUNCH / "README.md"]
BIN = pathlib.Path(sys.executable).parent


def defined(module):
    """Returns the flags that a binary and what it shares define."""
    found = set()
    for name in (module, "binary"):
        for node in ast.walk(ast.parse((LAUNCH / f"{name}.py").read_text())):
            called = getattr(getattr(node, "func", None), "attr", "")
            if called.startswith("DEFINE_"):
                found.add(node.args[0].value)
    return found


PROGRAMS = dict(
    re.findall(
        r'"(amalg[a-z-]+)=tf_amalgam_launch\.(\w+):', (ROOT / "setup.py").read_text()
    )
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts(path):
    subprocess.run(["bash", "-n", path], check=True)
    checker = shutil.which("shellcheck", path=f"{BIN}:{os.environ['PATH']}")
    if checker is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([checker, "--external-sources", path], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("there", "has_pip", "called"),
    [
        ([], False, ["-m venv --clear venv"]),
        # Its Python is gone.
        (["bin/activate"], False, ["-m venv --clear venv"]),
        # Interrupted, or made without ensurepip: activate comes last.
        (["bin/python"], False, ["-m venv --clear venv"]),
        (["bin/python"], True, ["-m venv --clear venv"]),
        # Somebody's own, with what is in it.
        (["bin/python", "bin/activate"], False, ["-m ensurepip --upgrade"]),
        (["bin/python", "bin/activate"], True, []),
    ],
)
def test_half_an_environment_is_made_anew(there, has_pip, called, tmp_path):
    for name in [*(f"venv/{name}" for name in there), "python"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "#!/bin/sh\n"
            f'case "$*" in *pip\\ --version*) exit {int(not has_pip)};; esac\n'
            'case "$1" in -c) exit;; esac\n'
            f'echo "$*" >> {tmp_path}/called\n'
        )
        path.chmod(0o755)
    (tmp_path / "called").touch()
    script = f"set -e; . {LAUNCH}/environment.sh; make_environment venv ./python"
    subprocess.run(["bash", "-c", script], check=True, cwd=tmp_path)
    assert (tmp_path / "called").read_text().splitlines() == called


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.name)
def test_programs_and_flags_exist(path):
    """Of every command of ours, up to its end."""
    text = re.sub(r"\\\n", " ", path.read_text())
    seen = 0
    for line in re.split(r"\n(?!\s+--|\s+- --)|`", text):
        commands = re.split(r"(?<![\w/.=-])(amalg[a-z-]*)(?![\w/.=-])", line)
        for program, rest in zip(commands[1::2], commands[2::2], strict=True):
            if program not in PROGRAMS:
                continue
            for flag in re.findall(r"(?<![\w-])--([a-z_]+)", rest):
                assert flag in defined(PROGRAMS[program]), (program, flag)
                seen += 1
    assert seen or path.suffix == ".sh" or path.name in ("storage.yaml", "data.yaml")


SRUN = r"""
echo "${SRUN_CPUS_PER_TASK:-1} CPUs: ${*//$'\n'/ }" >> FOLDER/started
tasks=2  # one for each node
while [[ "$1" == --* ]]; do
  if [[ "$1" == --ntasks=* ]]; then tasks="${1#*=}"; fi
  shift
done
for ((i = 0; i < tasks; i++)); do SLURM_PROCID=$i "$@" & done
for ((i = 0; i < tasks; i++)); do wait -n || exit; done
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Stand-ins for Slurm's commands: what is submitted and started is written down.

    As in Slurm 22.05, a step has one CPU for each task unless it is told otherwise.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    stand_in(
        folder, "sbatch", 'echo "$@" >> FOLDER/submitted; wc -l < FOLDER/submitted'
    )
    # In two parts, as the names of many nodes are written.
    stand_in(folder, "scontrol", "echo localhost; command -p sleep 0.2; echo localhost")
    stand_in(folder, "srun", SRUN)
    monkeypatch.setenv("PATH", f"{folder}:{BIN}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "localhost,localhost")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "16")
    return tmp_path


def stand_in(folder, name, does):
    """Makes a command of a name; FOLDER is where it may write."""
    path = folder / name
    does = does.replace("FOLDER", str(folder.parent))
    path.write_text(f"#!/usr/bin/env bash\n{does}\n")
    path.chmod(0o755)


def test_a_campaign_is_two_arrays_of_a_batch_system(slurm):
    script = LAUNCH / "slurm" / "submit.sh"
    flags = ["runs/paper", "8", '--gin_bindings=data_dir = "/x y"']
    said = subprocess.run(
        [script, "--gpus-per-task=1", *flags],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert said == "trainings: 1, evaluations after them: 2\n"
    first, second = (slurm / "submitted").read_text().splitlines()
    assert "--parsable --gpus-per-task=1 --array=0-7" in first
    assert "runs/paper train/* 8 --gin_bindings=data_dir" in first
    assert "--gpus-per-task=1 --array=0-7 --dependency=afterany:1" in second
    assert "\n#SBATCH --ntasks=1\n" in script.with_name("share.sbatch").read_text()
    assert "runs/paper evaluate/* 8" in second
    mistakes = (["--gpus-per-task", "1", *flags], ["--qos=low"])
    for mistake in (
        ["runs/paper"],
        ["runs/paper", "x"],
        ["runs/paper", "0"],
        *mistakes,
    ):
        refused = subprocess.run(
            [script, *mistake], check=False, capture_output=True, text=True
        )
        assert refused.returncode == 2
        assert "usage: submit.sh" in refused.stderr
    assert len((slurm / "submitted").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_share_of_a_batch_system_runs_its_jobs(slurm):
    recipe = slurm / "small.gin"
    from tests.test_campaign import SMALL

    recipe.write_text(SMALL)
    lines = ["amalgamate.stages = [(4, 1)]", "amalgamate.period = 1"]
    lines += ["amalgamate.truncation_steps = 2", "amalgamate.meta_batch = 1"]
    flags = [f"--gin_file={recipe}", *(f"--gin_bindings={line}" for line in lines)]
    script = LAUNCH / "slurm" / "share.sbatch"
    variables = {**os.environ, "SLURM_ARRAY_TASK_ID": "0"}
    ran = subprocess.run(
        [script, slurm / "run", "train/*", "1", *flags], env=variables, check=False
    )
    assert ran.returncode == 0
    assert (slurm / "run" / "mine" / "replicate-0" / "curves.png").is_file()
    refused = subprocess.run(
        [script, slurm / "run", "train/*", "0", *flags],
        env=variables,
        check=False,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1
    assert "--share must be I/N, I from 0 to N − 1; received '0/0'" in refused.stderr


def test_workers_know_their_place_and_have_their_cpus(slurm):
    stand_in(slurm / "bin", "amalgamate", 'echo "$TF_CONFIG $*" >> FOLDER/workers')
    script = LAUNCH / "slurm" / "multi_worker.sbatch"
    subprocess.run([script, "--workdir=runs/a b"], check=True)
    (step,) = (slurm / "started").read_text().splitlines()
    assert step.startswith("16 CPUs: --kill-on-bad-exit=1 bash -c ")
    workers = sorted((slurm / "workers").read_text().splitlines())
    for i, line in enumerate(workers):
        place, flags = json.JSONDecoder().raw_decode(line)
        assert place == {
            "cluster": {"worker": ["localhost:20007", "localhost:20008"]},
            "task": {"type": "worker", "index": i},
        }
        assert line[flags:] == (
            ' --gin_bindings=amalgamate.strategy = "multi_worker" --workdir=runs/a b'
        )
    assert len(workers) == 2


IMPORTS = '[ "$1" = -c ] || '  # what `python -c "import ray"` does of itself


def test_a_ray_cluster_is_of_all_nodes_and_their_cpus(slurm):
    # Machines that were started have joined.
    stand_in(
        slurm / "bin", "python", f'{IMPORTS}[ "$(wc -l < FOLDER/started)" -ge "$3" ]'
    )
    stand_in(slurm / "bin", "ray", "exit 0")
    (slurm / "started").touch()
    script = LAUNCH / "slurm" / "ray.sbatch"
    command = [script, "true", "--workdir=runs/paper"]
    subprocess.run(command, check=True, timeout=60)
    head = "16 CPUs: --nodes=1 --ntasks=1 --nodelist=localhost --overlap "
    assert (slurm / "started").read_text().splitlines() == [
        f"{head}ray start --head --port=20007 --num-cpus=16 --block",
        "16 CPUs: --nodes=1 --ntasks=1 --exclude=localhost --overlap "
        "ray start --address=localhost:20007 --num-cpus=16 --block",
        f"{head}true --launcher=ray --ray_address=localhost:20007 --workdir=runs/paper",
    ]


def test_nothing_runs_on_a_part_of_a_ray_cluster(slurm, monkeypatch):
    # No second machine joins.
    stand_in(slurm / "bin", "python", IMPORTS + '[ "$3" = 1 ]')
    stand_in(slurm / "bin", "ray", "exit 0")
    monkeypatch.setenv("TF_AMALGAM_WAIT", "1")
    script = LAUNCH / "slurm" / "ray.sbatch"
    command = [script, "true", "--workdir=runs/paper"]
    ran = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 1
    assert "Of 2 machines, not all have joined" in ran.stderr
    assert "--launcher=ray" not in (slurm / "started").read_text()


@pytest.mark.slow
def test_nodes_of_a_batch_system_train_together(slurm):
    port = json.loads(helpers.cluster_of(1)[0]["TF_CONFIG"])["cluster"]["worker"][0]
    variables = {
        **os.environ,
        "TF_AMALGAM_PORT": port.rpartition(":")[2],
    }
    flags = ["--gin_file=gin_configs/experiments/quickstart.gin"]
    flags += [f"--gin_bindings={line}" for line in BINDINGS]
    subprocess.run(
        [LAUNCH / "slurm" / "multi_worker.sbatch", *flags, f"--workdir={slurm}/run"],
        env=variables,
        check=True,
    )
    equal(slurm / "run", alone(slurm / "alone", "amalgamate.replicas = 2"))
