"""Citations of runs: BibTeX of every attack, defense, quantizer, preprocessor, model and dataset in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from qpatchbench import __version__
from qpatchbench.errors import QPatchBenchError
from qpatchbench.registry import BUILT_IN, REGISTRIES
from qpatchbench.report.citations.bibliography import bibliography, entries_of
from qpatchbench.report.leaderboard.published import RunFolder
from qpatchbench.report.page.escaping import tex_escaped

# Where a resolved suite names components, and of which kind.
_PLACES = {
    "dataset": "datasets",
    "models": "models",
    "defenses": "defenses",
    "quantizers": "quantizers",
    "preprocessors": "preprocessors",
    "attacks": "attacks",
    "pool.seen": "attacks",
    "pool.unseen": "attacks",
    "pool.unseen_quantizer": "quantizers",
}
_LIBRARY = {"timm": "wightman2019timm"}  # families of models -> who made them available
ITSELF = f"""@software{{qpatchbench,
  author = {{{{The qpatchbench maintainers}}}},
  title = {{qpatchbench: adversarial patches across the bit-widths of quantized vision models}},
  version = {{{__version__}}},
  url = {{https://github.com/qpatchbench/qpatchbench}},
}}
"""


class UsedComponent(NamedTuple):
    """A component of a run: its kind as registries call it, and its name."""

    kind: str
    name: str


class Citations(NamedTuple):
    """BibTeX, and the components for which there is none: controls, baselines, plugins without a reference."""

    bibtex: str
    without: tuple[UsedComponent, ...]


def used_components(folder: RunFolder) -> tuple[UsedComponent, ...]:
    """From the resolved suite; the rows' own names where the manifest has none."""
    found = [UsedComponent(kind, name) for place, kind in _PLACES.items() for name in _names(folder.suite, place)]
    if not found:
        for row in folder.rows:
            found += [UsedComponent("datasets", row.base), UsedComponent("models", row.model)]
            found += [UsedComponent("defenses", row.defense), UsedComponent("attacks", row.attack)]
            found += [UsedComponent("quantizers", row.quantization.partition("-")[0])]
            found += [UsedComponent("preprocessors", row.preprocessor)]
    return tuple(dict.fromkeys(found))


def cite(folders: Sequence[RunFolder]) -> Citations:
    """BibTeX of the components of all runs, each entry once, with the components that it is cited for above it."""
    texts: dict[str, str] = {}
    cited: dict[str, list[str]] = {}
    without: list[UsedComponent] = []
    for used in dict.fromkeys(each for folder in folders for each in used_components(folder)):
        found = dict(_entries(used))
        if not found:
            without.append(used)
        for key, text in found.items():
            texts[key] = text
            cited.setdefault(key, []).append(f"{REGISTRIES[used.kind].kind} {used.name}")
    blocks = [ITSELF, *(f"% {', '.join(cited[key])}\n{texts[key]}\n" for key in sorted(texts))]
    return Citations("\n".join(blocks), tuple(without))


def _names(suite: Mapping[str, Any], place: str) -> Iterator[str]:
    value: Any = suite
    for part in place.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    for item in value if isinstance(value, list) else [value]:
        name = item.get("name") if isinstance(item, Mapping) else item
        if isinstance(name, str):
            yield name


def _entries(used: UsedComponent) -> Iterator[tuple[str, str]]:
    """Key and BibTeX; a reference of a plugin that no entry knows becomes a note."""
    registry = REGISTRIES[used.kind]
    try:
        entry = registry.entry(used.name)
        reference = entry.reference or ("" if entry.plugin == BUILT_IN else registry.get(used.name).reference)
    except QPatchBenchError:  # a plugin that is not installed here
        return
    known = list(entries_of(reference))
    yield from ((each.key, each.text) for each in known)
    library = _LIBRARY.get(used.name.partition("/")[0]) if "/" in used.name else None
    if library is not None:
        yield library, bibliography()[library].text
    elif reference and not known:
        key = re.sub(r"\W+", "_", f"{used.kind}_{used.name}")
        yield key, f"@misc{{{key},\n  title = {{{tex_escaped(used.name)}}},\n  note = {{{tex_escaped(reference)}}},\n}}"
