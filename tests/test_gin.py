"""Every .gin file parses, builds and takes two tiny meta-steps; mistakes are named."""

import json
import pathlib

import gin
import pytest
import tf_amalgam.gin_configs

from tests import helpers
from tf_amalgam import bindings, data
from tf_amalgam.lineup import lineup
from tf_amalgam.tuning import PAPER_GRID

ROOT = pathlib.Path(tf_amalgam.gin_configs.__file__).parent
EXPERIMENTS = sorted(p.stem for p in (ROOT / "experiments").glob("*.gin"))
PARTS = sorted(
    str(p.relative_to(ROOT))
    for p in ROOT.rglob("*.gin")
    if p.parent.name != "experiments"
)

WARM_UP = {"warmup_steps": 1, "warmup_learning_rate": 0.01}

# The smallest run that still takes two meta-steps, on data that is always here.
TINY = [
    "amalgamate.stages = [(4, 1)]",
    "amalgamate.choice_stages = [(4, 1)]",
    "amalgamate.period = 1",
    "amalgamate.truncation_steps = 2",
    "amalgamate.meta_batch = 1",
    "amalgamate.warmup_steps = 1",
    "amalgamate.validation_optimizees = 1",
    "amalgamate.validation_steps = 2",
    "amalgamate.progress = False",
    "Train/conv.dataset = 'digits'",
    "Train/conv.filters = [(4, 3)]",
    "Train/conv.batch_size = 16",
    "kmnist_dp/conv.dataset = 'digits'",
    "kmnist_dp/conv.filters = [(4, 3)]",
    "kmnist_dp/conv.batch_size = 16",
    "evaluate.seeds = [0]",
    "evaluate.epochs = 1",
    "evaluate.warmup_steps = 1",
    "evaluate.progress = False",
    "grid_search.learning_rates = [0.01, 0.1, 0.2]",
    "grid_search.epochs = 1",
    "grid_search.warmup_steps = 1",
    "grid_search.progress = False",
]


# File → macro, name, minibatch and trainable parameters (method, Table 1; residual nets
# have 1,824 or 3,616 statistics besides).
OPTIMIZEES = {
    "train": ("Train", "Train", 128, 18_122),
    "mlp": ("MLP", "MLP", 128, 15_910),
    "wider": ("Wider", "Wider", 128, 61_834),
    "deeper": ("Deeper", "Deeper", 128, 75_242),
    "deeper_strided": ("DeeperStrided", "Deeper (strided)", 128, 72_042),
    "fmnist": ("FMNIST", "FMNIST", 128, 18_122),
    "svhn": ("SVHN", "SVHN", 128, 21_290),
    "cifar": ("CIFAR", "CIFAR", 128, 68_170),
    "small_batch": ("SmallBatch", "Small Batch", 32, 18_122),
    "resnet28": ("ResNet", "ResNet", 128, 372_330 - 1_824),
    "resnet52": ("ResNet52", "ResNet-52", 128, 763_882 - 3_616),
    "resnet52_cifar100": (
        "ResNet52CIFAR100",
        "ResNet-52 CIFAR-100",
        128,
        769_732 - 3_616,
    ),
    "quadratic": ("Quadratic", "quadratic_10", 80, 10),
    "rastrigin": ("Rastrigin", "Rastrigin", 1, 10),
    "mnist_dp": ("MNISTDP", "MNIST-DP", 128, 18_122),
    "kmnist_dp": ("KMNISTDP", "KMNIST-DP", 128, 18_122),
}

