"""The folders on disk: what state each step is in, and that a removed one leaves nothing behind."""

import shutil

import pytest

from palmscale.checkpoint import digest
from palmscale.checkpoint.steps import CORRUPT, META, StepFolders
from palmscale.errors import CorruptionError


@pytest.fixture
def folders(tmp_path):
    for step in (20, 3, 100):
        (tmp_path / str(step)).mkdir()
        (tmp_path / str(step) / META).write_text('{"a": 1}')
    extra = {"metrics": {"loss": 2.0}, "time": 5.0}
    digest.write_manifest(tmp_path / "20", extra, digest.file_digests(tmp_path / "20"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "7.orbax-checkpoint-tmp").mkdir()
    return StepFolders(tmp_path)


def test_steps_are_the_folders_with_a_number_in_order(folders, tmp_path):
    assert folders.steps() == [3, 20, 100]
    assert StepFolders(tmp_path / "absent").steps() == []


def test_the_marker_decides_the_state(folders):
    assert folders.in_state("verified") == [20]
    assert folders.in_state("unfinished") == [3, 100]
    folders.mark_corrupt(20)
    assert folders.state(20) == "corrupt" and (folders.path(20) / CORRUPT).exists()
    folders.mark_corrupt(3)  # never verified: there is nothing to take back
    assert folders.state(3) == "unfinished"


def test_a_finished_step_without_a_marker_is_marked_again_only_if_it_is_whole(folders):
    (folders.path(20) / digest.VERIFIED).unlink()
    assert folders.state(20) == folders.info(20).state == "unmarked" and not folders.damages(20)
    content = (folders.path(20) / META).read_text()
    (folders.path(20) / META).write_text("{}")
    assert META in folders.mark_verified(20)[0] and folders.state(20) == "unmarked"
    (folders.path(20) / META).write_text(content)
    assert folders.mark_verified(20) == [] and folders.info(20).verified


def test_strays_are_no_steps_and_are_never_deleted(folders, tmp_path):
    extra = {"step": 20, "time": 5.0}
    digest.write_manifest(tmp_path / "20", extra, digest.file_digests(tmp_path / "20"))
    for name in ("21", "0020", "٢٠"):  # the last: 20 in Arabic digits
        shutil.copytree(tmp_path / "20", tmp_path / name)
    fresh = StepFolders(tmp_path)
    assert fresh.steps() == [3, 20, 100] and fresh.in_state("verified") == [20]
    assert fresh.strays().keys() == {"21", "0020", "٢٠"}
    assert fresh.delete(21) == tmp_path / "set_aside/21"
    assert (tmp_path / "0020").exists() and fresh.delete(20) is None


def test_info_comes_from_the_manifest_and_a_damaged_one_is_corrupt(folders):
    info = folders.info(20)
    assert info.verified and info.metrics == {"loss": 2.0} and info.time == 5.0 and info.bytes > 0
    (folders.path(20) / digest.MANIFEST).write_text("{}")
    assert folders.info(20).state == "corrupt"


def test_a_json_file_is_read_only_if_it_is_the_one_written(folders):
    assert folders.read_json(20, META) == {"a": 1}
    (folders.path(20) / META).write_text('{"a": 2}')
    with pytest.raises(CorruptionError, match=META):
        folders.read_json(20, META)


def test_deleting_and_cleaning_leave_nothing_of_a_step(folders, tmp_path):
    folders.delete(20)
    folders.delete(20)
    folders.remove_temporaries("*")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["100", "3", "notes"]


def test_a_pinned_step_is_never_deleted_but_set_aside(folders, tmp_path):
    assert not folders.info(20).pinned
    folders.pin(20)
    assert folders.info(20).pinned and folders.info(20).verified
    assert folders.delete(20) == tmp_path / "set_aside/20"
    folders.pin(3)
    (tmp_path / "set_aside/3").mkdir()
    assert folders.delete(3) == tmp_path / "set_aside/3-1"
    assert folders.steps() == [100]
    assert (tmp_path / "set_aside/20" / META).read_text() == '{"a": 1}'


def test_an_unpinned_step_goes_like_any_other(folders, tmp_path):
    folders.pin(20)
    folders.unpin(20)
    folders.unpin(20)
    assert folders.delete(20) is None
    assert not (tmp_path / "20").exists() and not (tmp_path / "set_aside").exists()


def test_room_is_there_or_an_error_says_how_much_is_missing(folders, tmp_path):
    folders.check_room(1)
    assert not (tmp_path / "probe.orbax-checkpoint-tmp").exists()
    with pytest.raises(OSError, match=r"No space left: .* bytes free; .*000 are needed"):
        folders.check_room(10**18)
    with pytest.raises(OSError, match="absent"):
        StepFolders(tmp_path / "absent").check_room(1)


def test_damages_are_told_of_a_step_whether_it_is_marked_or_not(folders):
    assert folders.damages(20) == []
    (folders.path(20) / META).unlink()
    assert len(folders.damages(20)) == 1 and META in folders.damages(20)[0]
    folders.mark_corrupt(20)
    assert len(folders.damages(20)) == 1 and META in folders.damages(20)[0]
