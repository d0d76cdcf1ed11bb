"""Screen files with two bundles and count where they disagree: an A/B comparison before one replaces the other.

Two screeners and files come in; a `Comparison` comes out: the verdicts of both crossed, counts by label, changed files, and the
share of changed verdicts with its exact interval. Each file is decoded once. A file that fails is a row, and ends nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from statistics import median
from typing import Any

from cxr_edge import defects
from cxr_edge.changes.sides import UNANSWERED, FilePair, Side
from cxr_edge.compiler.shares import Share
from cxr_edge.decoding.decode import decode, name_of
from cxr_edge.decoding.limits import DEFAULT_LIMITS, Limits
from cxr_edge.errors import CxrEdgeError
from cxr_edge.names import printable
from cxr_edge.records import Failure, Image, Screening
from cxr_edge.screening.folder import EncodedFile
from cxr_edge.screening.screener import Screener

__all__ = ["Comparison", "LabelChange", "RightDecisions", "Version", "compare"]

_MAX_LISTED = 20  # files in the text; the JSON has all


@dataclass(frozen=True, kw_only=True)
class Version:
    """One of the two bundles, and what ran it."""

    name: str
    version: str
    digest: str
    engines: str
    labels: tuple[str, ...]

    @classmethod
    def of(cls, screener: Screener) -> Version:
        m = screener.manifest
        return cls(
            name=m.name,
            version=m.version,
            digest=screener.bundle.digest,
            engines=screener.describe(),
            labels=m.labels,
        )

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.digest[:12]}; {self.engines})"


@dataclass(frozen=True, kw_only=True)
class LabelChange:
    """Files that are answered with one label, or a finding that is answered as present."""

    label: str
    old: int
    new: int
    both: int

    @property
    def lost(self) -> int:
        return self.old - self.both

    @property
    def gained(self) -> int:
        return self.new - self.both


@dataclass(frozen=True, kw_only=True)
class RightDecisions:
    """Decisions on images of known truth, whether they are answers or not."""

    of: str  # true decision
    old: Share
    new: Share
    lost: int  # right by the old bundle, wrong by the new one
    gained: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Verdicts of two bundles on the same files."""

    old: Version
    new: Version
    pairs: tuple[FilePair, ...]  # of all files, in their order
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def compared(self) -> tuple[FilePair, ...]:
        """The files that at least one bundle has a result for."""
        return tuple(p for p in self.pairs if not p.failed)

    @property
    def failed(self) -> tuple[FilePair, ...]:
        """The files that neither can screen."""
        return tuple(p for p in self.pairs if p.failed)

    @cached_property
    def changed(self) -> Share:
        """Share of the compared files with another verdict."""
        return Share.of(sum(p.changed for p in self.compared), len(self.compared))

    @property
    def redecided(self) -> Share:
        """Share of the compared files that the decision rule decides otherwise, whether that is an answer or not."""
        return Share.of(sum(p.redecided for p in self.compared), len(self.compared))

    @property
    def largest_shift(self) -> float | None:
        """Largest change of a probability on a file that both answer or abstain on."""
        return max((p.shift for p in self.pairs if p.shift is not None), default=None)

    @property
    def median_shift(self) -> float | None:
        """Median over the same files of each file's largest change."""
        shifts = [p.shift for p in self.pairs if p.shift is not None]
        return median(shifts) if shifts else None

    @property
    def crossed(self) -> Mapping[tuple[str, str], int]:
        """Number of compared files by old and new verdict, the most frequent first."""
        counts = Counter((p.old.verdict, p.new.verdict) for p in self.compared)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def by_label(self) -> tuple[LabelChange, ...]:
        """Answers with each label of either bundle."""
        labels = dict.fromkeys((*self.old.labels, *self.new.labels))
        return tuple(self._label(label) for label in labels)

    @property
    def right(self) -> tuple[RightDecisions, ...]:
        """Right decisions by true label, of the compared files whose truth is known, and of all of them at the end."""
        known = [p for p in self.compared if p.true is not None]
        groups = {label: [p for p in known if p.true == label] for label in sorted({p.true or "" for p in known})}
        if len(groups) > 1:
            groups["all"] = known
        return tuple(_right(label, rows) for label, rows in groups.items())

    @property
    def wrong_answers(self) -> tuple[Share, Share] | None:
        """Wrong ones among the answers of the old and of the new bundle; None where no truth is known."""
        known = [p for p in self.compared if p.true is not None]
        return (_wrong([(p.old, p.true) for p in known]), _wrong([(p.new, p.true) for p in known])) if known else None

    def exceeds(self, limit: float) -> bool:
        """Return True if a larger share than `limit` of the compared files has another verdict."""
        return self.changed.hits > limit * self.changed.n + 1e-9

    def lines(self) -> list[str]:
        """Return the report as text."""
        lines = [f"Old: {self.old}", f"New: {self.new}", f"Changed verdicts: {self.changed}, exact 95 % interval"]
        if self.redecided.hits != self.changed.hits:
            lines.append(f"Decided otherwise, whether that is an answer or not: {self.redecided}")
        lines += [f"Note: {note}" for note in self.notes]
        lines += _indented([("old", "new", "files"), *((a, b, str(n)) for (a, b), n in self.crossed.items())])
        rows = [(r.label, *map(str, (r.old, r.new, r.lost, r.gained))) for r in self.by_label]
        lines += ["Answers with each label:", *_indented([("label", "old", "new", "lost", "gained"), *rows])]
        lines += self._right_lines()
        if self.largest_shift is not None:
            lines.append(
                f"Probabilities: largest change {self.largest_shift:.3f}, median over the files {self.median_shift:.3f}"
            )
        return [*lines, *self._file_lines()]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the report."""
        return {
            "old": asdict(self.old),
            "new": asdict(self.new),
            "files": len(self.pairs),
            "failed": len(self.failed),
            "changed": asdict(self.changed),
            "decided_otherwise": asdict(self.redecided),
            "verdicts": [{"old": a, "new": b, "files": n} for (a, b), n in self.crossed.items()],
            "labels": [{**asdict(r), "lost": r.lost, "gained": r.gained} for r in self.by_label],
            "right": [asdict(r) for r in self.right],
            "wrong_answers": None if self.wrong_answers is None else [asdict(share) for share in self.wrong_answers],
            "largest_shift": self.largest_shift,
            "median_shift": self.median_shift,
            "notes": list(self.notes),
            "results": [p.as_json() for p in self.pairs],
        }

    def _label(self, label: str) -> LabelChange:
        old, new = ([label in side.present for side in sides] for sides in self._sides())
        both = sum(a and b for a, b in zip(old, new, strict=True))
        return LabelChange(label=label, old=sum(old), new=sum(new), both=both)

    def _sides(self) -> tuple[list[Side], list[Side]]:
        return [p.old for p in self.compared], [p.new for p in self.compared]

    def _right_lines(self) -> list[str]:
        rows = [(r.of, str(r.old), str(r.new), str(r.lost), str(r.gained)) for r in self.right]
        head = ("true label", "old", "new", "lost", "gained")
        if self.wrong_answers is None:
            return []
        wrong = "Wrong among the answers: old {}, new {}".format(*self.wrong_answers)
        return ["Right decisions, answered or not:", *_indented([head, *rows]), wrong]

    def _file_lines(self) -> list[str]:
        changed = [f"  {printable(p.source)}: {p.old} -> {p.new}" for p in self.compared if p.changed]
        failed = [f"  {printable(p.source)}: {p.new.reason}" for p in self.failed]
        return [*_listed("Changed files:", changed), *_listed("Not screened:", failed)]


def compare(
    old: Screener,
    new: Screener,
    items: Iterable[object],
    *,
    limits: Limits = DEFAULT_LIMITS,
    true: Mapping[str, str] | None = None,
) -> Comparison:
    """Screen every item with both screeners, one after the other.

    items: as `screen_files` takes them. true: true decisions by the name of the image, of those that are known.
    """
    known = true or {}
    pairs = tuple(_pair(old, new, item, limits, known) for item in items)
    return Comparison(old=Version.of(old), new=Version.of(new), pairs=pairs, notes=tuple(_notes(old, new)))


def _pair(old: Screener, new: Screener, item: object, limits: Limits, true: Mapping[str, str]) -> FilePair:
    image = _decoded(item, limits)
    if isinstance(image, Failure):
        return FilePair.of(image.source, image, image)
    return FilePair.of(image.source, _screened(old, image), _screened(new, image), true.get(image.source))


def _decoded(item: object, limits: Limits) -> Image | Failure:
    if isinstance(item, Failure):
        return item
    data, source = (item.data, item.source) if isinstance(item, EncodedFile) else (item, name_of(item))
    try:
        return decode(data, source=source, limits=limits)
    except Exception as error:
        return _failure(source, error)


def _screened(screener: Screener, image: Image) -> Screening | Failure:
    try:
        return screener.screen(image)
    except Exception as error:  # the other bundle, and the next file, may succeed
        return _failure(image.source, error)


def _failure(source: str, error: Exception) -> Failure:
    text = str(error) if isinstance(error, CxrEdgeError) else defects.reason(error)
    return Failure(source=source, reason=text.removeprefix(f"{printable(source)}: "))


def _notes(old: Screener, new: Screener) -> Iterable[str]:
    before, after = old.manifest, new.manifest
    only = [
        ("only the old", set(before.labels) - set(after.labels)),
        ("only the new", set(after.labels) - set(before.labels)),
    ]
    for which, labels in only:
        if labels:
            yield f"{which} bundle knows {', '.join(sorted(labels))}; probabilities are compared for the labels of both"
    if before.multi_label != after.multi_label:
        yield "the labels of one bundle exclude each other, those of the other do not: verdicts are compared as text"


def _wrong(sides: list[tuple[Side, str | None]]) -> Share:
    answers = [(side, true) for side, true in sides if side.verdict not in UNANSWERED]
    return Share.of(sum(side.verdict != true for side, true in answers), len(answers))


def _right(label: str, rows: list[FilePair]) -> RightDecisions:
    old, new = ([p.true == side for p, side in zip(rows, sides, strict=True)] for sides in _decided(rows))
    pairs = list(zip(old, new, strict=True))
    return RightDecisions(
        of=label,
        old=Share.of(sum(old), len(rows)),
        new=Share.of(sum(new), len(rows)),
        lost=pairs.count((True, False)),
        gained=pairs.count((False, True)),
    )


def _decided(rows: list[FilePair]) -> tuple[list[str | None], list[str | None]]:
    return [p.old.decided for p in rows], [p.new.decided for p in rows]


def _listed(title: str, lines: list[str]) -> list[str]:
    more = [f"  and {len(lines) - _MAX_LISTED} more, listed with --json"] if len(lines) > _MAX_LISTED else []
    return [title, *lines[:_MAX_LISTED], *more] if lines else []


def _indented(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
