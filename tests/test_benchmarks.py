"""What the benchmarks say of a measurement, and when they fail."""

import argparse
import functools
import importlib
import inspect
import json
import math
import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_amalgam
from benchmarks import plain
from tf_amalgam import chunks, lanes, meta_step, rules
from tf_amalgam.layout import Layout
from tf_amalgam.objective import Objective

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
    # Noise that was not measured excuses nothing, and no noise more than a fifth.
    assert memory._replace(value=0.41, noise=None).broke
    assert not memory._replace(value=0.4, noise=None).broke
    assert not memory._replace(value=0.47, noise=1.0).broke
    assert memory._replace(value=0.49, noise=1.0).broke


def test_ratios_are_of_pairs(benchmark):
    measuring = benchmark("measuring")
    # A machine that becomes four times as slow: the ratio is the same.
    assert measuring.ratio([2.0, 4.0, 8.0], [1.0, 2.0, 4.0]) == (2.0, 0.0)
    middle, noise = measuring.spread([1.0, 2.0, 3.0, 4.0, 5.0])
    assert middle == 3.0
    assert noise == pytest.approx(1.5)
    assert measuring.spread([7.0, 5.0]) == (6.0, 1.0)  # half of all there is
    assert measuring.spread([7.0]) == (7.0, None)
    assert measuring.shown(7.0, None) == "7.00"
    assert measuring.shown(7.0, 0.04, 1) == "7.0 ± 0.0"


TURNS = """
import json, pathlib, sys
name, folder, number = json.loads(sys.argv[2])
for n, _ in enumerate(sys.stdin):
    if number < 0:
        raise ValueError("no such program")
    with open(pathlib.Path(folder, "order"), "a") as order:
        order.write(str(number))
    print(10 * n + number, flush=True)
"""


def test_programs_take_turns(benchmark, tmp_path):
    measuring, file = benchmark("measuring"), tmp_path / "turns.py"
    file.write_text(TURNS)
    folder = str(tmp_path)
    found = measuring.in_turns(file, "calls", [(folder, 1), (folder, 2)], 3)
    # The first call, in which programs are built, is not told.
    assert found == [[11.0, 21.0, 31.0], [12.0, 22.0, 32.0]]
    assert (tmp_path / "order").read_text() == "12" + "12" + "21" + "12"
    with pytest.raises(
        RuntimeError, match="(?s)A measurement failed:.*no such program"
    ):
        measuring.in_turns(file, "calls", [(folder, 1), (folder, -1)], 3)


def test_what_is_set_up_here_is_not_for_processes_of_their_own(
    benchmark, monkeypatch, tmp_path
):
    measuring, file = benchmark("measuring"), tmp_path / "told.py"
    monkeypatch.setenv("SET_UP_HERE", "1")
    file.write_text("import os; print(int('SET_UP_HERE' in os.environ))")
    assert measuring.child(file, "any") == 0


