"""SVG with text: small panels that a page styles, for light, dark and print."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import NamedTuple

CHARACTER = 7.0  # pixels that a character of the panels' font takes, at most


class PagePanel(NamedTuple):
    """A plot, its title, and the data behind it as CSV."""

    title: str
    svg: str
    csv: str


def document(size: tuple[float, float], title: str, parts: Iterable[str]) -> str:
    """An <svg> of a size in pixels, across and down, that shrinks with its page and has a title."""
    across, down = size
    named = html.escape(title)
    head = f'<svg viewBox="0 0 {across:.0f} {down:.0f}" width="{across:.0f}" role="img" aria-label="{named}">'
    return f"{head}<title>{named}</title>{''.join(parts)}</svg>"


def label(x: float, y: float, text: object, *, anchor: str = "start", kind: str = "") -> str:
    """One line of text, escaped."""
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{html.escape(str(text))}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def path(points: Iterable[tuple[float, float]], kind: str) -> str:
    """A line through points."""
    steps = " ".join(f"{'L' if number else 'M'}{x:.1f} {y:.1f}" for number, (x, y) in enumerate(points))
    return f'<path d="{steps}" class="{kind}"/>'


def marker(x: float, y: float, shape: str, kind: str, title: str = "") -> str:
    """A circle, square, triangle or diamond of 7 pixels, so that no series is told by its colour alone."""
    told = f"<title>{html.escape(title)}</title>" if title else ""
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="{kind}">{told}</circle>'
    corners = {
        "square": ((-3, -3), (3, -3), (3, 3), (-3, 3)),
        "triangle": ((0, -4), (4, 3), (-4, 3)),
        "diamond": ((0, -4.5), (4.5, 0), (0, 4.5), (-4.5, 0)),
    }[shape]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" class="{kind}">{told}</polygon>'
