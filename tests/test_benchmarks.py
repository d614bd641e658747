"""What the benchmarks say of a measurement, and when they fail."""

import argparse
import importlib
import math
import pathlib
import subprocess
import sys
import types

import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Returns a function that imports a benchmark as its command does."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def test_goals_and_floors(benchmark):
    ratio = benchmark("measuring").Ratio
    speed = ratio("speed", "plain", 1.1, 0.05, 1.3, 1.0, True)
    assert (speed.reached, speed.broke) == (False, False)
    assert speed._replace(value=1.3).reached
    assert not speed._replace(value=0.96).broke  # within the noise
    assert speed._replace(value=0.94).broke
    memory = ratio("memory", "plain", 0.3, 0.05, 0.25, 0.4, False)
    assert (memory.reached, memory.broke) == (False, False)
    assert memory._replace(value=0.25).reached
    assert not memory._replace(value=0.44).broke
    assert memory._replace(value=0.46).broke
    lost = memory._replace(value=math.nan)
    assert (lost.reached, lost.broke) == (False, True)


def test_ratios_are_of_pairs(benchmark):
    measuring = benchmark("measuring")
    # A machine that becomes four times as slow: the ratio is the same.
    assert measuring.ratio([2.0, 4.0, 8.0], [1.0, 2.0, 4.0]) == (2.0, 0.0)
    middle, noise = measuring.spread([1.0, 2.0, 3.0, 4.0, 5.0])
    assert middle == 3.0
    assert noise == pytest.approx(1.5)
    assert measuring.spread([7.0]) == (7.0, 0.0)


@pytest.mark.parametrize("value", [0.2, 0.5])
def test_all_benchmarks_end_in_a_verdict(value, benchmark, monkeypatch, capsys):
    run, measuring = benchmark("run"), benchmark("measuring")
    one = measuring.Ratio("size", "the other", value, 0.1, 0.1, 0.3, False)
    made_up = types.SimpleNamespace(
        __doc__="Made up.", parser=argparse.ArgumentParser, report=lambda _: [one]
    )
    monkeypatch.setitem(sys.modules, "made_up", made_up)
    monkeypatch.setattr(run, "BENCHMARKS", {"made_up": []})
    monkeypatch.setattr(sys, "argv", ["run.py"])
    if value > 0.4:
        with pytest.raises(SystemExit, match="Worse than the floor .*: size."):
            run.main()
    else:
        run.main()
    told = capsys.readouterr().out
    assert "GFLOP/s" in told
    verdict = "**broke**" if value > 0.4 else "no"
    assert (
        f"| size | the other | {value:.2f} ± 0.10 | ≤ 0.1 | {verdict} | 0.3 |" in told
    )


def test_the_command_measures():
    done = subprocess.run(
        [sys.executable, FOLDER / "run.py", "--only", "start"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "| import tf_amalgam, load |" in done.stdout, done.stderr
    assert "import tf_amalgam + load beyond Keras, s" in done.stdout