def test_programs_are_compared_with_the_plain_one(benchmark, monkeypatch, capsys):
    """Each by its own times: plain 6 s, ours 3, plain set up 4, first order 2."""
    meta_step = benchmark("meta_step")
    seconds = {"plain": 6.0, "ours": 3.0, "plain, set up": 4.0}
    gigabytes = {"plain": 8.0, "ours": 1.0, "plain, set up": 7.0}

    def in_turns(_, name, runs, repeats):
        return [[2.0 if len(run) > 3 else seconds[run[0]]] * repeats for run in runs]

    starts = []

    def child(_, name, which, *run):
        starts.append(which)
        first = 0.5 if starts.count("plain") > 1 else 1.0  # s more of the first round
        return {
            "build": first,
            "first call": seconds[which],
            "cores never idle": 0.8 * seconds[which],
            "gigabytes": gigabytes[which],
            "whole gigabytes": 9.0,
        }

    monkeypatch.setattr(meta_step.measuring, "in_turns", in_turns)
    monkeypatch.setattr(meta_step.measuring, "child", child)
    options = types.SimpleNamespace(steps=100, repeats=2, starts=2)
    ratios, ours, step = meta_step.compare(2, options, 100.0)
    assert starts == ["plain", "ours", "plain, set up", "ours"] * 2
    begun = [(4 / 7 + 3.5 / 6.5) / 2, (4 / 5 + 3.5 / 4.5) / 2]
    assert [(one.against, *one.what.split(",")[:-1], one.value) for one in ratios] == [
        ("plain", "inner steps/s", 2.0),
        ("plain", "inner steps/s", " first order", 3.0),
        ("plain", "memory of a truncation", 1 / 8),
        ("plain", "build + first call", pytest.approx(begun[0])),
        ("plain, set up", "inner steps/s", pytest.approx(4 / 3)),
        ("plain, set up", "inner steps/s", " first order", 2.0),
        ("plain, set up", "build + first call", pytest.approx(begun[1])),
    ]
    assert ratios[3].noise == pytest.approx((4 / 7 - 3.5 / 6.5) / 2)
    assert (ours, step) == ([1.0, 1.0], 0.03)
    first_order = f"{100 * 50 * meta_step.useful_gigaflops(2, True) / 100:.0f} % |"
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"| 2.4 | {first_order}")


def test_a_step_of_first_order_has_no_second_derivatives(benchmark):
    """These are six forward passes, of .2917 GFLOP with 128 examples."""
    gigaflops = benchmark("meta_step").useful_gigaflops
    saved = gigaflops(2) - gigaflops(2, first_order=True)
    assert saved == pytest.approx(6 * 0.2917, rel=1e-3)


@pytest.mark.parametrize(("pool", "most"), [(0, 1640), (2, 2000)])
def test_a_truncation_is_traced_as_few_operations(pool, most, benchmark, monkeypatch):
    """Each is a millisecond of the first call; bounds are some 5 % above today's."""
    meta_step = benchmark("meta_step")
    monkeypatch.setattr(meta_step.processors, "set_up", lambda: None)
    monkeypatch.setattr(lanes, "cores", lambda: 2)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    program = meta_step.Program("ours", pool, 100)
    assert 1000 < program.operations() < most


def test_what_is_profiled_has_the_segments_of_a_whole_truncation(benchmark):
    where = benchmark("where_time_goes")
    state = rules.RNNProp().init_state(Layout(("all",), ((18_122,),)))
    for pool, segment in where.SEGMENTS.items():
        given = (Objective(), 100, state, ("somebody",) * pool)
        assert meta_step.segment_length(*given) == segment


@pytest.mark.parametrize("pool", [0, 2, 6])
def test_no_floor_is_stricter_than_its_goal(pool, benchmark):
    for pools in benchmark("meta_step").GOALS.values():
        for name, (goal, floor) in pools[pool].items():
            more = name in ("speed", "first order")
            assert floor <= goal if more else floor >= goal


def test_floors_where_tensorflow_takes_onednn_by_itself(benchmark, monkeypatch):
    meta_step = benchmark("meta_step")
    monkeypatch.setattr(meta_step.measuring, "flags", lambda: {"avx2"})
    assert meta_step.goals_of("plain", 2) == meta_step.GOALS["plain"][2]
    monkeypatch.setattr(meta_step.measuring, "flags", lambda: {"avx2", "avx512_vnni"})
    assert meta_step.goals_of("plain", 2) == {
        "speed": (1.3, 0.85),
        "first order": (1.8, 1.2),
        "memory": (0.25, 0.25),
        "start": (0.5, 0.8),
    }


@pytest.mark.parametrize("value", [0.2, 0.5])
def test_all_benchmarks_end_in_a_verdict(value, benchmark, monkeypatch, capsys):
    run, measuring = benchmark("run"), benchmark("measuring")
    monkeypatch.setattr(run.processors, "set_up", lambda: None)
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


