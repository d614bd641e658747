"""Trained optimizers on disk, and `load`."""

import hashlib
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

import tf_amalgam
from tests import helpers
from tf_amalgam import files, rules, saved
from tf_amalgam.optimizers import OPTIMIZERS

RULE = rules.RNNProp(alpha=0.05, normalizer="constant")


@pytest.fixture
def path(tmp_path):
    return saved.save(
        tmp_path / "student.npz",
        RULE,
        RULE.init_weights(5),
        warmup_steps=7,
        warmup_learning_rate=0.05,
        about={"seed": 5},
    )


def rewritten(path, change):
    """Rewrites a saved optimizer with a changed header or weights."""
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(arrays.pop("header").tobytes())
    change(header, arrays)
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez(path, header=text, **arrays)


def test_round_trip(path):
    rule, weights, header = saved.read(path)
    assert rule == RULE
    assert header["about"] == {"seed": 5}
    expected = RULE.init_weights(5)
    np.testing.assert_array_equal(helpers.flat(weights), helpers.flat(expected))
    assert path.stat().st_size < 30_000


@pytest.mark.parametrize("as_folder", [False, True])
def test_load_gives_a_keras_optimizer(path, as_folder):
    optimizer = tf_amalgam.load(path.parent if as_folder else path, learning_rate=0.5)
    assert isinstance(optimizer, keras.optimizers.Optimizer)
    assert optimizer.rule == RULE
    assert (optimizer.warmup_steps, optimizer.warmup_learning_rate) == (7, 0.05)
    assert float(optimizer.learning_rate) == 0.5


def test_load_by_name():
    for name in rules.TEACHERS:
        assert type(tf_amalgam.load(name)) is OPTIMIZERS[name]
    released = tf_amalgam.load("adam", preset="released", warmup_steps=3)
    assert released.rule.normalizer == "constant"
    assert released.warmup_steps == 3
    assert float(released.learning_rate) == pytest.approx(0.005)


