"""A step's folder goes, moves and is marked; a kill at any request leaves no half that counts."""

import pytest

from palmscale.checkpoint.folders import folders_of
from palmscale.storage.objects import ObjectPath

FILES = {"MANIFEST.json": "m", "VERIFIED": "v", "params/d/0": "p", "params/manifest": "q"}


@pytest.fixture(params=["disk", "objects"])
def root(request, tmp_path):
    if request.param == "disk":
        return tmp_path
    return ObjectPath(request.getfixturevalue("bucket").url) / "checkpoints"


def step(root, name="8"):
    for file, text in FILES.items():
        path = root / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / name


def files(folder):
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


def test_removing_leaves_nothing_and_may_be_done_again(root):
    folder = step(root)
    folders_of(root).remove(folder, "VERIFIED")
    folders_of(root).remove(folder, "VERIFIED")
    assert list(root.iterdir()) == []


def test_moving_takes_everything(root):
    folder = step(root)
    (root / "set_aside").mkdir()
    folders_of(root).move(folder, root / "set_aside/8", "VERIFIED")
    assert files(root / "set_aside/8") == FILES and not folder.exists()


def test_a_marker_keeps_its_content_under_another_name(root):
    folder = step(root)
    folders_of(root).mark(folder, "VERIFIED", "CORRUPT")
    assert files(folder) == {("CORRUPT" if n == "VERIFIED" else n): t for n, t in FILES.items()}


def test_room_is_tried_out(root):
    step(root)
    folders_of(root).check_room(root, 1)
    assert [path.name for path in root.iterdir()] == ["8"]


def test_where_nothing_can_be_written_there_is_no_room(bucket):
    with bucket.failing(status=403), pytest.raises(PermissionError, match="Permission denied"):
        root = ObjectPath(bucket.url)
        folders_of(root).check_room(root, 1)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("what", ["remove", "move", "mark"])
def test_a_kill_at_any_request_leaves_a_step_whole_or_not_verified(bucket, what, monkeypatch):
    from palmscale.storage import objects

    root, store = ObjectPath(bucket.url) / "checkpoints", objects._store()
    arguments = {
        "remove": lambda folder: (folder, "VERIFIED"),
        "move": lambda folder: (folder, root / "set_aside/8", "VERIFIED"),
        "mark": lambda folder: (folder, "VERIFIED", "CORRUPT"),
    }[what]
    left = 0
    names = ("call", "cp_file", "rm")
    reals = {name: getattr(store, name) for name in names}

    def counted(name):
        def request(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return reals[name](*arguments, **options)

        return request

    for allowed in range(20):
        folder = step(root)
        for name in names:
            monkeypatch.setattr(store, name, counted(name))
        left = allowed
        try:
            getattr(folders_of(root), what)(*arguments(folder))
            done = True
        except Killed:
            done = False
        for name in names:
            monkeypatch.setattr(store, name, reals[name])
        for place in (folder, root / "set_aside/8"):
            there = files(place)
            if "VERIFIED" in there:
                assert {n: t for n, t in there.items() if n != "CORRUPT"} == FILES
        if what != "remove":  # what is to be kept is in one place at least
            wholes = [
                {("VERIFIED" if n == "CORRUPT" else n): t for n, t in files(place).items()}
                for place in (folder, root / "set_aside/8")
            ]
            assert FILES in wholes
        root.remove_tree()
        if done:
            break
    assert done and allowed > 0


def test_what_killed_saves_left_on_a_disk_goes(tmp_path):
    step(tmp_path, "8.orbax-checkpoint-tmp-1")
    step(tmp_path, "9.orbax-checkpoint-tmp-1")
    folders_of(tmp_path).remove_temporaries(tmp_path, "8")
    assert [path.name for path in tmp_path.iterdir()] == ["9.orbax-checkpoint-tmp-1"]
