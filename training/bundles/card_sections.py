"""Sections of a model card that is already written: the card's text in, the text with one section put in or replaced out."""

from __future__ import annotations

import re

__all__ = ["with_section", "without_section"]


def with_section(card: str, section: str, *, before: str) -> str:
    """Return the card with `section`, in place of an earlier one of its heading, before the heading `before`, else at the end.

    section: Markdown that begins with its heading, `## Refusals`. before: a heading, `## Results`, or how it begins.
    """
    parts = _parts(card, without=section.split("\n", 1)[0])
    at = next((i for i, part in enumerate(parts) if part.startswith(before)), len(parts))
    head, rest = "".join(parts[:at]), "".join(parts[at:])
    return f"{head.rstrip()}\n\n{section.strip()}\n" + (f"\n{rest}" if rest else "")


def without_section(card: str, heading: str) -> str:
    """Return the card without the section of this heading."""
    return "".join(_parts(card, without=heading))


def _parts(card: str, *, without: str) -> list[str]:
    return [part for part in re.split(r"(?m)^(?=## )", card) if part.split("\n", 1)[0].rstrip() != without]
