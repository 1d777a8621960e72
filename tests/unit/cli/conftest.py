"""Text of three files and the rows of it, which the tests of the commands on data share."""

import pytest

from palmscale.cli.config import load
from palmscale.data.dataset import Data
from palmscale.data.open import open_or_build
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.text_files import TextFiles

TEXTS = {"a.txt": "alpha beta\n" * 40, "b.txt": "γάμμα \x1b[2J\n" * 30, "c.txt": "delta\n" * 50}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for name, content in TEXTS.items():
        (folder / name).write_text(content)
    return folder


@pytest.fixture(scope="module")
def data(text, tmp_path_factory):
    """Rows of 32 tokens of three files, one of them held out."""
    corpus = Corpus(source=TextFiles(files=f"{text}/*.txt"), held_out_fraction=0.3)
    directory = str(tmp_path_factory.mktemp("caches"))
    return Data(corpus=corpus, sequence_length=32, seed=0, cache_directory=directory)


@pytest.fixture(scope="module")
def folder(data):
    """The folder of the built cache. Not to be written to."""
    return open_or_build(data).directory


@pytest.fixture
def gin_flags(data):
    yield [
        "--gin_file=configs/runs/pretrain.gin",
        "--gin_file=configs/models/palm_cpu_1m.gin",
        "--gin_file=configs/meshes/mesh.gin",
        f"--gin.TEXT_FILES={data.corpus.source.files}",
        f"--gin.CACHE_DIRECTORY={data.cache_directory}",
        "--gin.HELD_OUT_FRACTION=0.3",
        "--gin.SEQUENCE_LENGTH=32",
        "--gin.BATCH_SCHEDULE=((0, 8),)",
        "--gin.TRAIN_STEPS=1",
    ]
    load.reset()


MIXTURE = """\
Data.corpus = None
Data.components = (@first/Component(), @second/Component())
Component.weight = 1
first/Component.name = 'first'
second/Component.name = 'second'
first/Component.cache = '{first}'
second/Component.cache = '{second}'
"""


@pytest.fixture
def mixture_flags(gin_flags, text, folder, tmp_path):
    """Gin flags of a mixture of two caches, and their folders."""
    lone = Data(
        corpus=Corpus(source=TextFiles(files=f"{text}/a.txt")),
        sequence_length=32,
        seed=0,
        cache_directory=str(tmp_path),
    )
    folders = [folder, open_or_build(lone).directory]
    names = dict(zip(("first", "second"), folders))
    (tmp_path / "mixture.gin").write_text(MIXTURE.format(**names))
    of_text = ("--gin.TEXT_FILES=", "--gin.HELD_OUT_FRACTION=")
    flags = [flag for flag in gin_flags if not flag.startswith(of_text)]
    return [*flags, f"--gin_file={tmp_path}/mixture.gin"], folders
