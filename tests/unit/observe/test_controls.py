from palmscale.observe.controls import escaped


def test_control_characters_are_escaped_and_nothing_else():
    assert escaped("\x1b[31m\x07\x9b\x7f\r\0") == r"\x1b[31m\x07\x9b\x7f\r\x00"
    text = "tab\tline\nnaïve \u3000 \u200d 👩\u200d🔬 日本語"
    assert escaped(text) == text
