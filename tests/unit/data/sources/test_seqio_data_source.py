"""A corpus as a SeqIO DataSource; Tasks that read one are in test_seqio_tasks.py."""

import sys

import pytest
from memory_source import MemorySource

from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.seqio_data_source import data_source
from palmscale.errors import UserError


def test_without_seqio_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "seqio", None)
    with pytest.raises(UserError, match="seqio"):
        data_source(Corpus(source=MemorySource))
