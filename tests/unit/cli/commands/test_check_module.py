from palmscale.cli import main

MODULE = """
from flax import linen as nn

class Tied(nn.Module):
    num_tokens: int
    axes: tuple = ("vocab", "embed")

    def setup(self):
        init = nn.with_logical_partitioning(nn.initializers.ones, self.axes)
        self.table = self.param("table", init, (self.num_tokens, 8))

    def __call__(self, tokens_BL):
        return self.unembed(self.hidden(tokens_BL))

    def hidden(self, tokens_BL):
        return self.table[tokens_BL]

    def unembed(self, x_BLD):
        return x_BLD @ self.table.T
"""


def test_a_module_of_the_current_folder_is_checked(tmp_path, monkeypatch, capsys):
    (tmp_path / "tied_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main.run(["check-module", "tied_module:Tied", "--sequence_length=16"]) == 0
    said = capsys.readouterr().out
    assert "table" in said and "259 8" in said and "vocab embed" in said
    assert "float32 [1, 16, 259]" in said
    assert said.endswith("tied_module:Tied can be trained.\n")

    assert main.run(["check-module", "tied_module:Tied", "num_tokens=9", "axes=('vocab',)"]) == 2
    said = capsys.readouterr()
    assert "9 8" in said.out
    (line,) = said.err.splitlines()
    assert "tied_module:Tied cannot be trained: parameter table has the shape (9, 8)" in line


def test_a_field_without_a_value_is_the_users_mistake(capsys):
    assert main.run(["check-module", "m:M", "dim"]) == 2
    assert "dim sets no field; write FIELD=VALUE" in capsys.readouterr().err