# Where each optimizee's images are from (B.1), and their shape and classes.
IMAGES = {
    "mnist": ((28, 28, 1), 10),
    "kmnist": ((28, 28, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10),
    "svhn_cropped": ((32, 32, 3), 10),
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
}
SETS = {
    "fmnist": "fashion_mnist",
    "svhn": "svhn_cropped",
    "cifar": "cifar10",
    "resnet28": "cifar10",
    "resnet52": "cifar10",
    "resnet52_cifar100": "cifar100",
    "kmnist_dp": "kmnist",
}


@pytest.fixture
def asked(monkeypatch):
    """Gives made-up images of the real shapes; returns what was asked for."""
    calls = []

    def image_set(name, data_dir, held_out):
        calls.append((name, data_dir))
        shape, classes = IMAGES[name]
        return helpers.noise_images(shape, classes, examples=128, name=name)

    monkeypatch.setattr(data, "_image_set", image_set)
    return calls


def value_of(macro):
    """Builds what a macro stands for."""
    return gin.get_configurable(f"{macro}/gin.macro")()


@pytest.fixture(autouse=True)
def cleared():
    yield
    gin.clear_config()


# Experiments that are whole in one file; all others are given beside a form.
WHOLE = (
    *("mnist_min_max_small", "mnist_min_max_small_fast"),
    *("mnist_evaluate", "private_kmnist"),
    *("grid_search", "quickstart"),
    *("evaluate_paper", "evaluate_released", "evaluate_cpu"),
)
# Evaluations to give after one that says how → their optimizees and baselines.
EVALUATED = {
    "figure3": (10, 6),
    "figure4": (1, 6),
    "figure5": (10, 6),
    "figure8": (4, 1),
    "table5": (10, 6),
}
NAMED = [name for name in EXPERIMENTS if name not in (*WHOLE, *EVALUATED)]
FORMS = sorted(p.stem for p in (ROOT / "forms").glob("*.gin"))


def test_every_experiment_is_on_the_page():
    """docs/experiments.md names them all, ranges by their ends."""
    docs = pathlib.Path(__file__).resolve().parents[1] / "docs" / "experiments.md"
    text = docs.read_text()
    ends = {"gaussian": ("5e-4", "1e-1"), "adversarial": ("1e-4", "1e-2")}
    for name in FORMS:
        assert f"`{name}`" in text or f"forms/{name}.gin" in text, name
    for name in (*NAMED, *EVALUATED):
        kind, _, size = name.removeprefix("figure6_").partition("_")
        if name.startswith("figure6_") and size not in ends[kind]:
            continue
        assert name in text or (size and f"`_{size}`" in text), name


# Files that differ from another one by the size of the noise alone → that one.
OF_SIZE = {
    name: name[: name.rindex("_")] + "_1e-3"
    for name in NAMED
    if name.startswith("figure6")
} | {"table6_input_noise_1e-1": "table6_input_noise_1e-2"}
RUN = [name for name in NAMED if OF_SIZE.get(name, name) == name]


@pytest.mark.parametrize("name", [name for name in NAMED if name not in RUN])
def test_files_of_other_sizes_differ_by_them_alone(name):
    mine, other = (
        [
            line
            for line in (ROOT / f"experiments/{which}.gin").read_text().splitlines()
            if not line.startswith("#")
        ]
        for which in (name, OF_SIZE[name])
    )
    assert mine[:-1] == other[:-1]
    bindings.parse([f"gin_configs/experiments/{name}.gin"])
    key = "Perturbation.radius" if "figure6" in name else "amalgamate.input_noise"
    assert gin.query_parameter(key) == float(name.rpartition("_")[2])


@pytest.mark.parametrize("name", NAMED)
def test_named_experiments_are_read(name):
    files = ["gin_configs/forms/cpu.gin", f"gin_configs/experiments/{name}.gin"]
    bindings.parse(files, TINY)
    bindings.check_given("amalgamate")


# One of each kind: a scheme, a Choice rule, noise of both kinds, another architecture.
KINDS = (
    *("figure1_min_max_small", "figure1_choice_large", "figure2_original"),
    *("figure6_gaussian_1e-3", "figure6_adversarial_1e-3"),
)


@pytest.mark.parametrize("name", helpers.slow_if(lambda name: name not in KINDS, RUN))
def test_named_experiments_take_two_meta_steps(name, tmp_path, eagerly):
    files = ["gin_configs/forms/cpu.gin", f"gin_configs/experiments/{name}.gin"]
    amalgam = bindings.run("amalgamate", files, TINY, tmp_path)
    assert [row["update"] for row in amalgam.history] == [1, 2]
    about = amalgam.about
    if name.startswith("choice_rule"):  # the rule is the student itself
        assert amalgam.choice is None
        assert about["student"]["rate_range"] == 3.0
        agreement = 0.5 if name == "choice_rule_agreement" else 0.0
        assert about["student"].get("rate_agreement", 0.0) == agreement
        return
    assert (amalgam.choice is not None) == ("choice" in name or "table6" in name)
    assert (about["perturbation"] is not None) == ("gaussian" in name or "adv" in name)
    assert (about["input_noise"] > 0) == ("input_noise" in name)
    # Everybody is under the form's preset (two baselines see no moments).
    told = {"normalizer": "constant", "preprocessing": "raw", **about["student"]}
    seen = "log_sign" if name == "original_log_sign" else "raw"
    assert (told["normalizer"], told["preprocessing"]) == ("constant", seen)
    size = name.rpartition("_")[2]
    if name.startswith("figure6"):
        assert about["perturbation"]["radius"] == float(size)
    if name.startswith("table6"):
        assert about["input_noise"] == float(size)


# Whatever its chances and repeats.
SHORT = ["amalgamate.max_periods = 1", "amalgamate.max_repeats = 0"]


# What the paper prints, and what the authors' code does.
DIFFERENT = {
    "paper": {
        "distance": "paper",
        "meta_loss_start": "unroll",
        "warmup_learning_rate": 0.01,
        "warmup_scaled": False,
        "adaptive_clip": 0.0,
        "reduction": "mean",
    },
    "released": {
        "distance": "released",
        "meta_loss_start": "truncation",
        "warmup_learning_rate": 0.05,
        "warmup_scaled": True,
        "adaptive_clip": 0.1,
        "reduction": "sum",
    },
}
# A scheme with a teacher that is trained, and noise of the other kind.
OF_FORMS = ("figure1_choice_large", "figure6_adversarial_1e-3")


@pytest.mark.parametrize(
    "name", helpers.slow_if(lambda name: name not in OF_FORMS, KINDS)
)
@pytest.mark.parametrize(
    "form",
    helpers.slow_if(
        lambda form: form == "cpu_paper", [form for form in FORMS if form != "cpu"]
    ),
)
def test_forms_take_two_meta_steps(form, name, tmp_path, eagerly):
    files = [
        f"gin_configs/{part}.gin" for part in (f"forms/{form}", "experiments/" + name)
    ]
    amalgam = bindings.run("amalgamate", files, [*TINY, *SHORT], tmp_path)
    assert [row["update"] for row in amalgam.history] == [1, 2]
    about = amalgam.about
    assert about["preset"] == ("released" if form == "released" else "paper")
    told = DIFFERENT[about["preset"]]
    assert {key: about[key] for key in told} == told
    # What TINY left alone is the paper's (C.3), or cut.
    assert about["curriculum"]["chances"] == (0 if form == "cpu_paper" else 5)
    assert about["curriculum"]["repeat_threshold"] == 0.5
    assert about["scaling"] == (0.0 if "original" in name else 3.0)
    if noise := about["perturbation"]:
        told = {
            "released": {"gaussian_relative": "inner_step", "clipped": "meta_step"},
            "paper": {"gaussian_relative": "meta_step", "normalized": "meta_step"},
        }[about["preset"]]
        assert noise["redrawn"] == told[noise["kind"]]


MINE = """
import gin
import keras
import tf_amalgam
from tests import helpers


@gin.configurable
def task(batch_size=16):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return tf_amalgam.Task.from_keras(
        helpers.tiny_model, helpers.blobs(), loss, name="mine", batch_size=batch_size
    )
"""


def test_an_optimizee_of_a_module_of_yours(tmp_path, monkeypatch, eagerly):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "mine.gin").write_text(
        "import mine\namalgamate.task = @mine.task()\nmine.task.batch_size = 8\n"
    )
    given = [
        *("gin_configs/forms/cpu.gin", "gin_configs/experiments/figure2_rnnprop.gin"),
        str(tmp_path / "mine.gin"),
    ]
    with pytest.raises(ValueError, match="No module named 'mine'"):
        bindings.parse(given)
    monkeypatch.syspath_prepend(tmp_path)
    amalgam = bindings.run("amalgamate", given, TINY, tmp_path / "run")
    assert amalgam.about["task"]["name"] == "mine"
    bindings.parse([tmp_path / "run" / "config.gin"])  # the file that tells of the run
    assert bindings.bound("task").name == "mine"


