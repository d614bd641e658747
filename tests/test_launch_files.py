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
    assert seen or path.suffix == ".sh" or path.name in ("storage.yaml", "ray.yaml")


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_manifests(path):
    yaml = pytest.importorskip("yaml")
    for told in yaml.safe_load_all(path.read_text()):
        assert told["kind"] in ("Job", "TFJob", "RayCluster", "PersistentVolumeClaim")
        text = json.dumps(told)
        if told["kind"] == "PersistentVolumeClaim":
            assert told["metadata"]["name"] == "amalgam-runs"
            continue
        assert '"claimName": "amalgam-runs"' in text
        assert set(re.findall(r'"image": "([^"]+)"', text)) == {"tf-amalgam:latest"}
        for name in re.findall(r"gin_configs/[\w/.-]+\.gin", text):
            assert (ROOT / name).is_file()
        if told["kind"] == "Job":  # as many shares as pods
            count = told["spec"]["completions"]
            assert f'$JOB_COMPLETION_INDEX/{count}\\"' in text


def test_the_image_holds_what_setup_needs():
    copied = re.findall(r"^COPY (.+) \S+$", (LAUNCH / "Dockerfile").read_text(), re.M)
    names = {name for line in copied for name in line.split()}
    assert names == {"setup.py", "README.md", "tf_amalgam", "gin_configs", "launch"}
    assert all((ROOT / name).exists() for name in names)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Stand-ins for Slurm's commands: what is submitted is written down."""
    folder = tmp_path / "bin"
    folder.mkdir()
    commands = {
        "sbatch": f'echo "$@" >> {tmp_path}/submitted; wc -l < {tmp_path}/submitted',
        "scontrol": "echo localhost; echo localhost",
        # A process for each node.
        "srun": 'shift; for i in 0 1; do SLURM_PROCID=$i "$@" & done; '
        "wait -n && wait -n",
    }
    for name, does in commands.items():
        path = folder / name
        path.write_text(f"#!/usr/bin/env bash\n{does}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{BIN}:{os.environ['PATH']}")
    return tmp_path


def test_a_campaign_is_two_arrays_of_a_batch_system(slurm):
    script = LAUNCH / "slurm" / "submit.sh"
    flags = ["runs/paper", "8", '--gin_bindings=data_dir = "/x y"']
    said = subprocess.run(
        [script, *flags], check=True, capture_output=True, text=True
    ).stdout
    assert said == "trainings: 1, evaluations after them: 2\n"
    first, second = (slurm / "submitted").read_text().splitlines()
    assert "--array=0-7" in first
    assert "runs/paper train/* 8 --gin_bindings=data_dir" in first
    assert "--dependency=afterok:1" in second
    assert "runs/paper evaluate/* 8" in second
    for mistake in (["runs/paper"], ["runs/paper", "x"], ["runs/paper", "0"]):
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


@pytest.mark.slow
def test_nodes_of_a_batch_system_train_together(slurm):
    port = json.loads(helpers.cluster_of(1)[0]["TF_CONFIG"])["cluster"]["worker"][0]
    variables = {
        **os.environ,
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "localhost,localhost",
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
