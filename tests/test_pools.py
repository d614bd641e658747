"""What may teach, checked before anything is written."""

import pytest

import tf_amalgam
from tests import helpers
from tests.test_choice import SMALL
from tf_amalgam import rules, run

OPTIONS = {**SMALL, "scheme": "min_max"}


@pytest.mark.parametrize("scheme", ["min_max", "choice"])
def test_a_learned_rule_is_no_teacher(scheme, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "learn", None)
    options = {**OPTIONS, "scheme": scheme, "workdir": tmp_path / "run"}
    teachers = [rules.RNNProp(), "adam"]
    with pytest.raises(ValueError, match="holds analytic rules.*received RNNProp"):
        tf_amalgam.amalgamate(helpers.tiny_task(), teachers, **options)
    assert not (tmp_path / "run").exists()
