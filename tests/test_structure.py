"""Imports only go up, BUILD says what is imported, importing is light."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

from tests import test_reporting

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tf_amalgam"
# Folders by the names that they are installed as.
FOLDERS = {"tf_amalgam": PACKAGE, "tf_amalgam_launch": ROOT / "launch"}

# A module may import from its own layer's predecessors only.
LAYERS = [
    {"checks"},
    {
        *("numerics", "layout", "files", "privacy", "stats", "warm_up"),
        *("published", "processes", "progress", "terms", "words", "cluster"),
        *("registered", "gradients", "references"),
    },
    {"rules", "sweep", "frames", "chunks", "plots", "weights", "jobs", "upcoming"},
    {
        *("data", "amalgamation", "perturbation", "curriculum", "guard"),
        *("private_gradients", "participants", "compiled", "measured", "engines"),
        "workers",
    },
    {"advance", "lanes", "stored", "launchers"},
    {"guarded", "tasks", "evaluated"},
    {"optimizer"},
    {"optimizers"},
    {"saved", "unroll", "sample", "records"},
    {"adjoint", "reached"},
    {"importing", "facts", "cards"},
    {"objective", "intervals", "pages"},
    {
        *("meta_step", "glances", "tables"),
        *("figures_by_epoch", "figures_of_stability"),
    },
    {"settings", "alone", "state", "figures", "costs"},
    {"programs", "given"},
    {"meta_train", "checkpoints"},
    {"workdir"},
    {"run", "replicates", "reporting"},
    {"experiment", "lineup", "trial", "exporting"},
    {"evaluation", "plan", "campaign"},
    {"tuning"},
    {"bindings"},
    {"recipe"},
    {"rates"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def top(path):
    """Name of the module's place in the layers."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Yields our modules that a file imports, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in FOLDERS)
        elif (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[0] in FOLDERS
        ):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if module_file(whole) else node.module


def module_file(name):
    package, *parts = name.split(".")
    base = FOLDERS[package].joinpath(*parts)
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent.name != "zoo")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_up(path):
    if path == PACKAGE / "__init__.py":
        return
    mine = top(path)
    for name in imported(path):
        parts = name.split(".")
        assert parts[0] == "tf_amalgam", f"{path.name} imports a program"
        if len(parts) == 1:  # tf_amalgam itself lists names, and is imported by none
            pytest.fail(f"{path.name} imports the package as a whole")
        if parts[1] in ("gin_configs", mine):
            continue
        assert RANK[parts[1]] < RANK[mine], f"{path.name} imports {name}"


def test_every_module_has_a_layer():
    assert {top(p) for p in SOURCES} - {"__init__"} == set(RANK)


TARGET = re.compile(r"py_(?:library|binary|test)\((.*?)\n\)", re.S)


def build_targets():
    """Returns target → (sources, deps) of BUILD."""
    found = {}
    for body in TARGET.findall((ROOT / "BUILD").read_text()):
        keys = re.findall(r"^    (\w+) = ", body, re.M)
        assert len(keys) == len(set(keys)), body  # Bazel loads no such file
        lists = {
            k: re.findall(r'"([^"]+)"', v)
            for k, v in re.findall(r"(\w+) = \[(.*?)\]", body, re.S)
        }
        name = re.search(r'name = "([^"]+)"', body)[1]
        found[name] = (
            lists.get("srcs", []),
            {d.lstrip(":") for d in lists.get("deps", [])},
        )
    return found


def test_build_has_a_target_for_each_module_with_its_imports():
    targets = build_targets()
    by_source = {
        source: name for name, (sources, _) in targets.items() for source in sources
    }
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    assert set(by_source) >= {str(f.relative_to(ROOT)) for f in files}
    for file in files:
        source = str(file.relative_to(ROOT))
        needed = set()
        for name in imported(file):
            if name == "tf_amalgam.gin_configs":
                needed.add("gin_configs")
            elif path := module_file(name):
                needed.add(by_source[str(path.relative_to(ROOT))])
        needed.discard(by_source[source])
        assert targets[by_source[source]][1] == needed, f"BUILD: deps of {source}"


def test_console_scripts_exist():
    scripts = re.findall(
        r'"([a-z-]+)=tf_amalgam_launch\.(\w+):entry"', (ROOT / "setup.py").read_text()
    )
    assert {name for name, _ in scripts} == {
        "amalgamate",
        "amalgam-evaluate",
        "amalgam-export",
        "amalgam-grid-search",
        "amalgam-import",
        "amalgam-paper",
        "amalgam-report",
        "amalgam-train-zoo",
    }
    for _, module in scripts:
        assert "\ndef entry():\n" in (ROOT / "launch" / f"{module}.py").read_text()


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_importing_brings_no_more_than_keras():
    code = """
import sys, keras
before = set(sys.modules)
import tf_amalgam
tf_amalgam.load("adam")
new = {m.split(".")[0] for m in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names)))
"""
    assert run(code).strip().splitlines()[-1] == "['tf_amalgam']"


def test_public_names_exist():
    import tf_amalgam

    for name in tf_amalgam.__all__:
        assert getattr(tf_amalgam, name) is not None
    assert callable(tf_amalgam.amalgamate)
    assert callable(tf_amalgam.evaluate)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tf_amalgam.nothing


def test_doctests():
    import doctest
    import importlib

    having = [path for path in SOURCES if "    >>> " in path.read_text()]
    assert len(having) >= 6
    for path in having:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        result = doctest.testmod(importlib.import_module(name))
        assert result.attempted, name
        assert result.failed == 0, name


def test_the_library_asserts_nothing():
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), path


WITHOUT = """
import sys
sys.modules["keras"] = sys.modules["tensorflow"] = None
import tf_amalgam
"""


# A line that leaves it to the locale how a text is read or written.
BY_LOCALE = re.compile(
    r"""\.read_text\((?!"utf-8"|encoding)"""
    r"""|(?<!\bfiles)\.write_text\((?!.*"utf-8")"""
    r"""|(?<![.\w])open\((?!.*(encoding=|"[rwa]b"))"""
)


def test_what_one_machine_writes_another_one_reads():
    found = [
        f"{path.name}: {line.strip()}"
        for path in [*SOURCES, *(ROOT / "launch").glob("*.py")]
        for line in path.read_text("utf-8").splitlines()
        if BY_LOCALE.search(line)
    ]
    assert not found
    for line in ('open(path, "w")', "x.read_text()", "path.write_text(text)"):
        assert BY_LOCALE.search(line), line


def test_statistics_and_reports_need_no_tensorflow(tmp_path):
    test_reporting.written(test_reporting.planted(), tmp_path)
    told = run(
        f"{WITHOUT}from tf_amalgam import stats\n"
        f"print(tf_amalgam.write_report({str(tmp_path)!r}))\n"
        "print(stats.effect_size([1.0, 2.0], [1.0, 2.0]))\n"
    )
    assert told.splitlines() == [str(tmp_path / "report" / "index.html"), "0.0"]


def test_what_needs_tensorflow_says_so():
    code = f"{WITHOUT}try:\n    tf_amalgam.load\nexcept ImportError as e:\n    print(e)"
    assert "tf_amalgam.load needs keras, which is not installed" in run(code)