# One of convolutions, one of dense layers, the functions, a private one; all are built.
OF_OPTIMIZEES = ("train", "mlp", "deeper", "quadratic", "rastrigin", "kmnist_dp")


@pytest.mark.parametrize(
    "name", helpers.slow_if(lambda name: name not in OF_OPTIMIZEES, OPTIMIZEES)
)
def test_optimizees_take_two_meta_steps(name, asked, tmp_path, eagerly):
    """Each from its own file, as large as it is, on minibatches of two images."""
    macro, label, *_ = OPTIMIZEES[name]
    files = ["gin_configs/forms/cpu.gin", f"gin_configs/tasks/{name}.gin"]
    files.append("gin_configs/experiments/figure2_rnnprop.gin")
    lines = [
        *TINY,
        f"amalgamate.task = %{macro}",
        "amalgamate.truncation_steps = 1",
        "amalgamate.stages = [(2, 1)]",
        "amalgamate.second_order = False",
    ]
    for line in (ROOT / "tasks" / f"{name}.gin").read_text().splitlines():
        if ".batch_size" in line:
            lines.append(line.partition("=")[0] + "= 2")
    amalgam = bindings.run("amalgamate", files, lines, tmp_path)
    assert [row["update"] for row in amalgam.history] == [1, 2]
    assert amalgam.about["task"]["name"] == label


