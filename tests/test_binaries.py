"""The binaries as a user calls them."""

import subprocess
import sys

import pytest

from tests.test_gin import TINY

FILE = "gin_configs/experiments/quickstart.gin"


def binary(module, *flags):
    return subprocess.run(
        [sys.executable, "-m", f"tf_amalgam.launch.{module}", *flags],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_amalgamate_then_evaluate(tmp_path):
    tiny = [f"--gin_bindings={line}" for line in TINY]
    run = binary("amalgamate", f"--gin_file={FILE}", f"--workdir={tmp_path}/run", *tiny)
    assert run.returncode == 0, run.stderr
    assert f"Trained optimizer: {tmp_path}/run/student.npz" in run.stdout
    chosen = {"mine": f"{tmp_path}/run/student.npz", "adam": "adam"}
    evaluated = binary(
        "evaluate",
        f"--gin_file={FILE}",
        f"--workdir={tmp_path}/evaluation",
        *tiny,
        f"--gin_bindings=evaluate.optimizers = {chosen}",
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert "| mine " in evaluated.stdout
    assert (tmp_path / "evaluation" / "curves.png").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((f"--gin_file={FILE}",), "Flag --workdir must have a value"),
        (("--gin_file=nothing.gin", "--workdir=x"), "error: Unknown gin file"),
    ],
)
def test_mistakes_end_in_one_message(flags, message):
    run = binary("amalgamate", *flags)
    assert run.returncode != 0
    assert message in run.stdout + run.stderr
    assert "Traceback" not in run.stderr
