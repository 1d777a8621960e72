import re

import pytest
import source_tree
import text_source
from tiny_sentencepiece import train

from palmscale.cli import main
from palmscale.cli.config import load
from palmscale.data.sources.source import VALIDATION
from palmscale.data.vocab import training
from palmscale.data.vocabulary import SentencePieceVocabulary

WORDS = dir(str) + dir(int) + dir(dict)
TEXTS = {
    f"s{i}.py": [f"def {word}({i}):\n    return {i}\n" for word in WORDS[i::6]] for i in range(6)
}
GIN = f"""
import memory_source
import text_source
SOURCE = @text_source.GivenTexts()
CACHE = None
Corpus.source = %SOURCE
text_source.GivenTexts.texts = {TEXTS!r}
Data.corpus = @Corpus()
Data.cache = %CACHE
Data.sequence_length = 1
Data.seed = 0
"""


@pytest.fixture
def vocab(tmp_path, capfd):
    """RunLengths `palmscale vocab ...` on a small corpus; returns exit code, output and errors."""
    (tmp_path / "corpus.gin").write_text(GIN)

    def run(*arguments):
        gin_file = f"--gin_file={tmp_path}/corpus.gin"
        code = main.run(["vocab", *map(str, arguments), gin_file])
        return code, *capfd.readouterr()

    yield run
    load.reset()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "my.model"


def test_train_writes_a_model_that_check_accepts(vocab, out):
    code, printed, said = vocab("train", "--size=400", f"--out={out}")
    assert code == 0 and f"palmscale vocab check {out}" in printed
    assert "Reading 6 files" in said and "Training 400 pieces (bpe)" in said
    assert len(said.splitlines()) <= 3  # none of SentencePiece's own
    assert [path.name for path in out.parent.iterdir() if "model" in path.name] == ["my.model"]
    code, printed, _ = vocab("check", out)
    assert code == 0
    for needed in ("decoding restores the text", "pieces  400", "[eod] 1, pad 0", "bytes/token"):
        assert needed in printed


def test_check_measures_the_held_out_documents(vocab, tmp_path):
    model_file = train(tmp_path / "m", split_digits=True)
    vocabulary = SentencePieceVocabulary(model_file)
    corpus = text_source.corpus(TEXTS)
    split_of = corpus.split_of(corpus.source.shards())
    texts = [
        text
        for shard in corpus.source.shards()
        for number, text in enumerate(TEXTS[shard.name])
        if split_of(shard, number) == VALIDATION
    ]
    size, tokens = sum(map(len, texts)), sum(len(vocabulary.encode(text)) for text in texts)
    _, printed, _ = vocab("check", model_file)
    measured = f"{len(texts)} {size:,} {tokens:,} {size / tokens:.3f}"
    assert measured in " ".join(printed.split())


MIXTURE = """
Data.corpus = None
Data.components = (@lower/Component(), @upper/Component(), @none/Component())
Component.corpus = @Corpus()
Corpus.source = @text_source.GivenTexts()
Component.name = 'lower'
Component.weight = 3
upper/Component.name = 'upper'
upper/Component.weight = 1
upper/text_source.GivenTexts.texts = {upper!r}
none/Component.name = 'none'
none/Component.weight = 0
"""


def test_a_mixture_is_sampled_by_its_weights_and_counted_by_its_parts(vocab, out, monkeypatch):
    upper = {name: [text.upper() for text in texts] for name, texts in TEXTS.items()}
    gin_file = out.parent / "corpus.gin"
    gin_file.write_text(GIN + MIXTURE.format(upper=upper))
    seen = []
    real = training.train_model
    monkeypatch.setattr(
        training,
        "train_model",
        lambda texts, **options: seen.extend(texts) or real(TEXTS["s0.py"], **options),
    )
    code, _, said = vocab("train", "--size=300", f"--out={out}", "--max_bytes=4000")
    assert code == 0 and "Reading" in said and " of upper" in said and " of none" not in said
    lower_bytes, upper_bytes = (
        sum(len(text) for text in seen if text.startswith(word)) for word in ("def", "DEF")
    )
    assert 2900 < lower_bytes <= 3000 and 900 < upper_bytes <= 1000
    code, printed, _ = vocab("check", out)
    counted = re.findall(r"^(\w+) +[\d,]+ +[\d,]+ +[\d,]+ +[\d.]+$", printed, re.MULTILINE)
    assert counted == ["lower", "upper", "all"]