@pytest.mark.parametrize("name", PARTS)
def test_parts_parse(name):
    bindings.parse([f"gin_configs/{name}"])
    assert gin.config_str()


@pytest.mark.parametrize("name", [n for n in PARTS if n.startswith("rules/")])
def test_students_take_two_meta_steps(name, tmp_path, eagerly):
    task = ["amalgamate.task = @tasks.quadratic()"]
    files = [f"gin_configs/{name}"]
    amalgam = bindings.run("amalgamate", files, TINY + task, tmp_path)
    assert [row["update"] for row in amalgam.history] == [1, 2]
    kinds = {"original_log_sign": "original"}
    told = "rnnprop" if "rnnprop" in name else name[6:-4]
    assert amalgam.rule.name == kinds.get(told, told)


MIXED_IN = [n for n in PARTS if n.startswith(("curricula", "perturb", "pools", "pres"))]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "repeat"), [("simple", None), ("repeat", 0.9)])
def test_a_curriculum_is_whole_whatever_form_it_follows(form, name, repeat):
    bindings.parse(
        [f"gin_configs/forms/{form}.gin", f"gin_configs/curricula/{name}.gin"]
    )
    assert bindings.bound("chances") == 0
    assert bindings.bound("repeat_threshold") == repeat


def _one_of_many(name):
    """Whether a part is perturbations', of which two say as much as all."""
    few = ("perturbations/pgd_linf.gin", "perturbations/input_noise.gin")
    return name.startswith("perturb") and name not in few


@pytest.mark.parametrize("name", helpers.slow_if(_one_of_many, MIXED_IN))
def test_parts_take_two_meta_steps(name, tmp_path, eagerly):
    """Each beside the quickstart's file, on a small quadratic."""
    files = ["gin_configs/experiments/quickstart.gin", f"gin_configs/{name}"]
    task = ["amalgamate.task = @tasks.quadratic()"]
    amalgam = bindings.run("amalgamate", files, [*TINY, *SHORT, *task], tmp_path)
    assert [row["update"] for row in amalgam.history] == [1, 2]
    about = amalgam.about
    if name.startswith("perturb") and "input" not in name:
        assert about["perturbation"]["radius"] > 0
    if name.startswith("presets"):
        assert about["preset"] in name
    if name.startswith("pools"):
        members = {"small": 2, "sgd_adam": 2, "large": 6}
        assert len(about["teachers"]) == members[name[6:-4]]


def test_all_optimizees_are_known():
    files = {p.stem for p in (ROOT / "tasks").glob("*.gin")}
    assert files == set(OPTIMIZEES) | {"data", "all"}


