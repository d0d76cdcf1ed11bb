"""Sites that train nothing in turn: records in, the sites with patients enough of two labels out, largest first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from training.data.records import Record

__all__ = ["LEAST_PATIENTS", "Folds", "choose_folds"]

LEAST_PATIENTS = 20  # of each of two labels, at a site that is left out


@dataclass(frozen=True, kw_only=True)
class Folds:
    """The sites that are left out one at a time, and why there are no more."""

    sites: tuple[str, ...]
    reason: str  # a sentence on the sites that are not left out; empty if all are


def choose_folds(records: Sequence[Record], labels: Sequence[str], *, most: int, least: int = LEAST_PATIENTS) -> Folds:
    """Return the sites to leave out.

    A site is left out if it has `least` patients of two labels or more, and the other sites have as many of every label. Of
    findings, which do not exclude each other: as many with one of them and without it, and elsewhere with, and without, each.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)  # site -> kind -> patients
    for site, kind, _ in {(r.source, kind, r.patient) for r in records for kind in _kinds(r)}:
        counts[site][kind] += 1
    total = sum(counts.values(), Counter[str]())
    if records and records[0].findings is not None:
        pairs = [(label, f"{label}{_ABSENT}") for label in labels]
    else:
        pairs = list(combinations(labels, 2))
    kinds = {kind for pair in pairs for kind in pair}
    fit = [
        site
        for site, own in counts.items()
        if any(own[a] >= least and own[b] >= least for a, b in pairs) and all(total[k] - own[k] >= least for k in kinds)
    ]
    fit.sort(key=lambda site: (-counts[site].total(), site))
    return Folds(sites=tuple(fit[:most]), reason=_reason(counts, fit, most, least))


_ABSENT = ": absent"


def _kinds(record: Record) -> list[str]:
    """Return the label of a record, or each known finding, present or absent."""
    if record.findings is None:
        return [record.label]
    return [name if value else f"{name}{_ABSENT}" for name, value in record.findings.items() if value is not None]


def _reason(counts: dict[str, Counter[str]], fit: Sequence[str], most: int, least: int) -> str:
    if len(counts) < 2:
        return (
            "all images are of one site, or none is stated: nothing here shows how it does at another one. Name the site of each "
            "image (--site-column, --layout site/label), or screen images of another hospital before you trust it"
        )
    few = [site for site in counts if site not in fit]
    parts = []
    if few:
        parts.append(
            f"{', '.join(sorted(few))}: fewer than {least} patients of two labels (or with, and without, a finding), or too few "
            "elsewhere"
        )
    if len(fit) > most:
        parts.append(f"{', '.join(fit[most:])}: the preset leaves out {most} sites at most")
    return f"not left out: {'; '.join(parts)}" if parts else ""
