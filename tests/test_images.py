"""Kubernetes manifests and the image: fields that exist, one version, all data."""

import json
import re
import runpy
import shutil
import subprocess
import sys
import types
import zipfile

import pytest

import tf_amalgam
from tests.test_launch_files import LAUNCH, MANIFESTS, ROOT, TEXTS

# The fields that our manifests use, as their APIs spell them: by what they stand under,
# those of a manifest's spec by its kind.
FIELDS = {
    "v1 PersistentVolumeClaim": "accessModes resources",
    "batch/v1 Job": "completionMode completions parallelism backoffLimitPerIndex "
    "maxFailedIndexes podFailurePolicy template",
    "kubeflow.org/v1 TFJob": "runPolicy tfReplicaSpecs",
    "ray.io/v1 RayCluster": "rayVersion headGroupSpec workerGroupSpecs",
    "podFailurePolicy": "rules",
    "rules": "action onPodConditions",
    "onPodConditions": "type status",
    "runPolicy": "cleanPodPolicy backoffLimit",
    "tfReplicaSpecs": "Worker",
    "Worker": "replicas restartPolicy template",
    "headGroupSpec": "rayStartParams template",
    "workerGroupSpecs": "groupName replicas minReplicas maxReplicas rayStartParams "
    "template",
    "rayStartParams": "num-cpus",
    "template": "spec",
    "spec": "restartPolicy containers volumes",
    "containers": "name image imagePullPolicy command args env ports resources "
    "volumeMounts",
    "env": "name value",
    "ports": "name containerPort",
    "resources": "requests limits",
    "requests": "cpu memory storage",
    "limits": "cpu memory",
    "volumeMounts": "name mountPath",
    "volumes": "name persistentVolumeClaim",
    "persistentVolumeClaim": "claimName",
}


def unknown_fields(told, under):
    """Yields the fields that do not belong under a name, or under what is there."""
    for one in told if isinstance(told, list) else [told]:
        if isinstance(one, dict):
            known = FIELDS.get(under, "").split()
            for field, value in one.items():
                if field in known:
                    yield from unknown_fields(value, field)
                else:
                    yield f"{under}.{field}"


def read(path):
    """Returns what a manifest says."""
    return pytest.importorskip("yaml").safe_load(path.read_text())


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_manifests(path):
    told = read(path)
    kind = f"{told['apiVersion']} {told['kind']}"
    assert kind in FIELDS
    assert told.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert list(unknown_fields(told["spec"], kind)) == []
    if told["kind"] == "PersistentVolumeClaim":
        assert told["metadata"] == {"name": "amalgam-runs"}
        return
    text = json.dumps(told)
    images = re.findall(r'"image": "(.+?)", "imagePullPolicy": "IfNotPresent"', text)
    assert set(images) == {f"tf-amalgam:{tf_amalgam.__version__}"}
    volume = '"mountPath": "/runs"', '"claimName": "amalgam-runs"'
    counts = [text.count(word) for word in ('"image"', *volume)]
    assert counts == [len(images)] * 3
    assert set(re.findall(r'data_dir ?= ?"(.+?)"', path.read_text())) == {"/runs/tfds"}
    for name in re.findall(r"gin_configs/[\w/.-]+\.gin", text):
        assert (ROOT / name).is_file()


def test_a_misspelt_field_is_unknown():
    pod = {"spec": {"containers": [{"name": "share", "imagepullPolicy": "Never"}]}}
    told = {"backOffLimitPerIndex": 3, "template": pod}
    assert list(unknown_fields(told, "batch/v1 Job")) == [
        "batch/v1 Job.backOffLimitPerIndex",
        "containers.imagepullPolicy",
    ]


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_campaigns_survive_lost_pods(name):
    """As many shares as indexes; what Kubernetes asks for `podFailurePolicy`."""
    spec = read(LAUNCH / "kubernetes" / f"{name}.yaml")["spec"]
    pod = spec["template"]["spec"]
    (command,) = pod["containers"][0]["args"]
    assert f'--share="$JOB_COMPLETION_INDEX/{spec["completions"]}"' in command
    assert f"--only='{name}/*'" in command
    assert spec["podFailurePolicy"]["rules"][0]["action"] == "Ignore"
    assert spec["completionMode"] == "Indexed"
    assert pod["restartPolicy"] == "Never"


