"""Text that others wrote, made safe to show: a terminal obeys control characters."""

import re

# C0 and C1 controls and DEL, but neither tabs nor newlines.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def escaped(text: str) -> str:
    """Returns a text with escapes in place of control characters, except tabs and newlines."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