@pytest.mark.parametrize("name", OPTIMIZEES)
def test_optimizees_build(name, asked):
    """Each file alone, on made-up images: name, data, minibatch, parameters."""
    macro, label, batch_size, parameters = OPTIMIZEES[name]
    # A binding outside its scope would reach other files' optimizees.
    lines = (ROOT / "tasks" / f"{name}.gin").read_text().splitlines()
    assert not [line for line in lines if line.startswith("tasks.")]
    bindings.parse([f"gin_configs/tasks/{name}.gin"], ["data_dir = '/some/where'"])
    task = value_of(macro)
    assert (task.name, task.batch_size) == (label, batch_size)
    assert task.layout.size == parameters
    if name in ("quadratic", "rastrigin"):
        assert not asked
    else:
        assert asked == [(SETS.get(name, "mnist"), "/some/where")]


def test_optimizees_stand_side_by_side(asked):
    """All in one configuration; none takes another's parameters."""
    bindings.parse(
        ["gin_configs/tasks/all.gin"],
        ["evaluate.tasks = %all_tasks", "Wider/tasks.conv.batch_size = 16"],
    )
    found = value_of("all_tasks")
    expected = [
        OPTIMIZEES[name]
        for name in (
            *("train", "mlp", "wider", "deeper", "small_batch"),
            *("fmnist", "svhn", "cifar", "resnet28"),
        )
    ]
    assert [task.name for task in found] == [label for _, label, _, _ in expected]
    assert [task.layout.size for task in found] == [size for *_, size in expected]
    sizes = [task.batch_size for task in found]
    assert sizes == [128, 128, 16, 128, 32, 128, 128, 128, 128]
    assert {where for _, where in asked} == {None}


@pytest.mark.parametrize(
    "name",
    # The quickstart itself runs the other.
    helpers.slow_if(
        lambda name: "quick" in name, ["mnist_min_max_small.gin", "quickstart.gin"]
    ),
)
def test_experiments_take_two_meta_steps(name, tmp_path):
    amalgam = bindings.run(
        "amalgamate", [f"gin_configs/experiments/{name}"], TINY, tmp_path
    )
    assert [row["update"] for row in amalgam.history] == [1, 2]
    assert "amalgamate.stages = [(4, 1)]" in (tmp_path / "config.gin").read_text()
    operative = (tmp_path / "operative_config.gin").read_text()
    assert "amalgamate.meta_learning_rate" in operative


def test_teachers_lead_in_the_first_stages_of_the_fast_recipe(tmp_path):
    name = "gin_configs/experiments/mnist_min_max_small_fast.gin"
    bindings.parse([name], [])
    first, second, *others = gin.query_parameter("amalgamate.stages")
    assert first[3:] == (True,)
    assert second[3:] == (True, 0.0001)
    assert [one[3:] for one in others] == [(), ()]
    gin.clear_config()
    bound = [*TINY, "amalgamate.stages = [(4, 1, 0.2, True, 1e-4), (4, 1)]"]
    amalgam = bindings.run("amalgamate", [name], bound, tmp_path)
    assert amalgam.settings.curriculum.stages[0].meta_learning_rate == 1e-4
    rows = amalgam.history
    same = [row["last_loss"] == row["last_loss/rmsprop"] for row in rows]
    assert same == [True, True, False, False]


@pytest.mark.parametrize(
    "name",
    [
        "mnist_evaluate.gin",
        pytest.param("private_kmnist.gin", marks=pytest.mark.slow),
        # test_binaries runs it, too.
        pytest.param("quickstart.gin", marks=pytest.mark.slow),
    ],
)
def test_evaluations_run(name, tmp_path):
    students = ["student = 'adam'", "untrained = 'sgd'"] if "quick" in name else []
    found = bindings.run(
        "evaluate", [f"gin_configs/experiments/{name}"], TINY + students, tmp_path
    )
    assert found
    assert (tmp_path / "table.md").is_file()
    assert (tmp_path / "operative_config.gin").is_file()


