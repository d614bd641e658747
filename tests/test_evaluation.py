"""Evaluation through compile and fit: equal terms, records, the table from records."""

import io
import json
import math
import shutil
import tarfile
import types

import keras
import numpy as np
import pytest

import tf_amalgam
from benchmarks import archive
from tests import helpers
from tf_amalgam import evaluation, plots, records, rules, saved

OPTIONS = {"epochs": 2, "seeds": (0, 1), "warmup_steps": 5, "progress": False}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    optimizers = {
        "adam": "adam",
        "sgd at .5": rules.SGD(0.5),
        "fresh student": lambda: tf_amalgam.RNNProp(seed=1),
    }
    found = tf_amalgam.evaluate(
        optimizers, helpers.tiny_task(), workdir=folder, **OPTIONS
    )
    return found, folder


def test_records_hold_curves_times_and_terms(finished):
    found, folder = finished
    assert len(found) == 6
    assert len(list(folder.glob("tiny/*.json"))) == 6
    for record in found:
        assert set(record["curves"]) == {"loss", "accuracy", "val_loss", "val_accuracy"}
        assert all(len(curve) == 2 for curve in record["curves"].values())
        assert "batch_losses" not in record
        assert record["step_milliseconds"] > 0
        assert set(record["test"]) == {"loss", "accuracy"}
        assert not record["diverged"]
        assert record["settings"]["warmup_steps"] == 5
        assert record["optimizer_config"]["warmup_steps"] == 5
        assert record["optimizer_config"]["warmup_learning_rate"] == 0.01
        assert record["versions"]["keras"] == keras.__version__