def test_a_measurement_that_fails_costs_no_other(benchmark, monkeypatch, capsys):
    run, measuring = benchmark("run"), benchmark("measuring")
    monkeypatch.setattr(run.processors, "set_up", lambda: None)
    one = measuring.Ratio("size", "", 0.2, None, 0.1, 0.3, False)

    def killed(_):
        raise RuntimeError("A measurement failed:\nout of memory")

    def mistaken(_):
        raise FileNotFoundError("There is no mnist in such a folder")

    def refused(_):
        raise SystemExit("--rows 3: give two numbers")

    several = {"killed": killed, "mistaken": mistaken, "refused": refused}
    several["next"] = lambda _: [one]
    for name, report in several.items():
        module = types.SimpleNamespace(
            __doc__=f"The {name}.", parser=argparse.ArgumentParser, report=report
        )
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(run, "BENCHMARKS", {name: [] for name in several})
    monkeypatch.setattr(sys, "argv", ["run.py"])
    with pytest.raises(SystemExit, match=r"^Failed: killed; mistaken; refused\.$"):
        run.main()
    told = capsys.readouterr().out
    assert "out of memory" in told
    assert "There is no mnist" in told
    assert "| size | – | 0.20 | ≤ 0.1 | no | 0.3 |" in told


def test_a_loss_that_is_not_finite_broke(benchmark, monkeypatch, capsys):
    large_model = benchmark("large_model")

    def child(_, name, which, given, *size):
        step = {"sgd": 1.0, "adam": 1.0, "choice-large": 3.0}[which]
        return {
            "parameters": 1_000_000,
            "finite": "guard" not in given,
            "step": step + 4.0 * ("state_dtype" in given),
            **dict.fromkeys(("gigabytes", "first"), 1.0),
        }

    monkeypatch.setattr(large_model.measuring, "child", child)
    options = large_model.parser().parse_args(["--millions", "1"])
    (memory, half, finite) = large_model.report(options)
    assert (memory.broke, half.broke, finite.broke) == (False, True, True)
    assert half.value == 3.0  # of what a step takes beside SGD's
    assert "choice-large, guard (loss not finite)" in capsys.readouterr().out
    words = ["--millions", "1", "--student"]
    with pytest.raises(ValueError, match="adam is in the table anyway"):
        large_model.report(large_model.parser().parse_args([*words, "adam"]))


def test_a_learned_step_is_compared(benchmark, monkeypatch, capsys):
    """With SGD at 1 ns a parameter, floors that drift, and both orders of starts."""
    learned_step = benchmark("learned_step")
    floors = iter([90.0, 110.0, 180.0, 220.0, 180.0, 220.0])
    nanoseconds = {"SGD": 1.0, "Adam": 2.0, "student": 151.0, "default": 181.0}
    nanoseconds.update(dict.fromkeys(("plain", "plain, in turn"), 601.0))

    def child(_, what, *arguments):
        if what == "floor":
            return next(floors)
        if what == "measure_side_by_side":
            models, turns = arguments
            drift = [300.0, 150.0] * turns
            return {
                model: [(m + 2) * one for one in drift[:turns]]
                for m, model in enumerate(models)
            }
        model, names, turns = arguments
        per_parameter = {**nanoseconds, "student": 241.0 if model == "5M" else 151.0}
        return {
            "parameters": 10**9,
            **{
                name: {"first": 1.0 + i, "turns": [per_parameter[name]] * turns}
                for i, name in enumerate(names)
            },
        }

    monkeypatch.setattr(learned_step.measuring, "child", child)
    words = ["--models", "ResNet-28", "5M", "25M", "--turns", "2"]
    found = learned_step.report(learned_step.parser().parse_args(words))
    assert [(one.what.split(",")[0], one.against, one.value) for one in found] == [
        ("learned step", "tensor by tensor", 0.25),
        ("learned step", "its floor", pytest.approx(150 * (1 / 90 + 1 / 110) / 2)),
        ("learned step of the default", "of choice-large", 1.2),
        ("first step in fit", "Keras' Adam", pytest.approx((3 / 2 + 2 / 3) / 2)),
        ("learned step", "tensor by tensor", pytest.approx(0.4)),
        ("learned step", "its floor", pytest.approx(240 * (1 / 180 + 1 / 220) / 2)),
        ("learned step of the default", "of choice-large", 0.75),
        ("learned step", "tensor by tensor", 0.25),
        ("learned step", "its floor", pytest.approx(150 * (1 / 180 + 1 / 220) / 2)),
        ("learned step of the default", "of choice-large", 1.2),
        ("learned step", "ResNet-28", 2.0),
    ]
    assert all(one.noise > 0.0 for one in (found[1], found[3]))
    assert found[-1].noise == 0.0  # a drift of the machine cancels
    told = capsys.readouterr().out
    assert "| ResNet-28 | 1,000,000,000 | 150 | 600 | 0.25" in told
    assert "| 25M | 900 ± 300 |" in told