def test_the_same_command_gives_the_same_file_and_another_model_is_not_replaced(vocab, out):
    assert vocab("train", "--size=400", f"--out={out}")[0] == 0
    model = out.read_bytes()
    assert vocab("train", "--size=400", f"--out={out}")[0] == 0
    code, _, said = vocab("train", "--size=401", f"--out={out}")
    assert code == 2 and "contains a different model" in said.splitlines()[-1]
    assert out.read_bytes() == model


def test_a_smaller_sample_gives_another_model_and_so_does_a_seed(vocab, tmp_path):
    models = []
    for number, flags in enumerate([(), ("--max_bytes=3000",), ("--max_bytes=3000", "--seed=1")]):
        out = tmp_path / f"{number}.model"
        assert vocab("train", "--size=350", f"--out={out}", *flags)[0] == 0
        models.append(out.read_bytes())
    assert len(set(models)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "train --size=400 --out=TMP/no/m",
            "TMP/no/m cannot be written (No such file or directory)",
        ),
        ("train --size=400 --out=TMP", "TMP cannot be written (Is a directory)"),
        ("train --size=256000 --out=TMP/m", "size=256000 is too large: the text yields only"),
        ("train --size=400 --out=TMP/m --gin.CACHE=rows", "Data.cache=rows, which contains tokens"),
        (
            "train --size=400 --out=TMP/m --gin.SOURCE=@memory_source.MemorySource()",
            "MemorySource yields tokens",
        ),
        (
            "train --size=400 --out=TMP/m --gin.Data.corpus=None"
            " --gin.Data.components=(@a/Component(),) --gin.a/Component.name=a"
            " --gin.a/Component.weight=1 --gin.a/Component.cache=rows",
            "the component a has Component.cache=rows, which contains tokens",
        ),
        ("check TMP/none.model", "none.model' cannot be read (No such file"),
        ("check TMP/corpus.gin", "is not a SentencePiece model"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(vocab, tmp_path, arguments, message):
    code, printed, said = vocab(*arguments.replace("TMP", str(tmp_path)).split())
    assert code == 2 and not printed
    last = said.splitlines()[-1]
    assert last.startswith("palmscale: error: ") and message.replace("TMP", str(tmp_path)) in last
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.gin"]


def test_check_ends_with_two_and_the_property_that_fails(vocab, tmp_path):
    model_file = train(tmp_path / "ordinary", add_dummy_prefix=True)
    code, printed, said = vocab("check", model_file)
    assert code == 2 and not printed
    assert said.startswith(f"palmscale: error: {model_file} fails the check 'separately encoded")


def test_the_settings_of_the_vocabulary_page_fit_the_quickstart(tmp_path, capsys):
    """The page's last command, with `explain`, which refuses what training would."""
    model = train(tmp_path / "m", split_digits=True)
    page = (source_tree.CHECKOUT / "docs/vocabulary.md").read_text()
    (command,) = re.findall(r"^palmscale train (.*)", page, re.MULTILINE)
    names = {"my_run.gin": "configs/runs/quickstart.gin", "my.model": model}
    flags = [re.sub("my_run.gin|my.model", lambda m: str(names[m[0]]), f) for f in command.split()]
    bindings = [flag.removeprefix("--gin.") for flag in flags[1:]]
    try:
        assert main.run(["explain", *flags]) == 0
        run = load.load_run(flags[0].partition("=")[2], bindings)
    finally:
        load.reset()
    assert run.data.vocabulary == str(model) and run.model.num_tokens == 32_000
    assert "embedding" in capsys.readouterr().out


def test_without_a_gin_file_the_corpus_is_the_standard_library():
    try:
        shards = load.load_data(["configs/data/text.gin"]).corpus.source.shards()
    finally:
        load.reset()
    assert {"argparse.py", "json/decoder.py"} <= {shard.name for shard in shards}
