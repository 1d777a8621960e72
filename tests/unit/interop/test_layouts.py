import importlib

import pytest

from palmscale.errors import UserError
from palmscale.interop import layouts
from palmscale.interop.layouts import ExportLayout, ImportLayout


def test_every_layout_offers_what_its_table_says():
    for name in layouts.EXPORTS:
        found = layouts.export_layout(name)
        assert isinstance(found, ExportLayout) and found.dtypes
    fields = set(layouts.Options.__dataclass_fields__)
    for name in layouts.IMPORTS:
        found = layouts.import_layout(name)
        assert isinstance(found, ImportLayout) and fields >= set(found.options)


def test_an_unknown_layout_is_told_with_the_known_ones():
    with pytest.raises(UserError, match="there is no export layout 'onnx'; known: hf, "):
        layouts.export_layout("onnx")
    with pytest.raises(UserError, match="there is no import layout 'gguf'; known: hf, "):
        layouts.import_layout("gguf")


def test_the_tables_name_modules_of_this_package():
    for module in {*layouts.EXPORTS.values(), *layouts.IMPORTS.values()}:
        assert importlib.import_module(module).__name__.startswith("palmscale.interop.")