def image_sets():
    """Returns the data sets of the optimizees that the paper's campaign evaluates."""
    campaign = ROOT / "gin_configs/experiments/paper_full.gin"
    optimizees = campaign.read_text().partition("evaluate.tasks")[2]
    tasks = [path.read_text() for path in (ROOT / "gin_configs/tasks").glob("*.gin")]
    for name in re.findall(r"%(\w+)", optimizees):
        (text,) = (text for text in tasks if f"\n{name} = @" in text)
        yield from re.findall(r'dataset = "(\w+)"', text)


def test_all_data_is_prepared(monkeypatch):
    loaded = set()
    tfds = types.ModuleType("tensorflow_datasets")
    tfds.load = lambda name, data_dir: loaded.add((name, data_dir))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", tfds)
    pod = read(LAUNCH / "kubernetes/data.yaml")["spec"]["template"]["spec"]
    python, _, code = pod["containers"][0]["command"]
    exec(code, {})
    assert python == "python"
    assert loaded == {(name, "/runs/tfds") for name in image_sets()}
    loaded.clear()
    (code,) = re.findall(
        r"python -c '(.+?)'\n", (LAUNCH / "README.md").read_text(), re.S
    )
    exec(code, {})
    assert loaded == {(name, "/data/tfds") for name in image_sets()}


def test_one_image_of_one_version():
    texts = [path.read_text() for path in TEXTS]
    tags = {tag for t in texts for tag in re.findall(r"tf-amalgam(?::([\w.]+))?", t)}
    assert tags == {tf_amalgam.__version__}
    pinned = re.findall(r'"ray\[default\]==(.+?)"', (LAUNCH / "Dockerfile").read_text())
    assert pinned == [read(LAUNCH / "kubernetes/ray.yaml")["spec"]["rayVersion"]]


def test_the_image_holds_what_setup_needs(tmp_path, monkeypatch):
    setuptools = pytest.importorskip("setuptools")
    copied = re.findall(r"^COPY (.+) \S+$", (LAUNCH / "Dockerfile").read_text(), re.M)
    names = {name for line in copied for name in line.split()}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == names

    def packaged(folder):
        """Returns what setup.py of a folder hands over; all packages are there."""
        told = {}
        monkeypatch.setattr(setuptools, "setup", told.update)
        monkeypatch.chdir(folder)
        runpy.run_path("setup.py")
        for package in told["packages"]:
            path = told["package_dir"].get(package, package.replace(".", "/"))
            (folder / path).stat()
        return told

    def image(names):
        folder = tmp_path / "-".join(sorted(names))
        folder.mkdir()
        for name in names:
            (folder / name).symlink_to(ROOT / name)
        return folder

    assert packaged(image(names)) == packaged(ROOT)
    for name in names:  # none is there for nothing
        with pytest.raises(FileNotFoundError):
            packaged(image(names - {name}))


@pytest.mark.slow
def test_a_wheel_holds_what_ships(tmp_path):
    """All that `load` finds by name, and all gin files; other tests see the sources."""
    folder = tmp_path / "sources"
    skipped = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=skipped)
    command = ("-m", "pip", "wheel", "--quiet", "--no-deps", str(folder))
    subprocess.run([sys.executable, *command], cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("tf_amalgam-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {n: archive.read(n) for n in archive.namelist() if n[-1] != "/"}
    there = [
        *(ROOT / "tf_amalgam/zoo").iterdir(),
        *(ROOT / "gin_configs").rglob("*.gin"),
    ]
    there = [path for path in there if path.is_file()]
    assert len(there) > 100
    for path in there:
        name = str(path.relative_to(ROOT)).removeprefix("tf_amalgam/")
        assert held[f"tf_amalgam/{name}"] == path.read_bytes()
