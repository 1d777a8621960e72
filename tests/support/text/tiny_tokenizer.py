"""Small tokenizers of Hugging Face's package, trained on palmscale's own sources."""

import functools
import json
import pathlib

SOURCES = sorted(pathlib.Path(__file__).parents[3].glob("palmscale/model/*.py"))


@functools.cache
def byte_level(size=600, ending="<|endoftext|>"):
    """The JSON of a byte-level BPE tokenizer like GPT-NeoX's, with runs of spaces added."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.train_from_iterator(
        (path.read_text() for path in SOURCES),
        BpeTrainer(
            vocab_size=size,
            special_tokens=[ending, "<|padding|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken("    ", normalized=False)])
    return tokenizer.to_str()


def write(folder, content=None, **config):
    """Writes a tokenizer.json, and its tokenizer_config.json where there is any config."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(byte_level() if content is None else content)
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return str(folder / "tokenizer.json")