@pytest.mark.slow
def test_models_are_timed_side_by_side(benchmark, monkeypatch):
    learned_step = benchmark("learned_step")
    monkeypatch.setattr(learned_step, "STEPS", {"Train": 2})
    found = learned_step.measure_side_by_side(["Train"], 2)
    assert list(found) == ["Train"]
    assert len(found["Train"]) == 2
    assert min(found["Train"]) > 0.0  # ns a parameter


def test_each_way_to_call_takes_as_many_steps(benchmark, monkeypatch):
    step_in_fit, made = benchmark("step_in_fit"), []
    optimizer = step_in_fit.learned_step.optimizer

    def kept(name):
        made.append(optimizer(name))
        return made[-1]

    monkeypatch.setattr(step_in_fit.learned_step, "optimizer", kept)
    monkeypatch.setattr(step_in_fit, "STEPS", 4)
    monkeypatch.setattr(step_in_fit, "SEVERAL", 2)
    step = step_in_fit.stepped("Train", "student")
    assert [int(each.iterations) for each in made] == [2, 2]
    for i, way in enumerate(step_in_fit.WAYS):
        before = [int(each.iterations) for each in made]
        took, of_cores = step(way)
        assert 0.0 < took < 1e6
        assert 0.0 < of_cores < 1e6
        after = [int(each.iterations) for each in made]
        taken = [b - a for a, b in zip(before, after, strict=True)]
        assert taken == ([0, 4] if i == 3 else [4, 0])
    monkeypatch.setattr(step_in_fit, "GAP", 0.1)
    assert step(step_in_fit.WAYS[1])[1] > 5e4  # Python's time is the cores', too


def test_ways_to_call_are_compared_with_sgd(benchmark, monkeypatch, capsys):
    """By hand: 18,122 parameters, 1,812.2 µs above SGD's, half of that in the other."""
    step_in_fit = benchmark("step_in_fit")
    microseconds = {"SGD": 1000.0, "student": 2812.2}

    def stepped(model, name):
        def step(way):
            each = microseconds[name] * (0.5 if way == "`fit`" else 1.0)
            return each, 2 * each

        return step

    monkeypatch.setattr(step_in_fit, "stepped", stepped)
    found = step_in_fit.measure("Train", 3)
    assert list(found) == list(step_in_fit.WAYS)
    assert {len(took) for took in found.values()} == {3}
    monkeypatch.setattr(step_in_fit.measuring, "child", lambda *_: found)
    assert step_in_fit.report(step_in_fit.parser().parse_args([])) == []
    told = capsys.readouterr().out
    assert "| Train | a step a call | 1812 ± 0 | 100 ± 0 | 3624 ± 0 |" in told
    assert "| Train | `fit` | 906 ± 0 | 50 ± 0 | 1812 ± 0 |" in told


def test_the_floor_of_a_learned_step_is_timed(benchmark):
    """A coordinate takes some thousand multiplications at the least."""
    assert benchmark("learned_step").floor(turns=1, repeats=3) > 5.0


def test_records_are_made_up_of_a_real_one(benchmark, monkeypatch, tmp_path):
    scale = benchmark("scale")
    for name, value in {"STUDENTS": 1, "OPTIMIZEES": 2, "REPLICATES": 3}.items():
        monkeypatch.setattr(scale, name, value)
    monkeypatch.setattr(scale, "SEEDS", 2)
    count = 2 * 2 * (len(scale.POOL) + 3)
    assert scale.made_up(tmp_path) == count
    assert len(list(tmp_path.rglob("*-seed*.json"))) == count + 1


