"""Text that Markdown and LaTeX print as it is."""

from __future__ import annotations

import re
import unicodedata

_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # a bare bracket after the end of a row is read as its option
    "]": "{]}",
}
# What LaTeX has in formulas only, and marks that not every font encoding has.
_FORMULAS = {
    **dict.fromkeys("ϵ", r"\epsilon"),
    **{"ε": r"\varepsilon", "ϕ": r"\phi", "φ": r"\varphi", "ϑ": r"\vartheta", "µ": r"\mu"},
    **{"×": r"\times", "·": r"\cdot", "±": r"\pm", "−": "-", "°": r"^{\circ}", "√": r"\surd", "∞": r"\infty"},
    **{"≈": r"\approx", "≤": r"\leq", "≥": r"\geq", "≠": r"\neq", "∈": r"\in", "∑": r"\sum", "∇": r"\nabla"},
    **{"→": r"\rightarrow", "←": r"\leftarrow", "↔": r"\leftrightarrow", "↑": r"\uparrow", "↓": r"\downarrow"},
    **{"⇒": r"\Rightarrow", "✓": r"\surd", "✗": r"\times", "○": r"\circ", "²": "^{2}", "³": "^{3}"},
}
# Capitals that look like Latin ones have no command of their own.
_LATIN = {"Α": "A", "Β": "B", "Ε": "E", "Ζ": "Z", "Η": "H", "Ι": "I", "Κ": "K", "Μ": "M", "Ν": "N", "Ο": "O", "Ρ": "P",
          "Τ": "T", "Χ": "X", "ο": "o"}  # fmt: skip
_GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER ([A-Z]+)")
_SHORT = {"LAMDA": "LAMBDA"}  # as Unicode spells it
_TYPED = {"–": "--", "—": "---", "…": r"\ldots{}", "‘": "`", "’": "'", "“": "``", "”": "''", "\u00a0": "~"}


def one_line(text: str) -> str:
    """The text with every run of blanks and line ends as one blank."""
    return " ".join(text.split())


def markdown_text(text: str) -> str:
    r"""Text that Markdown prints as it is, on one line.

    >>> markdown_text("w4_a8 | 5")
    'w4\\_a8 \\| 5'
    """
    return re.sub(r"([\\|`*_<])", r"\\\1", one_line(text))


def tex(text: str) -> str:
    r"""Text that LaTeX prints as it is with the fonts that every installation has, on one line.

    A letter that these fonts lack is printed by its number, so that a document with it can be typeset at all.

    >>> tex("8×8 & α_b ≤ 5 %"), tex("中")
    ('8$\\times$8 \\& $\\alpha$\\_b $\\leq$ 5 \\%', '{[}U+4E2D{]}')
    """
    return "".join(map(_letter, one_line(text)))


def tex_escaped(text: str) -> str:
    r"""With LaTeX's own characters escaped and all letters as they are, for programs that read UTF-8, as biber does.

    >>> tex_escaped("w4_a8 & 5 %")
    'w4\\_a8 \\& 5 \\%'
    """
    return "".join(_TEX.get(letter, letter) for letter in one_line(text))


def _letter(letter: str) -> str:
    if letter in _TEX:
        return _TEX[letter]
    if letter.isascii():
        return letter
    if letter in _FORMULAS:
        return f"${_FORMULAS[letter]}$"
    if letter in _LATIN or letter in _TYPED:
        return _LATIN.get(letter) or _TYPED[letter]
    greek = _GREEK.fullmatch(unicodedata.name(letter, ""))
    if greek:
        name = _SHORT.get(greek[2], greek[2])
        return f"$\\{name.lower() if greek[1] == 'SMALL' else name.capitalize()}$"
    if unicodedata.normalize("NFD", letter)[0].isascii():  # T1 has the accented letters of Latin scripts
        return letter
    return f"{{[}}U+{ord(letter):04X}{{]}}"