@pytest.mark.parametrize("name", EVALUATED)
def test_evaluations_of_figures(name, asked):
    """After each of those that say how, which they leave alone."""
    for how in ("evaluate_paper", "evaluate_released", "evaluate_cpu"):
        files = [f"gin_configs/experiments/{part}.gin" for part in (how, name)]
        bindings.parse(files)
        tasks = gin.query_parameter("evaluate.tasks")
        baselines = gin.query_parameter("evaluate.baselines")
        assert (len(tasks), len(baselines)) == EVALUATED[name]
        preset = "paper" if how == "evaluate_paper" else "released"
        assert gin.query_parameter("evaluate.preset") == preset
        rate = gin.query_parameter("evaluate.warmup_learning_rate")
        assert rate == {"paper": 0.01, "released": 0.05}[preset]


@pytest.mark.parametrize(
    "name", ["evaluate_paper", "evaluate_released", "evaluate_cpu"]
)
def test_evaluations_of_many_optimizees(name, asked, tmp_path):
    """All optimizees on made-up images of their shapes; one of them is trained."""
    lines = ["evaluate.optimizers = {'mine': 'min-max-small'}", "evaluate.seeds = [0]"]
    lines += ["evaluate.baselines = ['adam']", "evaluate.progress = False"]
    bindings.parse([f"gin_configs/experiments/{name}.gin"])
    tasks = gin.query_parameter("evaluate.tasks")
    assert len(tasks) == (6 if name == "evaluate_cpu" else 12)
    baselines = gin.query_parameter("evaluate.baselines")
    assert len(lineup(baselines, preset="paper", **WARM_UP)) == 10
    file = f"gin_configs/experiments/{name}.gin"
    one = ["evaluate.tasks = [%MLP]", "evaluate.epochs = 1"]
    with pytest.raises(ValueError, match="1 steps, and in the first warmup_steps=100"):
        bindings.run("evaluate", [file], [*lines, *one], tmp_path)
    one += ["evaluate.warmup_steps = 0"]
    found = bindings.run("evaluate", [file], [*lines, *one], tmp_path)
    assert [r["optimizer"] for r in found] == ["adam", "mine"]


FILE = "gin_configs/experiments/quickstart.gin"


@pytest.mark.slow
def test_grid_search_runs_and_its_pool_is_trained_with(tmp_path):
    small = [*TINY, "grid_search.teachers = 'small'", "grid_search.preset = 'released'"]
    name = "gin_configs/experiments/grid_search.gin"
    found = bindings.run("grid_search", [name], small, tmp_path / "grid")
    tuned = [{"rule": rule.name, **rule.get_config()} for rule in found.teachers]
    assert tuned[1]["beta_2"] == 0.9  # as in the released code
    experiment = tmp_path / "mine.gin"
    experiment.write_text(f"include '{FILE}'\ninclude '{tmp_path}/grid/pool.gin'\n")
    bindings.run("amalgamate", [experiment], TINY, tmp_path / "run")
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["teachers"] == tuned


def test_the_grid_is_the_papers():
    bindings.parse(["gin_configs/experiments/grid_search.gin"])
    assert tuple(gin.query_parameter("grid_search.learning_rates")) == PAPER_GRID


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("amalgamte.alpha = 1", "amalgamte(?s:.)*Known names: amalgamate, evaluate"),
        ("amalgamate.alfa = 1", "alfa"),
        ("rules.adam.lr = 1", "lr"),
        ("amalgamate.alpha = ", "cannot be read"),
    ],
)
def test_misspelt_bindings_are_errors(line, message):
    with pytest.raises(ValueError, match=message):
        bindings.parse([FILE], [line])


def test_unknown_file_suggests_a_near_one():
    with pytest.raises(
        FileNotFoundError, match="Did you mean 'gin_configs/experiments/quick"
    ):
        bindings.parse(["gin_configs/experiments/quickstat.gin"])


def test_gin_stands_at_the_edge_alone():
    """No module of the package imports gin but bindings, and what reads campaigns."""
    package = pathlib.Path(bindings.__file__).parent
    users = [
        path.name
        for path in package.rglob("*.py")
        if any(line.startswith(("import gin", "from gin")) for line in path.open())
    ]
    assert sorted(users) == ["bindings.py", "recipe.py", "references.py"]