def test_plans_and_reports_have_goals(benchmark, monkeypatch, capsys):
    scale = benchmark("scale")
    plan = {"count": 100_384, "s": 7.0, "MB": 3.0}
    page = {"count": 10_200, "s": 61.0, "MB": 30.0, "page": 1.0}
    monkeypatch.setattr(scale.measuring, "child", lambda *_: [plan, page])
    planned, reported = scale.report(scale.parser().parse_args([]))
    assert (planned.what, planned.value) == ("100,384 jobs planned, s", 7.0)
    assert (planned.broke, reported.broke) == (False, True)
    assert "a report of 10,200 records in 61.0 s" in capsys.readouterr().out


def test_the_dearest_step_is_compared_with_the_cheapest(benchmark, monkeypatch, capsys):
    step_alone = benchmark("step_alone")
    found = {
        **{"Train": [300.0, 330.0, 360.0], "Wider": [200.0, 220.0, 240.0]},
        **{"5M": [250.0] * 3, 5: [240.0, 250.0, 270.0], 10: [200.0] * 3},
    }

    def in_turns(_, name, runs, repeats):
        return [found[model] for (model,) in runs]

    monkeypatch.setattr(step_alone.measuring, "in_turns", in_turns)
    words = ["--models", "Train", "Wider", "5M", "--rows", "5", "10"]
    options = step_alone.parser().parse_args(words)
    (one,) = step_alone.report(options)
    assert (one.what.split()[-1], one.against) == ("Train", "Wider")
    assert one.value == pytest.approx(1.5)
    told = capsys.readouterr().out
    assert "| Train | 330 ± 30 |" in told
    assert "| 5 | 250 | 5160 |" in told
    assert "| 10 | 200 | 8256 |" in told
    assert "takes 2064 µs, and 619 µs a row of each block: 150 ns a parameter" in told


@pytest.mark.parametrize(("ratio", "with_512"), [(1.7, True), (2.3, True), (2.5, None)])
def test_how_uneven_steps_may_be(ratio, with_512, benchmark, monkeypatch):
    """By what was measured on either kind of machine."""
    learned_step = benchmark("learned_step")
    found = {"Train": [100.0 * ratio] * 3, "5M": [100.0] * 3}
    for vnni in (False, True):
        flags = {"avx2", *["avx512_vnni"] * vnni}
        monkeypatch.setattr(learned_step.measuring, "flags", lambda flags=flags: flags)
        one = learned_step.evenness(found, "a step")
        assert one.value == pytest.approx(ratio)
        assert one.broke == (with_512 is None or (not vnni and ratio > 1.75))


def test_a_rate_of_memory_is_that_of_bytes(benchmark, monkeypatch):
    measuring = benchmark("measuring")
    monkeypatch.setattr(measuring, "timed", lambda call: call() or 0.5)
    monkeypatch.setattr(measuring, "CORE_MEGABYTES", 2)
    monkeypatch.setattr(chunks, "cores", lambda: 3)
    assert measuring.memory_rate(repeats=1) == 3 * 2 * 2**20 / 0.5 / 1e9


@pytest.mark.parametrize(("model", "size"), [("Train", 18_122), (3, 2 * 3 * 2064)])
def test_a_step_alone_is_timed(benchmark, model, size):
    loop, updated = benchmark("step_alone").program(model)
    assert loop()[0] * size == updated


@pytest.mark.parametrize("rows", [2, 3, 15])
def test_a_vector_is_held_in_two_blocks_of_so_many_rows(benchmark, rows):
    (variable,) = benchmark("step_alone").tensors(rows)
    assert chunks.arranged(variable, variable.shape[0], None, True) == (2, rows, 2064)


