"""Every .gin file parses, builds and takes two tiny meta-steps; mistakes are named."""

import pathlib

import gin
import pytest
import tf_amalgam.gin_configs

from tf_amalgam import bindings

ROOT = pathlib.Path(tf_amalgam.gin_configs.__file__).parent
EXPERIMENTS = sorted(p.name for p in (ROOT / "experiments").glob("*.gin"))
EVALUATIONS = ["mnist_evaluate.gin", "private_kmnist.gin"]  # and the quickstart
PARTS = sorted(
    str(p.relative_to(ROOT))
    for p in ROOT.rglob("*.gin")
    if p.parent.name != "experiments"
)

# The smallest run that still takes two meta-steps, on data that is always here.
TINY = [
    "amalgamate.stages = [(2, 1)]",
    "amalgamate.truncation_steps = 2",
    "amalgamate.meta_batch = 1",
    "amalgamate.warmup_steps = 1",
    "amalgamate.validation_optimizees = 1",
    "amalgamate.validation_steps = 2",
    "amalgamate.progress = False",
    "conv.dataset = 'digits'",
    "conv.filters = [(4, 3)]",
    "conv.batch_size = 16",
    "mlp.dataset = 'digits'",
    "kmnist_dp/conv.dataset = 'digits'",
    "kmnist_dp/conv.filters = [(4, 3)]",
    "kmnist_dp/conv.batch_size = 16",
    "evaluate.seeds = [0]",
    "evaluate.epochs = 1",
    "evaluate.progress = False",
]


@pytest.fixture(autouse=True)
def cleared():
    yield
    gin.clear_config()


def test_all_experiments_are_known():
    assert set(EXPERIMENTS) == {
        "mnist_min_max_small.gin",
        "mnist_evaluate.gin",
        "private_kmnist.gin",
        "quickstart.gin",
    }


@pytest.mark.parametrize("name", PARTS)
def test_parts_parse(name):
    bindings.parse([f"gin_configs/{name}"])
    assert gin.config_str()


@pytest.mark.parametrize("name", [n for n in EXPERIMENTS if n not in EVALUATIONS])
def test_experiments_take_two_meta_steps(name, tmp_path):
    amalgam = bindings.run(
        "amalgamate", [f"gin_configs/experiments/{name}"], TINY, tmp_path
    )
    assert [row["update"] for row in amalgam.history] == [1, 2]
    assert "amalgamate.stages = [(2, 1)]" in (tmp_path / "config.gin").read_text()
    operative = (tmp_path / "operative_config.gin").read_text()
    assert "amalgamate.meta_learning_rate" in operative


@pytest.mark.parametrize("name", [*EVALUATIONS, "quickstart.gin"])
def test_evaluations_run(name, tmp_path):
    students = ["student = 'adam'", "untrained = 'sgd'"] if "quick" in name else []
    found = bindings.run(
        "evaluate", [f"gin_configs/experiments/{name}"], TINY + students, tmp_path
    )
    assert found
    assert (tmp_path / "table.md").is_file()
    assert (tmp_path / "operative_config.gin").is_file()


FILE = "gin_configs/experiments/quickstart.gin"


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
    """No other module of the package imports gin."""
    package = pathlib.Path(bindings.__file__).parent
    users = [
        path.name
        for path in package.rglob("*.py")
        if any(line.startswith(("import gin", "from gin")) for line in path.open())
    ]
    assert users == ["bindings.py"]
