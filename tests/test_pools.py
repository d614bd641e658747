"""What may teach, checked before anything is written."""

import json

import gin
import pytest

import tf_amalgam
from tests import helpers
from tests.test_choice import SMALL
from tests.test_gin import TINY
from tf_amalgam import bindings, rules, run, saved


@pytest.fixture(autouse=True)
def cleared():
    yield
    gin.clear_config()


OPTIONS = {**SMALL, "scheme": "min_max"}


@pytest.mark.parametrize("scheme", ["min_max", "choice"])
def test_a_learned_rule_is_no_teacher(scheme, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "learn", None)
    options = {**OPTIONS, "scheme": scheme, "workdir": tmp_path / "run"}
    teachers = [rules.RNNProp(), "adam"]
    with pytest.raises(ValueError, match="holds analytic rules.*received RNNProp"):
        tf_amalgam.amalgamate(helpers.tiny_task(), teachers, **options)
    assert not (tmp_path / "run").exists()


def test_rules_and_rates_of_the_two_presets():
    """Table 2 of the paper, and the authors' code."""
    released = (
        rules.SGD(learning_rate=0.2),
        rules.Momentum(learning_rate=0.5, normalizer="none"),
        rules.RMSProp(learning_rate=0.005, beta_2=0.9, normalizer="none"),
        rules.Adam(learning_rate=0.005, normalizer="constant"),
        rules.AddSign(learning_rate=0.1, normalizer="none"),
        rules.PowerSign(learning_rate=0.1, normalizer="none"),
    )
    assert rules.make_pool("large", "released") == released
    for rule, theirs in zip(rules.make_pool("large", "paper"), released, strict=True):
        assert type(rule) is type(theirs)
        assert rule.learning_rate == theirs.learning_rate
        assert getattr(rule, "normalizer", "bias_corrected") == "bias_corrected"
    told = {
        rule.name: rule.learning_rate
        for rule in rules.choice_pool("large", "released", "released")
    }
    assert told == {
        **{"sgd": 2.0, "momentum": 2.0, "rmsprop": 0.005, "adam": 0.02},
        **{"addsign": 1.0, "powersign": 1.0},
    }


@pytest.mark.parametrize(("rates", "adam"), [("direct", 0.005), ("released", 0.02)])
def test_a_call_says_which_rates_members_have(rates, adam, monkeypatch):
    begun = []
    monkeypatch.setattr(run, "learn", lambda trainer, *_, **__: begun.append(trainer))
    options = {**SMALL, "scheme": "choice", "teachers": "small", "choice_rates": rates}
    with pytest.raises(AttributeError):  # where the rule that was not trained is taken
        tf_amalgam.amalgamate(helpers.tiny_task(), preset="paper", **options)
    pool = begun[0].players.student.pool
    assert [member.learning_rate for member in pool] == [adam, 0.005]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The folder of a Choice rule over SGD and Adam; untrained will do here."""
    rule = rules.make_rule("choice", pool="sgd_adam")
    folder = tmp_path_factory.mktemp("shared")
    options = {"warmup_steps": 1, "warmup_learning_rate": 0.1}
    saved.save(folder / "student.npz", rule, rule.init_weights(0), **options)
    return folder


def taught_by(choice, **options):
    """Returns the members of the Choice rule that would teach."""
    teachers = []

    def learn(trainer, *_, **__):
        teachers.extend(trainer.players.teachers)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "learn", learn)
        with pytest.raises(KeyboardInterrupt):
            tf_amalgam.amalgamate(
                helpers.tiny_task(), choice=choice, **{**SMALL, **options}
            )
    return [member.name for member in teachers[0].pool]


@pytest.mark.parametrize(
    "teachers",
    [None, "sgd_adam", ["adam", "sgd"], ["sgd", rules.make_rule("adam")]],
)
def test_a_shared_choice_rule_keeps_its_pool(shared, teachers):
    assert taught_by(shared, teachers=teachers) == ["sgd", "adam"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"teachers": "large"}, "PowerSign("),
        ({"teachers": "small"}, "RMSProp("),
        ({"teachers": ()}, "none"),
        ({"teachers": ["sgd", "adam", "momentum"]}, "Momentum("),
        # Other learning rates, another hyperparameter.
        ({"teachers": "sgd_adam", "preset": "released"}, "Adam(learning_rate=0.02,"),
        ({"teachers": ["sgd", rules.make_rule("adam", beta_1=0.8)]}, "beta_1=0.8"),
    ],
)
@pytest.mark.parametrize("trained", [True, False])
def test_other_teachers_beside_a_shared_choice_rule(
    shared, options, part, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "learn", None)
    choice = shared if trained else rules.make_rule("choice", pool="sgd_adam")
    message = r"mixes another pool(?s:.)*choice: SGD\(.*Adam\((?s:.)*teachers, .*: "
    with pytest.raises(ValueError, match=message) as refused:
        tf_amalgam.amalgamate(
            helpers.tiny_task(),
            choice=choice,
            workdir=tmp_path / "run",
            **{**SMALL, **options},
        )
    assert not (tmp_path / "run").exists()
    assert part in str(refused.value).partition("teachers, ")[2]


def test_no_teachers_given_are_the_small_pool(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "learn", None)
    for scheme in ("min_max", "choice"):
        with pytest.raises(TypeError, match="not callable"):
            tf_amalgam.amalgamate(
                helpers.tiny_task(),
                workdir=tmp_path / scheme,
                **{**OPTIONS, "scheme": scheme},
            )
        settings = json.loads((tmp_path / scheme / "settings.json").read_text())
        pool = settings["teachers"]
        if scheme == "choice":
            pool = pool[0]["pool"]
        assert [member["rule"] for member in pool] == ["adam", "rmsprop"]


def test_a_binding_takes_the_shared_rules_pool(shared, tmp_path):
    """Beside the pool that an experiment names; `None` gives that up."""
    lines = [*TINY, "amalgamate.task = @tasks.quadratic()"]
    lines += [f"amalgamate.choice = '{shared}'", "amalgamate.scheme = 'choice'"]
    call = ("amalgamate", ["gin_configs/pools/large.gin"])
    with pytest.raises(ValueError, match="mixes another pool"):
        bindings.run(*call, lines, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    amalgam = bindings.run(*call, [*lines, "amalgamate.teachers = None"], tmp_path)
    pool = amalgam.about["teachers"][0]["pool"]
    assert [member["rule"] for member in pool] == ["sgd", "adam"]