@pytest.mark.parametrize("rows", [["1", "5"], ["5", "16"], ["5"], ["5", "5"]])
def test_rows_that_are_not_those_of_two_blocks(benchmark, rows):
    step_alone = benchmark("step_alone")
    with pytest.raises(SystemExit, match="two numbers or more, from 2 to 15"):
        step_alone.report(step_alone.parser().parse_args(["--rows", *rows]))


TIMED = """
import json, sys
import meta_step

ours, plain = (meta_step.Program(which, 2, 3) for which in ("ours", "plain"))

import numpy as np
import tensorflow as tf
from tf_amalgam import lanes

weights, carry, batches = ours.arguments
tf.nest.map_structure(np.testing.assert_array_equal, ours.arguments, plain.arguments)
gradient, after, metrics = ours.program(*ours.arguments)
loss, taped, ends_P = plain.program(*plain.arguments)


def apart(a, b, moved):
    return float(np.linalg.norm(a - b) / np.linalg.norm(moved))


print(json.dumps({
    "programs": lanes._programs.cache_info().currsize,
    "loss": apart(metrics.loss, loss, loss),
    "gradient": max(apart(gradient[k], taped[k], taped[k]) for k in weights),
    "ends": apart(after.student.params_P, ends_P, ends_P - carry.start_params_P),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("onednn", "loss", "gradient"), [("0", 1e-6, 3e-6), ("1", 1e-5, 3e-4)]
)
def test_what_is_timed_is_the_same(onednn, loss, gradient):
    """The programs of meta_step.py, with TensorFlow's operations and with oneDNN's.

    Bounds are some ten times what was found.
    """
    said = {"TF_ENABLE_ONEDNN_OPTS": onednn, "TF_CPU_ALLOCATOR_USE_BFC": "false"}
    done = subprocess.run(
        [sys.executable, "-c", TIMED],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **said, "PYTHONPATH": str(FOLDER)},
    )
    assert not done.returncode, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["programs"] == 1  # ours goes through lanes
    assert found["loss"] < loss
    assert found["gradient"] < gradient
    assert found["ends"] < 4e-5


@pytest.mark.slow
def test_a_command_measures():
    done = subprocess.run(
        [sys.executable, FOLDER / "start.py", "--repeats", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "| import tf_amalgam, load |" in done.stdout, done.stderr
    assert "import tf_amalgam + load beyond Keras, s" in done.stdout


def test_a_student_is_level_within_a_standard_error(benchmark):
    is_level = benchmark("time_to_quality").is_level
    theirs = [0.9, 1.0, 1.1]  # variance .01
    assert is_level([1.0, 1.1, 1.2], [1.0, 1.1, 1.2])
    assert is_level([0.9, 1.0, 1.3], theirs)  # .067 above, the error is .13
    assert not is_level([1.1, 1.2, 1.3], theirs)  # .2 above, the error is .08
    assert not is_level([0.5, 0.5], theirs)  # a seed was not tried
    assert not is_level([0.5, 0.5, math.inf], theirs)
    assert not is_level([1.1], [1.0])
    assert is_level([0.9], [1.0])


def test_time_to_quality_needs_real_data(benchmark, monkeypatch, capsys):
    run = benchmark("run")
    monkeypatch.setattr(sys, "argv", ["run.py", "--only", "time_to_quality"])
    with pytest.raises(SystemExit):
        run.main()
    assert "give --data_dir" in capsys.readouterr().err


def test_a_folder_without_mnist_is_refused_before_hours(
    benchmark, monkeypatch, tmp_path, capsys
):
    run = benchmark("run")
    monkeypatch.setattr(sys, "argv", ["run.py", "--data_dir", str(tmp_path)])
    with pytest.raises(SystemExit):
        run.main()
    assert "There is no folder mnist in" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "ends"), [(0.2, False), (0.5, True)])
def test_a_command_of_its_own_fails_where_something_broke(
    value, ends, benchmark, monkeypatch, capsys
):
    measuring = benchmark("measuring")
    one = measuring.Ratio("size", "the other", value, None, 0.1, 0.3, False)
    monkeypatch.setattr(measuring, "machine", lambda: "A machine.")
    monkeypatch.setattr(sys, "argv", ["size.py"])
    parser = functools.partial(measuring.parser, "Size.")
    if ends:
        with pytest.raises(SystemExit, match="Worse than the floor .*: size."):
            measuring.command(parser, lambda _: [one])
    else:
        measuring.command(parser, lambda _: [one])
    assert "| size | the other |" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("level", [True, False])
def test_a_recipe_is_timed_until_its_student_is_level(level, benchmark, capsys):
    """After one meta-update: beside the teachers' warm-up it is, in training not."""
    timing = benchmark("time_to_quality")
    epochs = "5" if level else "12"  # the warm-up is 100 steps, five and a half
    words = ["--recipes", "quickstart", "--seeds", "0", "--epochs", epochs]
    words += ["--gin_bindings", "amalgamate.stages = [(100, 1, 0.1)]"]
    words += ["amalgamate.period = 1"]
    options = timing.parser().parse_args(words)
    looks = timing.looks_of("quickstart", options)
    minutes = timing.minutes_to_level("quickstart", looks, options)
    told = capsys.readouterr().out
    assert f"MLP (trained on), {epochs} epochs: adam " in told
    rows = [line for line in told.splitlines() if line.startswith("| quickstart")]
    untrained, *_, last = rows
    assert untrained.startswith("| quickstart | 0 | ")
    assert untrained.endswith("| no better one | no |")
    assert last.endswith("| yes |") == level
    assert (0.0 < minutes < math.inf) == level


