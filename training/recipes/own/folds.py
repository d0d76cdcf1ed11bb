"""Sites that train nothing in turn: records in, the sites with patients enough of two labels out, largest first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

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

    A site is left out if it has `least` patients of two labels or more, and the other sites have as many of every label.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)  # site -> label -> patients
    for site, label, _ in {(r.source, r.label, r.patient) for r in records}:
        counts[site][label] += 1
    total = sum(counts.values(), Counter[str]())
    fit = [
        site
        for site, own in counts.items()
        if sum(n >= least for n in own.values()) >= 2 and all(total[k] - own[k] >= least for k in labels)
    ]
    fit.sort(key=lambda site: (-counts[site].total(), site))
    return Folds(sites=tuple(fit[:most]), reason=_reason(counts, fit, most, least))


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
            f"{', '.join(sorted(few))}: fewer than {least} patients of two labels, or too few of a label elsewhere"
        )
    if len(fit) > most:
        parts.append(f"{', '.join(fit[most:])}: the preset leaves out {most} sites at most")
    return f"not left out: {'; '.join(parts)}" if parts else ""
