"""Makes untrusted text safe for a terminal: no control characters, no endless lines."""

import unicodedata

from smg_proto.compat._limits import MAX_ERROR_LENGTH

# Control, format (bidirectional overrides are among them), surrogate, private, line and paragraph.
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def printable(text: str, keep: str = "") -> str:
    """The text with unsafe characters escaped, except for those to keep."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char
        if char in keep or char == " " or unicodedata.category(char) not in _UNSAFE
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def one_line(text: str, length: int = MAX_ERROR_LENGTH) -> str:
    """The text on one line, cut to a maximum length."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= length else f"{line[:length]}… ({len(line)} characters)"
