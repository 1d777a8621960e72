import pytest
import small_plan
from small_search import BASE

from palmscale.cli.commands import plan_search
from palmscale.cli.config import load
from palmscale.plan.hardware.topology import parse
from palmscale.plan.search.layout_search import Candidate

WHERE = parse("v5e-4")
GIN = "configs/recipes/cpu_1m.gin"
ACCUMULATION = {"Training.gradient_accumulation_steps": 2}


@pytest.fixture(autouse=True)
def loaded():
    load.load_run([GIN])
    yield
    load.reset()


def candidate(result, changes=None):
    return Candidate(choice=BASE, changes=changes or {}, result=result)


def fitting(seconds, changes=None):
    verdict = small_plan.fits(prediction=small_plan.prediction(seconds, seconds))
    return candidate(small_plan.plan(verdict), changes)


def test_rows_show_settings_memory_synchronous_bytes_and_why_not():
    _, rows = plan_search.rows([fitting(1.0, ACCUMULATION), candidate("no such thing")])
    settings = "GRADIENT_ACCUMULATION_STEPS=2"
    assert rows[0] == ["5.00", "0.000", "0.0", "1.00 to 1.00", "50.0% to 50.0%", settings]
    assert rows[1] == ["", "", "", "", "", "the run's own: no such thing"]


def test_a_layout_that_does_not_fit_has_its_bytes_alone():
    _, rows = plan_search.rows([candidate(small_plan.plan(small_plan.does_not_fit()))])
    assert rows == [["31.50, too much", "", "", "", "", "the run's own"]]


def test_the_gin_file_says_why_and_binds_what_was_found():
    found = [fitting(1.0, ACCUMULATION), fitting(2.0)]
    bindings = ["DATA=2", "PaLM.depth=4", "my_module.Model.width=8"]
    lines = plan_search.gin_text([GIN], bindings, WHERE, 16, found).splitlines()
    assert lines[0].startswith("# Found by a layout search on v5e:2x2, 16 sequences a step")
    assert lines[1] == "# The run's own layout, predicted 2.00 to 2.00 s a step."
    assert "--gin.my_module.Model.width='8'" in lines[2]
    assert lines[-5:] == ["DATA = 2", "PaLM.depth = 4", "TOPOLOGY = 'v5e:2x2'", "SLICES = 1",
                          "GRADIENT_ACCUMULATION_STEPS = 2"]  # fmt: skip


def test_suggestions_are_flags(monkeypatch, capsys):
    found = [fitting(1.0, ACCUMULATION), candidate("no", {"MeshSpec.data": 2})]
    monkeypatch.setattr(plan_search.layout_search, "suggest", lambda *args, count: iter(found))
    plan_search.suggest(None, WHERE, 16, count=1)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("fits with --gin.GRADIENT_ACCUMULATION_STEPS=2: 5.00 GiB of 15.75")
    assert second == "not --gin.DATA=2: no"
