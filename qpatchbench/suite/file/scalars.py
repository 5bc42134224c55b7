"""Numbers, truth values and words of a suite file: only what every reader of YAML reads alike.

YAML 1.1 reads 012 as ten, 1_000 as a thousand, 1:30 as ninety, `yes` as true and 1e-3 as text; YAML 1.2 and people do
not. Here a number is one in plain decimal form, with an exponent if need be; true and false are written so; `yes`,
`no`, `on` and `off` are words; and what another reader would take for another number is an error.
"""

from __future__ import annotations

import re

import yaml

TAG = "tag:yaml.org,2002:"
WHOLE = r"(?:0|-?[1-9][0-9]*)"
NUMBER = r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
INFINITE = r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
TRUTH = r"true|True|TRUE|false|False|FALSE"
LONGEST = 2**63  # a whole number beyond is none in the files that results are read from
_RESOLVED = {"bool": (TRUTH, "tTfF"), "int": (WHOLE, "-0123456789"), "float": (f"{NUMBER}|{INFINITE}", "-+.0123456789")}
_WORDS = {"bool": "true or false", "int": "a whole number", "float": "a number"}
# Digits, with anything that some language allows among them: signs, underscores, colons, a base.
_DIGITS = re.compile(
    r"[-+]?(?:0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[\d_]*\d[\d_]*(?:[:.][\d_]*)*(?:[eE][-+]?\d+)?)"
)


class PlainLoader(yaml.SafeLoader):
    """Plain data, whose numbers and truth values are those above."""


PlainLoader.yaml_implicit_resolvers = {
    start: [(tag, pattern) for tag, pattern in resolvers if tag.removeprefix(TAG) not in _RESOLVED]
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, (_pattern, _starts) in _RESOLVED.items():
    PlainLoader.add_implicit_resolver(f"{TAG}{_kind}", re.compile(f"^(?:{_pattern})$"), list(_starts))


def misread(node: yaml.ScalarNode) -> str:
    """What is wrong with a scalar that is not what it seems, "expected .., found .."; "" if it is."""
    kind, text = node.tag.removeprefix(TAG), node.value
    if kind == "str":
        if node.style is None and not _dotted(text) and _DIGITS.fullmatch(text):
            return f"{_expected('a number', text)}, found {text}; put it in quotes if it is text"
        return ""
    if kind == "null":
        return "" if text in ("", "~", "null", "Null", "NULL") else f"expected nothing, found {text!r}"
    if not re.fullmatch(_RESOLVED[kind][0], text):
        return f"{_expected(_WORDS[kind], text)}, found {text!r}"
    if kind == "int" and not -LONGEST <= int(text) < LONGEST:
        return f"expected a whole number of at most 64 bits, found {text}"
    if kind == "float" and not re.fullmatch(INFINITE, text):
        digits = re.split("[eE]", text)[0]
        if abs(float(text)) == float("inf") or (float(text) == 0 and re.search("[1-9]", digits)):
            return f"expected a number that 64 bits can hold, found {text}"
    return ""


def is_plain(text: str) -> bool:
    """Whether a text that stands where a number belongs is that number in plain decimal form.

    >>> [is_plain(text) for text in ("12", "0.5", "1e-3", "012", "1_000", " 3")]
    [True, True, True, False, False, False]
    """
    return re.fullmatch(NUMBER, text) is not None


def is_number_or_truth(text: str) -> bool:
    """Whether some reader of YAML takes a word for a number or for true or false; such a word is no key."""
    return _DIGITS.fullmatch(text) is not None or text.lower() in ("yes", "no", "on", "off", "true", "false")


def _dotted(text: str) -> bool:
    """Whether it has two points, as the version of a program has."""
    return text.count(".") > 1 and ":" not in text


def _expected(what: str, text: str) -> str:
    form = "" if not _DIGITS.fullmatch(text) else ", in plain decimal form such as 10 or 0.5"
    return f"expected {what}{form}"
