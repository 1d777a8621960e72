"""SentencePiece models of some hundred pieces, made in a fraction of a second."""

import io

import sentencepiece

TEXT = "def encode(text):\n    return text  # two  spaces, \ttab\r\n" * 40


def train(path, **options):
    """Writes a model that loses nothing, but for what the options change; returns its path."""
    model = io.BytesIO()
    defaults = {
        "vocab_size": 300,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "pad_id": 0,
        "eos_id": 1,
        "unk_id": 2,
        "bos_id": -1,
        "hard_vocab_limit": False,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines(keepends=True)),
        model_writer=model,
        **(defaults | options),
    )
    path.write_bytes(model.getvalue())
    return str(path)
