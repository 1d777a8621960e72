import pytest

from palmscale.cli import plan_cache


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "palmscale/plans"


def test_a_plan_is_found_by_all_that_decides_it():
    key = plan_cache.key_of(step="a", topology="v5e:2x2")
    assert plan_cache.read(key) is None
    plan_cache.write(key, {"fits": True})
    assert plan_cache.read(key) == {"fits": True}
    assert plan_cache.read(plan_cache.key_of(step="a", topology="v5e:4x4")) is None


def test_another_compiler_is_another_key(monkeypatch):
    key = plan_cache.key_of(step="a")
    assert plan_cache.key_of(step="a") == key
    monkeypatch.setattr(plan_cache, "compiler_versions", lambda: {"jax": "0"})
    assert plan_cache.key_of(step="a") != key


def test_a_file_that_cannot_be_read_is_no_plan(folder):
    key = plan_cache.key_of(step="a")
    plan_cache.write(key, {"fits": True})
    (folder / f"{key}.json").write_text('{"fits": tr')
    assert plan_cache.read(key) is None


def test_a_folder_that_cannot_be_written_costs_only_the_memory(folder):
    folder.parent.write_text("a file where the folder would be")
    plan_cache.write("k", {"fits": True})
    assert plan_cache.read("k") is None