def test_a_training_is_longer_than_the_warm_up(tmp_path):
    """104 examples in minibatches of 8 for two epochs."""
    task = helpers.tiny_task()
    steps = 2 * (len(task.dataset.train.x) // 8)
    for warm_up in (steps, steps + 1):
        options = {**OPTIONS, "warmup_steps": warm_up, "workdir": tmp_path / "none"}
        told = f"tiny: epochs=2 are {steps} steps.*warmup_steps={warm_up}.*a shorter"
        with pytest.raises(ValueError, match=told):
            tf_amalgam.evaluate(["adam"], task, **options)
        with pytest.raises(ValueError, match=f"epochs=2 are {steps} steps"):
            tf_amalgam.grid_search(task, ["adam"], **{**options, "seeds": (0,)})
    assert not (tmp_path / "none").exists()


def test_who_launches_is_given_all_records(finished, tmp_path):
    """Also those that are there, as a list of jobs has them."""
    shutil.copytree(finished[1], tmp_path, dirs_exist_ok=True)
    given = []
    tf_amalgam.evaluate(
        ["adam"],
        helpers.tiny_task(),
        workdir=tmp_path,
        launch=given.append,
        **OPTIONS,
    )
    paths = [f"tiny/adam-replicate0-seed{seed}.json" for seed in (0, 1)]
    assert given == [paths]


def test_an_archive_goes_on_as_the_folder_does(finished, tmp_path):
    """`benchmarks/archive.py`: unpacked, only what is new is run."""
    folder = shutil.copytree(finished[1], tmp_path / "folder")
    (folder / "datasets").mkdir()
    (folder / "datasets" / "mnist.png").write_bytes(b"a picture")
    content = archive.packed(folder)
    assert content == archive.packed(folder)
    tmp_path /= "unpacked"
    with tarfile.open(fileobj=io.BytesIO(content)) as packed:
        packed.extractall(tmp_path, filter="data")
    assert (tmp_path / "datasets" / "mnist.png").read_bytes() == b"a picture"
    for name in ("order.json", "terms.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    expected = [archive.archived(one) for one in records.read_all(folder)]
    assert records.read_all(tmp_path) == expected
    for path in tmp_path.glob("tiny/*.json"):
        assert "batch_losses" not in path.read_text()
    there = {path: path.stat().st_mtime_ns for path in tmp_path.glob("tiny/*.json")}
    task, options = helpers.tiny_task(), {**OPTIONS, "seeds": (0, 1, 2)}
    more = tf_amalgam.evaluate(["adam"], task, workdir=tmp_path, **options)
    assert len(more) == 3
    assert len(records.record_paths(tmp_path)) == len(there) + 1 == 7
    assert {path: path.stat().st_mtime_ns for path in there} == there
    with pytest.raises(ValueError, match="other settings"):
        tf_amalgam.evaluate(["adam"], task, workdir=tmp_path, **options | {"epochs": 3})
    with pytest.raises(ValueError, match="no records under"):
        archive.packed(tmp_path / "nothing")


def test_an_archive_does_not_say_where_files_lie():
    text = (
        "data_dir = '/home/me/data/tfds'\nx = {'a': \"C:\\\\w\\\\a.npz\", 'b': 'm/s'}"
    )
    kept = archive.without_places(text)
    assert kept.startswith("data_dir = '/path/to/tfds'\nx = {'a': \"/path/to/a.npz\"")
    assert kept.endswith("'b': 'm/s'}")
    told = archive.archived({"task": "a", "configuration": text, "batch_losses": [1.0]})
    assert told == {"task": "a", "configuration": kept}
    assert archive.archived({"task": "a"}) == {"task": "a"}
    for place in (
        *("/tfds", "~/my/tfds", "~me/tfds", "/home/me/tfds/", "../../me/tfds"),
        *("file:///home/me/tfds", "gs://mine/tfds", r"\\server\data\tfds"),
    ):
        assert archive.without_places(f"x = '{place}'") == "x = '/path/to/tfds'"
    kept = archive.without_places('x = "/home/o\'brien/tfds"')
    assert kept == 'x = "/path/to/tfds"'


def with_losses(folder):
    return records.read_all(folder, batch_losses=True)


def test_batch_losses_average_to_the_epoch(finished):
    for record in with_losses(finished[1]):
        means = np.mean(np.reshape(record["batch_losses"], (2, 12)), axis=1)
        np.testing.assert_allclose(means, record["curves"]["loss"], rtol=1e-5)


def test_equal_terms(finished):
    """Same seed: same start, same minibatches, same warm-up; other seed: another."""
    found = with_losses(finished[1])
    by = {(r["optimizer"], r["seed"]): r["batch_losses"][:5] for r in found}
    for seed in (0, 1):
        adam, sgd, student = (
            by[name, seed] for name in ("adam", "sgd at .5", "fresh student")
        )
        np.testing.assert_allclose(adam, sgd, rtol=1e-4)
        np.testing.assert_allclose(adam, student, rtol=1e-4)
    assert np.abs(np.subtract(by["adam", 0], by["adam", 1])).max() > 1e-3
    after = {r["optimizer"]: r["batch_losses"][-1] for r in found if r["seed"] == 0}
    assert len(set(after.values())) == 3


def test_fit_equals_the_pure_functions(float64, tmp_path):
    """`model.fit` with our optimizer walks the trajectory of the pure unroll."""
    task = helpers.tiny_task()
    record = evaluation.train_once(tf_amalgam.Adam(0.05), task, seed=3, epochs=1)
    params_P, state = task.initial(
        tf_amalgam.numerics.derive_seed(3, "initial", "tiny")
    )
    seed = tf_amalgam.numerics.derive_seed(3, "minibatches", "tiny")
    batches = task.minibatches(seed, 0, 12)
    rule, losses = rules.Adam(0.05), []
    rule_state = rule.init_state(task.layout, "float64")
    for i in range(12):
        loss, g, state = task.value_and_grad(
            params_P, state, tuple(b[i] for b in batches)
        )
        losses.append(float(loss))
        delta, rule_state = rule.update(
            {}, g, params_P, rule_state, task.layout, np.float64(i + 1)
        )
        params_P = params_P + delta.numpy()
    np.testing.assert_allclose(record["batch_losses"], losses, rtol=1e-4)


def test_a_part_looks_at_few_records(finished, tmp_path):
    """At one of its optimizee, at one of its optimizer."""
    shutil.copytree(finished[1], tmp_path / "part")

    def path(*of):
        return records.record_path(tmp_path / "part", "tiny", *of)

    path("sgd at .5", 1).unlink()
    looked_at = [path("adam", 0), path("sgd at .5", 0)]
    for other in {*tmp_path.glob("part/tiny/*")} - {*looked_at}:
        other.write_text("damaged")
    options = {**OPTIONS, "only": ["tiny/sgd*-seed1.json"], "write_report": False}
    given = ({"adam": "adam", "sgd at .5": rules.SGD(0.5)}, helpers.tiny_task())

    def part():
        return tf_amalgam.evaluate(*given, workdir=tmp_path / "part", **options)

    (found,) = part()
    assert (found["optimizer"], found["seed"]) == ("sgd at .5", 1)
    for one in looked_at:
        content = one.read_text()
        one.write_text("damaged")
        with pytest.raises(ValueError, match=f"{one.name} is not a readable record"):
            part()
        one.write_text(content)


def test_finished_runs_are_not_run_again(finished, monkeypatch):
    found, folder = finished
    monkeypatch.setattr(evaluation, "train_once", None)
    again = tf_amalgam.evaluate(
        {"adam": "adam"}, helpers.tiny_task(), workdir=folder, **OPTIONS
    )
    assert again == [r for r in found if r["optimizer"] == "adam"]


def test_other_settings_are_refused(finished):
    with pytest.raises(
        ValueError, match="made with other settings.*epochs: 2 there, 3"
    ):
        tf_amalgam.evaluate(
            ["adam"],
            helpers.tiny_task(),
            workdir=finished[1],
            **{**OPTIONS, "epochs": 3},
        )


def test_one_folder_has_one_set_of_terms(finished):
    """Of other labels too: what is compared has equal epochs and warm-up."""
    with pytest.raises(ValueError, match="warmup_steps: 5 there, 6 here"):
        tf_amalgam.evaluate(
            ["momentum"],
            helpers.tiny_task(),
            workdir=finished[1],
            **{**OPTIONS, "warmup_steps": 6},
        )


@pytest.mark.parametrize(
    "other",
    [
        rules.RMSProp(0.5),
        rules.Momentum(0.5),
        lambda: keras.optimizers.SGD(0.5),
        lambda: keras.optimizers.SGD(0.5, momentum=0.9),
        lambda: keras.optimizers.Lion(0.5),
    ],
)
def test_another_optimizer_under_one_label_is_refused(finished, other):
    with pytest.raises(ValueError, match="other settings.*class: "):
        tf_amalgam.evaluate(
            {"sgd at .5": other},
            helpers.tiny_task(),
            workdir=finished[1],
            **OPTIONS,
        )


def test_other_hyperparameters_are_refused(finished):
    """A record says what made it; its label alone does not."""
    with pytest.raises(ValueError, match="other settings.*beta_1: 0.9 there, 0.5 here"):
        tf_amalgam.evaluate(
            {"adam": rules.Adam(0.005, beta_1=0.5)},
            helpers.tiny_task(),
            workdir=finished[1],
            **OPTIONS,
        )


def test_other_weights_under_one_label_are_refused(finished):
    with pytest.raises(ValueError, match="other settings.*weights_sha256"):
        tf_amalgam.evaluate(
            {"fresh student": lambda: tf_amalgam.RNNProp(seed=2)},
            helpers.tiny_task(),
            workdir=finished[1],
            **OPTIONS,
        )


def test_one_label_is_one_optimizer_whatever_the_seed(finished):
    """Else a mean over seeds would be of two optimizers."""
    options = {**OPTIONS, "seeds": 7, "workdir": finished[1]}
    before = sorted(finished[1].rglob("*.json"))
    with pytest.raises(ValueError, match="learning_rate: 0.5 there, 0.4.* here.*name"):
        tf_amalgam.evaluate(
            {"sgd at .5": rules.SGD(0.4)}, helpers.tiny_task(), **options
        )
    with pytest.raises(ValueError, match="weights_sha256"):
        tf_amalgam.evaluate(
            {"fresh student": lambda: tf_amalgam.RNNProp(seed=2)},
            helpers.tiny_task(),
            **options,
        )
    assert sorted(finished[1].rglob("*.json")) == before


def test_one_name_is_one_optimizee_whoever_trains_it(finished):
    options = {**OPTIONS, "workdir": finished[1]}
    with pytest.raises(ValueError, match="batch_size: 8 there, 16 here"):
        tf_amalgam.evaluate({"momentum": "momentum"}, helpers.tiny_task(16), **options)


def test_unreadable_terms_are_named(tmp_path):
    for text in ("{", "[]"):
        (tmp_path / "terms.json").write_text(text)
        with pytest.raises(ValueError, match="terms.json cannot be read.*remove it"):
            tf_amalgam.evaluate(
                {"momentum": "momentum"},
                helpers.tiny_task(),
                workdir=tmp_path,
                **OPTIONS,
            )
    assert not list(tmp_path.glob("*/*.json"))


def test_records_of_other_terms_are_refused_without_their_terms_file(
    finished, tmp_path
):
    """As where somebody copied records."""
    shutil.copytree(finished[1] / "tiny", tmp_path / "tiny")
    with pytest.raises(ValueError, match="adam-.* other settings.*epochs: 2 there, 3"):
        tf_amalgam.evaluate(
            {"momentum": "momentum"},
            helpers.tiny_task(),
            workdir=tmp_path,
            **{**OPTIONS, "epochs": 3},
        )


def test_processes_that_start_together_agree_on_terms(tmp_path):
    """Before there is any record."""
    options = {"workdir": tmp_path, "write_report": False, "limit": 0, **OPTIONS}
    tf_amalgam.evaluate(["adam"], helpers.tiny_task(), **options)
    assert records.record_paths(tmp_path) == []
    with pytest.raises(ValueError, match="holds runs made.*epochs: 2 there, 3 here"):
        tf_amalgam.evaluate(["sgd"], helpers.tiny_task(), **{**options, "epochs": 3})


def test_names_that_share_a_file_are_not_one_run(finished):
    with pytest.raises(ValueError, match="optimizer: sgd at .5 there, sgd/at/.5 here"):
        tf_amalgam.evaluate(
            {"sgd/at/.5": rules.SGD(0.5)},
            helpers.tiny_task(),
            workdir=finished[1],
            **OPTIONS,
        )


def test_a_record_of_another_keras_still_counts(finished, tmp_path):
    """An option of all optimizers that came or went; no other setting may."""
    folder = shutil.copytree(finished[1], tmp_path / "copy")
    path = records.record_path(folder, "tiny", "adam", 0)
    record = records.read(path, batch_losses=True)

    def rewritten(change):
        config = {**record["optimizer_config"], **change}
        kept = {k: v for k, v in config.items() if v != "gone"}
        records.write(path, {**record, "optimizer_config": kept})

    options = {**OPTIONS, "seeds": 0, "workdir": folder}
    rewritten({"clipvalue": "gone", "name": "adam_7"})
    tf_amalgam.evaluate({"adam": "adam"}, helpers.tiny_task(), **options)
    for change in ({"beta_1": "gone"}, {"clipvalue": 1.0}):
        rewritten(change)
        with pytest.raises(ValueError, match=f"{next(iter(change))}: "):
            tf_amalgam.evaluate({"adam": "adam"}, helpers.tiny_task(), **options)


def test_replicates_have_records_of_their_own(tmp_path):
    found = tf_amalgam.evaluate(
        {"sgd": [rules.SGD(0.1), rules.SGD(0.2)], "Lion": "keras.Lion"},
        helpers.tiny_task(),
        workdir=tmp_path,
        **OPTIONS,
    )
    assert [(r["optimizer"], r["replicate"], r["seed"]) for r in found] == [
        *(("sgd", 0, 0), ("sgd", 1, 0), ("Lion", 0, 0)),
        *(("sgd", 0, 1), ("sgd", 1, 1), ("Lion", 0, 1)),
    ]
    assert [r["optimizer_config"]["learning_rate"] for r in found[:2]] == [
        pytest.approx(0.1),
        pytest.approx(0.2),
    ]
    # Keras' own optimizers have the start, the minibatches and the warm-up of all; so
    # has a replicate of any optimizer, but replicates have each their own.
    first, replicate, lion = (
        r["batch_losses"] for r in with_losses(tmp_path) if r["seed"] == 0
    )
    np.testing.assert_allclose(lion[:6], first[:6], rtol=1e-4)
    assert first[-1] != lion[-1]
    assert np.abs(np.subtract(replicate[:6], first[:6])).max() > 1e-3
    assert found[2]["optimizer_config"]["class"] == "keras.Lion"
    assert [r["kind"] for r in found[1:3]] == ["analytic", "keras"]


def test_only_what_is_asked_for_is_read(tmp_path):
    """Of other replicates files may be missing, damaged, or being written."""
    for i in range(2):
        folder = tmp_path / "mine" / f"replicate-{i}"
        folder.mkdir(parents=True)
        (folder / "settings.json").write_text("{}")
        shutil.copy(saved.ZOO / "choice-small.npz", folder / "student.npz")
    (folder / "student.npz").write_text("damaged")

    def evaluated(**others):
        return tf_amalgam.evaluate(
            {"mine": tmp_path / "mine"},
            helpers.tiny_task(),
            workdir=tmp_path / "evaluation",
            **{**OPTIONS, "seeds": [0], **others},
        )

    with pytest.raises(ValueError, match="damaged"):
        evaluated()
    [record] = evaluated(only=["*/mine-replicate0-*"])
    assert record["replicate"] == 0
    with pytest.raises(ValueError, match="damaged"):
        evaluated(only=["*/mine-replicate1-*"])


def test_baselines_come_first(tmp_path):
    found = tf_amalgam.evaluate(
        {"mine": rules.SGD(0.1)},
        helpers.tiny_task(),
        workdir=tmp_path,
        baselines=["sgd", "keras.Adam"],
        **{**OPTIONS, "seeds": 0},
    )
    assert [r["optimizer"] for r in found] == ["sgd", "keras.Adam", "mine"]


def test_a_run_that_fails_costs_no_other(tmp_path):
    class Broken(keras.optimizers.SGD):
        def apply(self, *arguments):
            raise ZeroDivisionError("no step")

    with pytest.raises(
        RuntimeError, match="2 of 4 runs failed: broken on tiny, seed 0"
    ):
        tf_amalgam.evaluate(
            {"broken": lambda: Broken(0.1), "sgd": "sgd"},
            helpers.tiny_task(),
            workdir=tmp_path,
            **OPTIONS,
        )
    assert len(records.read_all(tmp_path)) == 2
    assert "| sgd " in (tmp_path / "table.md").read_text()
    page = tf_amalgam.write_report(tmp_path).read_text()
    assert "2 runs failed and have no record: tiny/broken-replicate0-seed0" in page


def test_nothing_to_be_done_needs_no_report(tmp_path):
    given = {**OPTIONS, "workdir": tmp_path, "limit": 0, "write_report": True}
    assert tf_amalgam.evaluate(["sgd"], helpers.tiny_task(), **given) == []
    assert not (tmp_path / "table.md").exists()


@pytest.mark.parametrize("told", [{"note": "x"}, lambda: {}])
def test_a_configuration_is_a_text(told, tmp_path):
    """A record that holds another could not be read again."""
    given = {**OPTIONS, "workdir": tmp_path, "configuration": told}
    with pytest.raises(ValueError, match="configuration is a text"):
        tf_amalgam.evaluate(["sgd"], helpers.tiny_task(), **given)
    assert not list(tmp_path.rglob("*.json"))


def test_a_spike_hides_no_later_loss(tmp_path):
    """Each minibatch's loss is its own, not the difference of running means."""
    task = tf_amalgam.tasks.quadratic(dimensions=4, batch_size=8)

    class Jumps(keras.optimizers.SGD):
        def apply(self, grads, variables):
            super().apply(grads, variables)
            far = keras.ops.where(self.iterations == 3, 1e6, 1.0)
            for v in variables:
                v.assign(keras.ops.where(self.iterations == 4, 1e-3, far) * v)

    found = evaluation.train_once(Jumps(0.01), task, seed=0, epochs=1)
    losses = found["batch_losses"]
    assert losses[3] > 1e9
    assert all(loss > 1e-7 for loss in losses)
    assert found["curves"]["loss"][0] == pytest.approx(np.mean(losses))


def test_the_configuration_is_kept(tmp_path):
    options = {**OPTIONS, "seeds": 0, "configuration": "evaluate.epochs = 2"}
    (found,) = tf_amalgam.evaluate(
        ["sgd"], helpers.tiny_task(), workdir=tmp_path, **options
    )
    assert found["configuration"] == "evaluate.epochs = 2"
    (again,) = records.read_all(tmp_path)
    assert again["configuration"] is found["configuration"]  # kept once for all


def test_where_a_run_starts_is_recorded(finished):
    task = helpers.tiny_task()
    x, y = task.dataset.validation
    for record in finished[0]:
        seed = tf_amalgam.numerics.derive_seed(record["seed"], "initial", "tiny")
        logits = np.asarray(task.training_model(seed)(x), "float64")
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
        assert record["start_loss"] == pytest.approx(losses.mean(), rel=1e-5)
        assert record["steps_per_epoch"] == 12
        assert record["constant_loss"] == task.constant_loss()


def test_images_of_the_data_are_drawn_once(tmp_path):
    task = helpers.tiny_resnet_task()
    tf_amalgam.evaluate(["sgd"], task, workdir=tmp_path, **{**OPTIONS, "seeds": 0})
    drawn = tmp_path / "datasets" / "noise.png"
    assert drawn.stat().st_size > 1000
    drawn.write_bytes(b"drawn before")
    tf_amalgam.evaluate(["sgd"], task, workdir=tmp_path, **{**OPTIONS, "seeds": 0})
    assert drawn.read_bytes() == b"drawn before"


def test_what_is_no_picture_is_not_drawn(tmp_path):
    """8-bit numbers of two channels: nothing that a figure could show."""
    task = helpers.tiny_resnet_task()
    split = lambda pair: pair._replace(x=np.zeros((40, 8, 8, 2), np.uint8))  # noqa: E731
    dataset = task.dataset._replace(train=split(task.dataset.train))
    evaluation._draw_samples([types.SimpleNamespace(dataset=dataset)], tmp_path)
    assert not list(tmp_path.iterdir())
    evaluation._draw_samples([task], tmp_path)
    assert list(tmp_path.rglob("*.png"))


def test_table_and_curves_come_from_records_alone(finished, tmp_path):
    found, folder = finished
    # In the order of the call, not of the alphabet.
    labels = ["adam", "sgd at .5", "fresh student"]
    assert records.read_all(folder) == sorted(
        found, key=lambda r: (labels.index(r["optimizer"]), r["seed"])
    )
    evaluation.report(records.read_all(folder), tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert text.splitlines()[0].startswith("| optimizee | optimizer")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def made_up(**changes):
    record = {
        "task": "Train",
        "optimizer": "adam",
        "seed": 0,
        "curves": {
            "loss": [1.0, 0.5],
            "val_loss": [0.3, 0.4],
            "val_accuracy": [0.8, 0.9],
        },
        "diverged": False,
        "step_milliseconds": 2.0,
    }
    return {**record, **changes}


def test_table_by_hand():
    second = made_up(
        seed=1,
        curves={"loss": [1.0], "val_loss": [0.1, 0.2], "val_accuracy": [0.7, 0.8]},
    )
    row = records.table([made_up(), second]).splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "Train",
        "adam",
        "2",
        "0",
        "0.3000 ± 0.1414",
        "0.2000 ± 0.1414",
        "0.8500 ± 0.0707",
        "2.00 ± 0.00",
    ]


def test_huge_losses_stay_readable():
    huge = made_up(curves={"loss": [1.0], "val_loss": [1.08e10], "val_accuracy": [0.1]})
    assert "| 1.1e+10 " in records.table([huge])


@pytest.mark.filterwarnings("error")
def test_losses_below_zero_are_drawn(tmp_path):
    """An axis of logarithms would lack them."""
    below = made_up(curves={"loss": [1.0], "val_loss": [-0.3, -0.4]})
    plots.learning_curves([below], tmp_path / "curves.png")
    plots.loss_by_learning_rate({"sgd": {0.1: -0.4, 0.2: -0.3}}, tmp_path / "rates.png")
    assert len(list(tmp_path.iterdir())) == 2


def test_small_losses_stay_readable():
    """Those of a quadratic: beyond four decimals."""
    small = made_up(curves={"loss": [1.0], "val_loss": [3.14e-5, 0.0]})
    row = records.table([small, {**small, "seed": 1}]).splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[4:6] == ["0.0000 ± 0.0000", "0.0000 ± 0.0000"]  # zero is zero
    small["curves"]["val_loss"].pop()
    assert "| 3.1e-05 ± 0.0e+00 |" in records.table([small, {**small, "seed": 1}])


def test_a_label_with_a_bar_is_one_cell():
    table = records.table([made_up(task="a|b", optimizer="c|d")])
    assert r"| a\|b" in table
    assert r"| c\|d" in table


def test_diverged_runs_are_counted_and_shown(tmp_path):
    runs = [
        made_up(),
        made_up(
            seed=1, diverged=True, curves={"loss": [math.nan], "val_loss": [math.nan]}
        ),
    ]
    row = records.table(runs).splitlines()[2]
    assert [cell.strip() for cell in row.strip("|").split("|")][:6] == [
        "Train",
        "adam",
        "2",
        "1",
        "0.4000",
        "0.3000",
    ]
    only = records.table(runs[1:]).splitlines()[2]
    assert "–" in only
    plots.learning_curves(runs, tmp_path / "one.png")
    plots.learning_curves(runs[1:], tmp_path / "all.png")


def test_divergence_is_recorded(tmp_path):
    found = tf_amalgam.evaluate(
        {"bold": rules.SGD(1e38)},
        helpers.tiny_task(),
        workdir=tmp_path,
        **{**OPTIONS, "seeds": 0},
    )
    assert found[0]["diverged"]
    assert found[0]["test"] == {}
    assert len(with_losses(tmp_path)[0]["batch_losses"]) < 24


def test_a_task_whose_loss_is_no_classification(tmp_path):
    task = tf_amalgam.tasks.quadratic(dimensions=4, batch_size=8)
    found = tf_amalgam.evaluate(
        ["sgd"], task, workdir=tmp_path, **{**OPTIONS, "epochs": 8}
    )
    assert found[0]["curves"]["val_loss"][-1] < 0.7 * found[0]["curves"]["val_loss"][0]


def test_losses_of_minibatches_are_read_on_request(finished, tmp_path):
    """They are the last line of a file of JSON, which is not looked at otherwise."""
    (path, *others) = records.record_paths(finished[1])
    assert len(others) == 5
    text = path.read_text()
    assert set(json.loads(text)) == set(records.read(path, batch_losses=True))
    assert len(records.read(path, batch_losses=True)["batch_losses"]) == 2 * 12
    light = records.read(path)
    assert set(json.loads(text)) - set(light) == {"batch_losses"}
    cut = tmp_path / "cut.json"
    cut.write_text(text[: text.index('"batch_losses": [') + 30])
    assert records.read(cut) == light
    with pytest.raises(ValueError, match="cut.json is not a readable record"):
        records.read(cut, batch_losses=True)
    # Whoever formats a file anew leaves it a record.
    for form in ({}, {"indent": 2}, {"separators": (",\n", ": ")}):
        cut.write_text(json.dumps(json.loads(text), **form))
        assert records.read(cut) == light
    assert records.read(cut, batch_losses=True) == json.loads(text)


def test_unreadable_records_are_named(tmp_path):
    path = tmp_path / "tiny" / "adam-replicate0-seed0.json"
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(
        ValueError, match="adam-replicate0-seed0.json is not a readable record"
    ):
        records.read_all(tmp_path)
    for other, said in (
        ({"format": "other", "version": 3}, "format 'other'"),
        (records.stamped({}) | {"version": 2}, "version 2; this tf_amalgam reads"),
        (records.stamped({"task": "tiny"}), "it lacks optimizer, replicate"),
    ):
        path.write_text(json.dumps(other))
        with pytest.raises(ValueError, match=f"not a readable record.*{said}"):
            records.read(path)


def test_an_unreadable_order_is_named(tmp_path):
    (tmp_path / "order.json").write_text("{")
    with pytest.raises(ValueError, match="order.json cannot be read.*Remove it"):
        records.read_all(tmp_path)


@pytest.mark.parametrize(
    ("optimizers", "options", "message"),
    [
        (["adma"], {}, r"Unknown optimizer 'adma'.*'adam'\?"),
        ([], {}, "at least one optimizer"),
        (["adam", "adam"], {}, "same label"),
        (["adam"], {"epochs": 0}, "epochs must be a whole number"),
        (["adam"], {"limit": -1}, "limit must be a whole number from 0, or None"),
        (["adam"], {"seeds": []}, "at least one seed"),
        (["adam"], {"seeds": [0.5]}, "seeds must be a whole number, received 0.5"),
        (["adam"], {"seeds": "0,1"}, "seeds must be a whole number, received '0,1'"),
        (["adam"], {"only": "tiny/*"}, r"only must be a sequence.*write \['tiny"),
        (["adam"], {"only": ["*/adma*"]}, r"No run.*like \*/adma.*called like tiny/"),
        ({"a b": "adam", "a/b": "sgd"}, {}, "would share records"),
        (["adam"], {"baselines": ["sgd", "adam"]}, "share a label: adam"),
    ],
)
def test_mistakes_are_explained_before_any_work(optimizers, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tf_amalgam.evaluate(
            optimizers, helpers.tiny_task(), workdir=tmp_path, **{**OPTIONS, **options}
        )
    assert not list(tmp_path.iterdir())


def test_numpys_numbers_are_seeds(tmp_path):
    found = tf_amalgam.evaluate(
        ["sgd"],
        helpers.tiny_task(),
        workdir=tmp_path,
        **{**OPTIONS, "seeds": np.arange(2)},
    )
    assert [record["seed"] for record in found] == [0, 1]


def test_what_is_no_optimizee(tmp_path):
    for given in (helpers.tiny_model(), helpers.tiny_task, "Train"):
        with pytest.raises(ValueError, match="An optimizee is a tf_amalgam.Task"):
            tf_amalgam.evaluate(["adam"], given, workdir=tmp_path, **OPTIONS)
        with pytest.raises(ValueError, match="An optimizee is a tf_amalgam.Task"):
            tf_amalgam.amalgamate(given, workdir=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_optimizees_need_distinct_names(tmp_path):
    with pytest.raises(ValueError, match="distinct names"):
        tf_amalgam.evaluate(
            ["adam"], [helpers.tiny_task()] * 2, workdir=tmp_path, **OPTIONS
        )


@pytest.mark.slow
def test_authors_weights_reproduce_their_figures(
    tmp_path, shared_data, authors_weights
):
    """RNNProp with the released weights, Train on MNIST, 2 epochs.

    Known figures (test loss): choice-large/1 .0368, min-max/1 .0415; the released
    Adam teacher .0423. They are of one run each, and seeds differ by 6 to 14 % after 3
    epochs (docs/training.md); the tolerance is two standard deviations of one run
    against a mean of three. The same weights under the other normalizer are another
    optimizer, whose loss is far outside.
    """
    task = tf_amalgam.tasks.conv("mnist", shared_data, name="Train")

    def imported(name, preset):
        path, file = authors_weights / name / "1", tmp_path / f"{name}-{preset}.npz"
        return tf_amalgam.import_checkpoint(path, file, preset=preset)

    optimizers = {
        "choice-large": imported("choice-large", "released"),
        "min-max": imported("min-max", "released"),
        "adam": "adam",
        "other normalizer": imported("choice-large", "paper"),
    }
    found = tf_amalgam.evaluate(
        optimizers,
        task,
        workdir=tmp_path,
        seeds=(0, 1, 2),
        epochs=2,
        warmup_steps=100,
        warmup_learning_rate=0.05,
        preset="released",
        progress=False,
    )

    def mean(name, figure):
        runs = [r["test"][figure] for r in found if r["optimizer"] == name]
        assert len(runs) == 3
        return np.mean(runs)

    losses = {name: mean(name, "loss") for name in optimizers}
    accuracies = {name: mean(name, "accuracy") for name in optimizers}
    print(losses, accuracies)
    for name, loss in {
        "choice-large": 0.0368,
        "min-max": 0.0415,
        "adam": 0.0423,
    }.items():
        assert losses[name] == pytest.approx(loss, rel=0.3), name
        assert accuracies[name] > 0.98, name
    assert losses["other normalizer"] > 2.0 * losses["choice-large"]
