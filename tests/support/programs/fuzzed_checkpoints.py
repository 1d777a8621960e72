"""A small checkpoint whose descriptions are changed at random, and everything that opens one."""

import contextlib
import copy
import io
import json
import pathlib
import random
import shutil

import forged
from small_run import RUN

from palmscale.checkpoint.reader import CheckpointReader
from palmscale.cli import main
from palmscale.data.stream import Cursor
from palmscale.errors import UserError
from palmscale.partition.layout import Layout
from palmscale.run.identity import check_same_run, describe
from palmscale.run.load import load
from palmscale.run.stored_meta import read_meta
from palmscale.run.stored_run import stored_run
from palmscale.train.spike import SpikePolicy
from palmscale.train.spike_history import SpikeHistory

GOLDEN = pathlib.Path(__file__).parents[2] / "golden/workdirs/0.1.0/palm"
FILES = ("meta.json", "MANIFEST.json", "cursor.json")
DEEP: list = []
for _ in range(200):
    DEEP = [DEEP]
VALUES = (
    None, True, -1, 0, 1, 7, 2**31, 2**63, 2**70, 10**4000, 0.5, 1e308, float("nan"), float("inf"),
    "", "x" * 100_000, "0", "float32", "../x", "/etc/passwd", "a\0b", "\ud800", "\x1b[31m", "\n",
    False, 10**9, 10**18, [1, 2], ["data", "model"], "data", "full", "sentencepiece", "meta.json",
    "subprocess:Popen", "PaLM", [], {}, [[]], {"class": "subprocess:Popen", "args": ["true"]},
    {"class": "PaLM"}, {"class": None}, DEEP,
)  # fmt: skip


def copied(folder):
    """A copy of the small checkpoint, whose meta describes its whole run as well."""
    workdir = shutil.copytree(GOLDEN, folder / "run")
    run = json.loads(json.dumps(describe(RUN)))
    forged.edit(workdir / "checkpoints/4", "meta.json", lambda meta: meta | {"run": run})
    return workdir


def nodes(value, path=()):
    """Yields the path of every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(inner):
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from nodes(item, (*path, key))


def changed(content: bytes, chance: random.Random) -> bytes:
    """Returns the content of a JSON file with one to three changes to its values or its bytes."""
    if chance.random() < 0.15:
        where = chance.randrange(len(content))
        junk = chance.choice([b"", b"\xff", b"\0", b"{", b"]", b'"', b"9" * 5000, b"\\u"])
        return content[:where] + junk + content[where + chance.randrange(3) :]
    value = json.loads(content)
    for _ in range(chance.randint(1, 3)):
        *above, key = chance.choice(list(nodes(value)) or [("a",)])
        parent = value
        for step in above:
            parent = parent[step]
        what = chance.random()
        if what < 0.15 and isinstance(parent, (dict, list)) and len(parent):
            del parent[key]
        elif what < 0.25 and isinstance(parent, dict):
            parent[chance.choice(["../x", "a\0b", "class", "name", "", "é"])] = parent.pop(key)
        else:
            parent[key] = copy.deepcopy(chance.choice(VALUES))
    return json.dumps(value).encode()


def _command(*arguments):
    err, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        code = main.run([str(argument) for argument in arguments])
    lines = [line for line in err.getvalue().splitlines() if line.startswith("palmscale: error")]
    assert code in (0, 1, 2) and "; run again with --debug" not in err.getvalue(), err.getvalue()
    assert len(lines) == (code == 2) and "Traceback" not in err.getvalue(), err.getvalue()
    out.getvalue().encode()
    if code == 2:
        raise UserError(lines[0])


def _resume(workdir):
    """What a run that resumes reads, without its arrays."""
    reader = CheckpointReader(workdir / "checkpoints")
    restored = reader.restore_some(None, lambda stored: {})
    if restored is not None:
        texts = reader._checked(restored[0])[1]
        Cursor.from_json(texts["cursor.json"])
        SpikeHistory.of(SpikePolicy(), texts["meta.json"])
        identity = read_meta(reader)["identity"]
        check_same_run(identity, describe(RUN.model), tuple(identity) + tuple(describe(RUN.model)))


WAYS = {
    "load": load,
    "load on a mesh": lambda workdir: load(workdir, layout=Layout()),
    "stored run": stored_run,
    "resume": _resume,
    "ls": lambda workdir: _command("checkpoint", "ls", f"--workdir={workdir}"),
    "show": lambda workdir: _command("checkpoint", "show", f"--workdir={workdir}"),
    "verify": lambda workdir: _command("checkpoint", "verify", f"--workdir={workdir}"),
    "diff": lambda workdir: _command("checkpoint", "diff", workdir, GOLDEN),
}


def open_one(workdir, chance: random.Random) -> str:
    """Changes one file of the checkpoint, opens it in two ways, and returns how that ended."""
    step = workdir / "checkpoints/4"
    kept = {name: (step / name).read_bytes() for name in (*FILES, "VERIFIED")}
    name = chance.choice(FILES)
    try:
        content = changed(kept[name], chance)
        if name == "MANIFEST.json" or chance.random() < 0.9:
            forged.write(step, name, content)
        else:  # a change that the digest tells
            (step / name).write_bytes(content)
        ended = ""
        for way in chance.sample(sorted(WAYS), 2):
            try:
                WAYS[way](workdir)
                ended += f"{way}: opened. "
            except UserError as error:
                assert "\n" not in str(error).strip(), error
                ended += f"{way}: refused. "
        return ended
    finally:
        for file, content in kept.items():
            (step / file).write_bytes(content)