def test_a_recipe_that_takes_too_long_is_stopped(benchmark, capsys):
    """Before anything, when no time at all would be enough."""
    timing = benchmark("time_to_quality")
    words = ["--recipes", "quickstart", "--seeds", "0", "--epochs", "1"]
    options = timing.parser().parse_args(words)
    looks = types.SimpleNamespace(losses=[0.0])
    assert timing.minutes_to_level("quickstart", looks, options, 0.0) == 0.0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(
    ("slow", "fast", "ratio", "told"),
    [
        (99.0, 4.0, 0.5, "reached"),  # stopped after 8: enough to know
        (10.0, 6.0, 0.6, "not far"),
        (4.0, 8.0, 2.0, "broke"),
        (10.0, math.inf, math.inf, "broke"),
        (math.inf, math.inf, math.nan, "broke"),
    ],
)
def test_recipes_are_compared_with_the_first(
    slow, fast, ratio, told, benchmark, monkeypatch
):
    timing = benchmark("time_to_quality")
    looks, order = types.SimpleNamespace(name="adam"), []
    monkeypatch.setattr(timing, "looks_of", lambda name, _: looks)

    def of(name, looks, options, enough=math.inf):
        order.append(name)
        return min({"slow": slow, "fast": fast}[name], enough)

    monkeypatch.setattr(timing, "minutes_to_level", of)
    (found,) = timing.report(types.SimpleNamespace(recipes=["slow", "fast"]))
    assert order == ["fast", "slow"]
    assert found.value == pytest.approx(ratio, nan_ok=True)
    assert found.broke == (told == "broke")
    assert found.reached == (told == "reached")
    assert ("stopped" in found.against) == (slow == 99.0)


def test_the_teachers_of_a_choice_rule_are_its_pool(benchmark, capsys):
    timing = benchmark("time_to_quality")
    words = ["--recipes", "quickstart", "--seeds", "0", "--epochs", "1"]
    words += ["--gin_bindings", "amalgamate.scheme = 'choice'"]
    looks = timing.looks_of("quickstart", timing.parser().parse_args(words))
    assert "adam " in (told := capsys.readouterr().out)
    assert "rmsprop " in told
    assert looks.name in ("adam", "rmsprop")


def test_a_first_recipe_without_teachers_is_refused(benchmark):
    timing = benchmark("time_to_quality")
    words = ["--recipes", "quickstart", "--gin_bindings", "amalgamate.teachers = ()"]
    with pytest.raises(ValueError, match="no teachers to be level with"):
        timing.report(timing.parser().parse_args(words))