def test_paths_in_the_folder_and_at_home(path, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    path.rename(tmp_path / "mine" / "student.npz")
    monkeypatch.chdir(tmp_path)
    assert tf_amalgam.load("mine").rule == RULE  # neither a name nor with a separator
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tf_amalgam.load("~/mine").rule == RULE
    terms = {"warmup_steps": 7, "warmup_learning_rate": 0.05}
    saved.save("~/again.npz", RULE, RULE.init_weights(5), **terms)
    assert (tmp_path / "again.npz").is_file()


def test_a_path_is_no_name(tmp_path, monkeypatch):
    """Though a folder be called like what ships."""
    rule = rules.make_rule("rnnprop")
    options = {"warmup_steps": 7, "warmup_learning_rate": 0.1}
    for name in ("choice-small", "adam"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "student.npz"
        saved.save(path, rule, rule.init_weights(0), **options)
    monkeypatch.chdir(tmp_path)
    for name in ("choice-small", "adam"):
        for path in (pathlib.Path(name), f"./{name}"):
            assert tf_amalgam.load(path).warmup_steps == 7
        assert tf_amalgam.load(name).warmup_steps != 7


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A folder of what ships, of which something may be missing."""
    folder = tmp_path / "zoo"
    shutil.copytree(saved.ZOO, folder)
    monkeypatch.setattr(saved, "ZOO", folder)
    return folder


def test_a_name_stands_for_one_file(zoo):
    """Not for another optimizer, nor for a header with other hyperparameters."""
    assert tf_amalgam.load("choice-small").rule.alpha == 0.1
    rewritten(
        zoo / "choice-small.npz",
        lambda header, _: header["hyperparameters"].update(alpha=0.5),
    )
    assert tf_amalgam.load(zoo / "choice-small.npz").rule.alpha == 0.5
    shutil.copy(zoo / "stronger.npz", zoo / "choice-large.npz")
    (zoo / "mean-small.npz").unlink()
    for name, told in [
        ("choice-small", "its SHA-256 is"),
        ("choice-large", f"in SHA256SUMS stands {saved._sums()['choice-large']}"),
        ("mean-small", "there is no such file"),
    ]:
        with pytest.raises(ValueError, match=f"{told}.*Install tf_amalgam again"):
            tf_amalgam.load(name)
    assert tf_amalgam.load("min-max-small")


def test_a_list_that_is_missing_is_told(zoo, monkeypatch):
    monkeypatch.setattr(saved, "SUMS", zoo / "no")
    saved._sums.cache_clear()
    try:
        with pytest.raises(
            ValueError, match="There is no .*/no.*Install tf_amalgam ag"
        ):
            tf_amalgam.load("adam")
        (zoo / "no").write_text("ab *mine.npz\n\n")
        assert saved.shipped_names() == ("mine",)
    finally:
        saved._sums.cache_clear()


def test_all_that_ships_is_listed_with_its_hash():
    files = {path.stem: path.read_bytes() for path in saved.ZOO.glob("*.npz")}
    hashes = {name: hashlib.sha256(held).hexdigest() for name, held in files.items()}
    assert saved._sums() == hashes
    assert tuple(sorted(hashes)) == saved.shipped_names()


def test_a_preset_is_a_known_one_even_where_none_is_needed():
    with pytest.raises(ValueError, match="Unknown preset 'papr'.*Did you mean 'paper'"):
        tf_amalgam.load("choice-small", preset="papr")
    trained = tf_amalgam.load("choice-small", preset="released")
    assert trained.rule == saved.find("choice-small")[0]


def test_loading_needs_no_locks():
    """Windows has none of the kind that meta-training and evaluations take."""
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "import tf_amalgam; print(type(tf_amalgam.load()).__name__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["Choice"]


def test_everything_available_loads():
    for name in tf_amalgam.available():
        assert tf_amalgam.load(name).get_config()


def test_unknown_name_suggests_a_near_one():
    with pytest.raises(
        ValueError, match=r"Unknown optimizer 'adan'.*Did you mean 'adam'"
    ):
        tf_amalgam.load("adan")


def test_missing_file_says_what_was_expected(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="no trained optimizer at .*student.npz"
    ):
        tf_amalgam.load(tmp_path)


def test_a_folder_of_replicates_says_which_there_are(path):
    for name in ("replicate-0", "replicate-1"):
        (path.parent / name).mkdir()
        (path.parent / name / path.name).write_bytes(path.read_bytes())
    assert tf_amalgam.load(path.parent).rule == RULE  # a run's own comes first
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match="in replicate-0, replicate-1. Give the"
    ):
        tf_amalgam.load(path.parent)


_buffer = io.BytesIO()
np.save(_buffer, np.ones(3))
NPY = _buffer.getvalue()


def without_a_bracket(path):
    """Of an array so large that its sum is compared after numpy has read its header."""
    whole = path.read_bytes()
    start = whole.index(b"\x93NUMPY", whole.index(b"weights/lstm_1/kernel.npy"))
    brace = whole.index(b"}", start)
    path.write_bytes(whole[:brace] + b" " + whole[brace + 1 :])


DAMAGE = {
    "no bracket": without_a_bracket,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:9000]),
    "not an archive": lambda path: path.write_text("hello"),
    "a byte changed": lambda path: path.write_bytes(
        path.read_bytes()[:15000] + b"\x55\xaa" + path.read_bytes()[15002:]
    ),
    "another file": lambda path: np.savez(path, numbers=np.ones(3)),
    "one array": lambda path: path.write_bytes(NPY),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_named(path, damage):
    DAMAGE[damage](path)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*damaged"):
        tf_amalgam.load(path)


def test_changed_weights_are_noticed(path):
    def change(header, arrays):
        arrays["weights/head/bias"] = arrays["weights/head/bias"] + 1.0

    rewritten(path, change)
    with pytest.raises(ValueError, match="SHA-256"):
        tf_amalgam.load(path)


def test_newer_version_asks_for_an_update(path):
    rewritten(path, lambda header, arrays: header.update(version=99))
    with pytest.raises(ValueError, match="format version 99.*Update tf_amalgam"):
        tf_amalgam.load(path)


def test_a_newer_header_may_have_other_parts(path):
    def change(header, arrays):
        header.update(version=99)
        del header["hyperparameters"]

    rewritten(path, change)
    with pytest.raises(ValueError, match="Update tf_amalgam"):
        tf_amalgam.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.pop("sha256"), "damaged .its sha256 is None"),
        (lambda header: header.update(version="2"), "damaged .its version is '2'"),
        (lambda header: header.update(hyperparameters=[]), "its hyperparameters is"),
        (
            lambda header: header["hyperparameters"].update(new_knob=1),
            "hyperparameters that this tf_amalgam does not know.*new_knob",
        ),
    ],
)
def test_odd_headers(path, change, message):
    rewritten(path, lambda header, arrays: change(header))
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + message):
        tf_amalgam.load(path)


def test_any_two_bytes_changed_are_noticed_or_harmless(path):
    """Some make zipfile believe in encryption, or in methods it does not know."""
    whole = path.read_bytes()
    weights = tf_amalgam.load(path).rule_weights
    for start in range(len(whole) - 1400, len(whole) - 2, 9):  # its directory
        path.write_bytes(whole[:start] + b"\x55\xaa" + whole[start + 2 :])
        try:
            found = tf_amalgam.load(path).rule_weights
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            for name, value in weights.items():
                np.testing.assert_array_equal(found[name], value)


def test_unknown_rule_lists_the_known(path):
    rewritten(path, lambda header, arrays: header.update(rule="velo"))
    with pytest.raises(ValueError, match="Unknown rule 'velo'. Known: .*rnnprop"):
        tf_amalgam.load(path)


def test_only_what_loads_again_is_written(tmp_path, monkeypatch):
    """As `choice-large` it would load what ships under that name."""
    monkeypatch.chdir(tmp_path)
    rule = rules.RNNProp()
    for name in ("choice-large", "mine.h5"):
        with pytest.raises(ValueError, match=f"must end in .npz, received {name}"):
            saved.save(
                name,
                rule,
                rule.init_weights(0),
                warmup_steps=1,
                warmup_learning_rate=0.1,
            )
    assert not list(tmp_path.iterdir())


def test_weights_of_another_size_are_refused(path):
    rewritten(path, lambda header, arrays: header["hyperparameters"].update(units=10))
    with pytest.raises(ValueError, match="do not belong to rnnprop"):
        tf_amalgam.load(path)


def test_a_failed_write_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left.*{path.name}"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_missing_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for what in (tf_amalgam.load, tf_amalgam.card):
        with pytest.raises(FileNotFoundError, match="mine.npz"):
            what("mine.npz")
