"""Names that a table, a page and a terminal can show as they are: no formula, no markup, no escape sequence."""

from __future__ import annotations

import re

LONGEST = 100  # characters
# Images and links of Markdown, tags of HTML; single signs, such as those that a table sets apart, are escaped there.
MARKUP = re.compile(r"!\[|\]\(|\]\[|<[A-Za-z/!?]")
EXPECTED = (
    f"printable text on one line, of at most {LONGEST} characters, that starts with a letter or a digit and holds no "
    "image, link or tag"
)


def is_printable(text: str) -> bool:
    r"""Whether `text` is one line without control, formatting or undecodable characters.

    >>> is_printable("4 bits, λ → 0.1"), is_printable("a\x1b[2J"), is_printable("a\n")
    (True, False, False)
    """
    return text.isprintable()


def is_label(text: str, longest: int = LONGEST) -> bool:
    """Whether `text` can name something in results.

    >>> is_label("ptq-minmax"), is_label("=1+1"), is_label("a ![x](y)")
    (True, False, False)
    """
    return (
        0 < len(text) <= longest
        and is_printable(text)
        and text[0].isalnum()
        and text == text.strip()
        and MARKUP.search(text) is None
    )


def checked_label(text: str) -> str:
    """`text`, which is a label.

    Raises:
        ValueError: it is none.
    """
    if not is_label(text):
        raise ValueError(f"expected {EXPECTED}, found {ascii(text)}")
    return text


def checked_labels(text: str) -> str:
    """`text`, which is nothing, or one or more labels joined to one of any length.

    Raises:
        ValueError: it is not.
    """
    if text and not is_label(text, len(text)):
        raise ValueError(f"expected {EXPECTED}, found {ascii(text)}")
    return text


def checked_line(text: str) -> str:
    """`text`, which is printable.

    Raises:
        ValueError: it is not.
    """
    if not is_printable(text):
        raise ValueError(f"expected printable text on one line, found {ascii(text)}")
    return text


def checked_lines(text: str) -> str:
    """`text`, which is printable but for its line breaks.

    Raises:
        ValueError: it is not.
    """
    if not all(map(is_printable, text.split("\n"))):
        raise ValueError(f"expected printable text, found {ascii(text)}")
    return text


def shown(text: str) -> str:
    r"""`text` with everything that is not printable written out; lines and tabs stay.

    >>> shown("a\x1b[2J")
    'a\\x1b[2J'
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
        for letter in text
    )