def test_operations_of_a_profile_by_kind(benchmark, tmp_path):
    where = benchmark("where_time_goes")
    a = tf.random.normal((500, 500))
    rule = tf.function(tf.exp, jit_compile=True, autograph=False)
    program = tf.function(lambda: tf.tanh(a @ a) + rule(a), autograph=False)
    program()
    with tf.profiler.experimental.Profile(str(tmp_path)):
        program()
    found = where.picoseconds(tmp_path)
    assert set(found) >= {"products", "activations", where.RULE}
    assert found["products"] > 1e6  # a microsecond
    assert where.kind_of("Conv2DBackpropFilter") == "convolutions"
    assert where.kind_of("_MklNativeFusedConv2D") == "convolutions"
    assert where.kind_of("_MklNativeMaxPoolGrad") == "pools"
    assert where.kind_of("_MklMatMul") == "products"
    assert where.kind_of("AddV2") == where.REST


def test_convolutions_that_a_step_needs(benchmark, monkeypatch):
    """Five of a gradient's, and what of them depends on weights twice in a product."""
    where, meta_step = benchmark("where_time_goes"), benchmark("meta_step")
    layers = [2 * 128 * 26**2 * 9 * 16, 2 * 128 * 9**2 * 25 * 16 * 32]

    def flops(function):
        image = inspect.getclosurevars(function).nonlocals["given"][0]
        return layers[image.shape[-1] == 16]

    monkeypatch.setattr(where.measuring, "timed", flops)
    monkeypatch.setattr(meta_step.processors, "set_up", lambda *_: None)
    found = where.measure_convolutions(repeats=1)
    first, second = (1e3 * one for one in layers)
    assert found["forward"] == first + second
    assert found["gradient"] == 2 * first + 3 * second
    assert found["product"] == 2 * first + 6 * second
    for teachers in (0, 2):
        useful = 1e12 * meta_step.useful_gigaflops(teachers, coordinates=0)
        assert where.needed(found, teachers) == pytest.approx(useful, rel=0.06)


def test_a_profile_tells_of_xlas_compiler(benchmark, tmp_path):
    where = benchmark("where_time_goes")
    fresh = tf.function(lambda a: tf.exp(a) + a, jit_compile=True, autograph=False)
    with tf.profiler.experimental.Profile(str(tmp_path)):
        fresh(tf.ones((500, 500)))
    spent = dict(where.events(tmp_path))
    assert spent[where.COMPILER] > spent[where.FUSIONS] > 1e6


@pytest.mark.parametrize(
    ("in_turn", "width", "blocks"),
    [
        (True, 4, 1),
        (False, 4, 1),
        (False, 2000, 2),  # 10,001 parameters, in the blocks that are timed
        pytest.param(False, 14_000, 8, marks=pytest.mark.slow),
    ],
)
def test_the_plain_optimizer_takes_the_students_steps(in_turn, width, blocks):
    """Tensor by tensor, with a row a coordinate."""
    student = tf_amalgam.load("choice-large", warmup_steps=0)
    rule = plain.Rows(**student.rule.get_config())
    written = plain.PerTensor(rule, student.rule_weights, in_turn=in_turn)
    generator = np.random.default_rng(0)
    x = generator.normal(size=(24, 3)).astype("float32")
    start, *ends = (
        trained(optimizer, x, x[:, :1] - x[:, 1:2], width)
        for optimizer in (keras.optimizers.SGD(0.0), student, written)
    )
    found = chunks.arranged(tf.Variable(0.0), 5 * width + 1, None, recurrent=True)
    assert found[0] == blocks
    assert np.abs(ends[0] - start).max() > 0.01
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-5)


def trained(optimizer, x, y, width):
    """Returns the weights of a small net after some steps."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(width, activation="tanh"), keras.layers.Dense(1)]
    net = keras.Sequential([keras.Input((3,)), *layers])
    net.compile(optimizer=optimizer, loss="mse")
    net.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return np.concatenate([np.ravel(v) for v in net.get_weights()])
