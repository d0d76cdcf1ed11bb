"""Report on own data: `OwnData` in; counts, and problems that would spoil a training or its figures, out.

A leak lets a network look better than it is (the same patient or picture on both sides); a shortcut lets it answer by something
other than the lungs (a site that tells the label). Both are named before anything is trained.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from cxr_edge.names import printable
from cxr_edge.ops.binomial import exact_interval
from training.data.demographics import is_adult
from training.data.duplicates import same_image_pairs
from training.data.faults import Fault
from training.data.findings import FRONTAL_VIEWS, projection
from training.data.own.examine import Examination, Examined, examine, size_class
from training.data.own.records import OwnData, OwnRecord

__all__ = ["Association", "DataReport", "FindingCounts", "Problem", "SamePicture", "check"]

Severity = Literal["leak", "shortcut", "unusable", "warning"]

_EXAMPLES = 20
_STRONG = 0.3  # Cramer's V from which an association is a problem
_LEAST_STATED = 20  # images for an association
_TEST_SHARE = 0.15
_SENSITIVITY = 0.9
_LEAST_LOW = 0.75  # lower bound below which a claim on the test side is weak


@dataclass(frozen=True, kw_only=True)
class FindingCounts:
    """Images and patients of one label or finding."""

    present: int
    absent: int
    unknown: int
    patients: int  # with it; an image without a patient counts as one
    # 95 % interval of a sensitivity of 90 %, if all patients are tested once, and if a test side of 15 % is; null for none.
    all_tested: tuple[float, float] | None
    one_side: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Association:
    """Association of a finding with something that is not in the lungs."""

    factor: str  # site, scanner, view, sex, age group, file format, size, bits
    finding: str
    cramers_v: float  # 0 to 1
    table: Mapping[str, tuple[int, int]]  # value of the factor -> images with and without the finding


@dataclass(frozen=True, kw_only=True)
class SamePicture:
    """Two files with the same picture."""

    first: str  # keys
    second: str
    equal: bool  # to the last pixel; else nearly equal
    two_labels: bool
    two_patients: bool


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something to mend, or to know before a figure is trusted."""

    severity: Severity
    title: str  # a sentence with the count
    advice: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """Everything that was found; keys of the JSON are the fields."""

    source: str
    understood: tuple[str, ...]
    images: int
    patients: int  # with a name
    unnamed: int  # images of no named patient, each of which counts as one patient
    exclusive: bool
    findings: Mapping[str, FindingCounts]
    unlabelled: int
    sites: Mapping[str, int]  # value -> images; "not stated" for none; so are the others
    scanners: Mapping[str, int]
    views: Mapping[str, int]
    sexes: Mapping[str, int]
    ages: Mapping[str, int]
    age_years: tuple[float, float, float] | None  # lowest, median, highest
    splits: Mapping[str, int]
    formats: Mapping[str, int]
    sizes: Mapping[str, int]
    ignored: Mapping[str, int]
    problems: tuple[Problem, ...]
    associations: tuple[Association, ...]  # strongest first
    same_pictures: tuple[SamePicture, ...]
    pixels_examined: bool
    faults: tuple[str, ...] = field(default=())
    doubts: tuple[str, ...] = field(default=())

    @property
    def is_sound(self) -> bool:
        """True without leaks and unusable files."""
        return not any(p.severity in ("leak", "unusable") for p in self.problems)


def check(
    data: OwnData, *, threads: int = 2, pixels: bool = True, examination: Examination | None = None
) -> DataReport:
    """Examine own data.

    pixels: False reads no image, so finds no duplicate, unreadable file, size or format.
    examination: results of `examine` on all records, if there are some already.
    """
    examination = examine(data.records, threads) if pixels and examination is None else examination
    examined, unreadable = ([None] * len(data.records), []) if examination is None else examination
    faults = [*data.faults, *unreadable]
    same = _same_pictures(data.records, examined)
    associations = _associations(data, examined)
    found = [e for e in examined if e is not None]
    findings = {name: _counts(data, name) for name in data.findings}
    ages = [r.age_years for r in data.records if r.age_years is not None]
    unnamed = sum(not r.patient for r in data.records)
    return DataReport(
        source=printable(data.source),
        understood=data.understood,
        images=len(data.records),
        patients=len({r.patient for r in data.records if r.patient}),
        unnamed=unnamed,
        exclusive=data.exclusive,
        findings=findings,
        unlabelled=sum(not r.is_labelled for r in data.records),
        sites=_tally(r.site for r in data.records),
        scanners=_tally(r.scanner for r in data.records),
        views=_tally(r.view for r in data.records),
        sexes=_tally(r.sex for r in data.records),
        ages=_tally(map(_age_group, data.records)),
        age_years=(min(ages), median(ages), max(ages)) if ages else None,
        splits=_tally(r.split or "" for r in data.records),
        formats=_tally(f"{e.format}, {e.bits} bit" for e in found),
        sizes=_tally(map(size_class, found)),
        ignored=data.ignored,
        problems=tuple(_problems(data, findings, faults, same, associations)),
        associations=associations,
        same_pictures=same,
        pixels_examined=pixels,
        faults=tuple(printable(str(f)) for f in faults),
        doubts=tuple(printable(str(f)) for f in data.doubts),
    )


def _tally(values: Iterable[str]) -> dict[str, int]:
    return {printable(value) or "not stated": n for value, n in Counter(values).most_common()}


def _age_group(r: OwnRecord) -> str:
    if r.age_years is None:
        return ""
    return "adults" if is_adult(r.age_years) else "children"


def _counts(data: OwnData, name: str) -> FindingCounts:
    values = Counter(r.findings[name] for r in data.records)
    patients = len({r.unit for r in data.records if r.findings[name]})
    return FindingCounts(
        present=values[True],
        absent=values[False],
        unknown=values[None],
        patients=patients,
        all_tested=_interval(patients),
        one_side=_interval(round(_TEST_SHARE * patients)),
    )


def _interval(n: int) -> tuple[float, float] | None:
    """Return the interval of a sensitivity of 90 % with n cases, to three digits."""
    if not n:
        return None
    low, high = exact_interval(round(_SENSITIVITY * n), n)
    return round(low, 3), round(high, 3)


def _same_pictures(records: Sequence[OwnRecord], examined: Sequence[Examined | None]) -> tuple[SamePicture, ...]:
    known = [(r, e) for r, e in zip(records, examined, strict=True) if e is not None]
    pairs = same_image_pairs([e.print for _, e in known]) if known else []
    return tuple(_pair(known[i], known[j]) for i, j in pairs)


def _pair(first: tuple[OwnRecord, Examined], second: tuple[OwnRecord, Examined]) -> SamePicture:
    (a, found), (b, other) = first, second
    return SamePicture(
        first=a.key,
        second=b.key,
        equal=found.print.pixels == other.print.pixels,
        two_labels=any(None not in (v, b.findings[k]) and v != b.findings[k] for k, v in a.findings.items()),
        two_patients=a.unit != b.unit,
    )


def _associations(data: OwnData, examined: Sequence[Examined | None]) -> tuple[Association, ...]:
    """Return the association of every finding with every factor that has several values, strongest first."""
    factors: Mapping[str, Callable[[OwnRecord, Examined | None], str]] = {
        "site": lambda r, _: r.site,
        "scanner": lambda r, _: r.scanner,
        "view": lambda r, _: r.view,
        "sex": lambda r, _: r.sex,
        "age group": lambda r, _: _age_group(r),
        "file format": lambda _, e: "" if e is None else e.format,
        "bits": lambda _, e: "" if e is None else f"{e.bits} bit",
        "size": lambda _, e: "" if e is None else size_class(e),
    }
    findings = {name: [r.findings[name] for r in data.records] for name in data.findings}
    found = []
    for factor, value_of in factors.items():
        values = [value_of(r, e) for r, e in zip(data.records, examined, strict=True)]
        if len({*values} - {""}) > 1:
            found += [a for name in findings if (a := _association(factor, values, name, findings[name])) is not None]
    return tuple(sorted(found, key=lambda a: -a.cramers_v))


def _association(factor: str, values: Sequence[str], name: str, presences: Sequence[bool | None]) -> Association | None:
    """Return the association on the images whose finding and factor are known; None for too few, or one value of either."""
    counts: dict[str, tuple[int, int]] = {}
    for (value, present), n in Counter(zip(values, presences, strict=True)).items():
        if value and present is not None:
            with_it, without = counts.get(value, (0, 0))
            counts[value] = (with_it + n, without) if present else (with_it, without + n)
    known = sum(map(sum, counts.values()))
    if known < _LEAST_STATED or len(counts) < 2 or not all(map(sum, zip(*counts.values(), strict=True))):
        return None
    table = {printable(v): n for v, n in sorted(counts.items(), key=lambda item: -sum(item[1]))}
    return Association(factor=factor, finding=name, cramers_v=round(_strength(list(counts.values())), 3), table=table)


def _strength(counts: Sequence[tuple[int, int]]) -> float:
    """Return Cramer's V (0 to 1) of images with and without a finding by value of a factor, less what chance gives.

    Without an association, V squared is (values - 1) / (n - 1) on average (Bergsma, 2013).
    """
    columns = [sum(column) for column in zip(*counts, strict=True)]
    n = sum(columns)
    squared = sum(cell**2 / (sum(row) * columns[k]) for row in counts for k, cell in enumerate(row)) - 1
    return float(min(1.0, max(0.0, squared - (len(counts) - 1) / (n - 1))) ** 0.5)


def _problems(
    data: OwnData,
    findings: Mapping[str, FindingCounts],
    faults: Sequence[Fault],
    same: Sequence[SamePicture],
    associations: Sequence[Association],
) -> list[Problem]:
    found = [
        _unusable(faults),
        _doubtful(data.doubts),
        *_labels(data, findings),
        _unnamed(data),
        _patients_of_several_sites(data),
        _patients_on_sides(data),
        _patients_with_labels(data),
        *_pictures(same),
        *_shortcuts(associations),
        _other_views(data),
        _few(findings),
    ]
    order = ("unusable", "leak", "shortcut", "warning")
    return sorted((p for p in found if p is not None), key=lambda p: order.index(p.severity))


def _examples(items: Iterable[object]) -> tuple[str, ...]:
    return tuple(printable(str(item)) for item, _ in zip(items, range(_EXAMPLES), strict=False))


def _unusable(faults: Sequence[Fault]) -> Problem | None:
    if not faults:
        return None
    return Problem(
        severity="unusable",
        title=f"{len(faults)} files or rows cannot be used",
        advice="Mend or delete them: `cxr-edge train` leaves them out, and the recipes refuse to start",
        examples=_examples(faults),
    )


def _doubtful(doubts: Sequence[Fault]) -> Problem | None:
    if not doubts:
        return None
    return Problem(
        severity="warning",
        title=f"{len(doubts)} cells were not understood and count as not stated",
        advice="Mend them if they say something",
        examples=_examples(doubts),
    )


def _labels(data: OwnData, findings: Mapping[str, FindingCounts]) -> list[Problem]:
    """Return the problems of labels that teach nothing, or have no name."""
    problems = []
    present = [name for name, counts in findings.items() if counts.present]
    one_sided = [n for n, c in findings.items() if not (c.present and c.absent)]
    if not any(data.labelled()):
        advice = "Put images in a folder for each label, or name the table and its column: --table, --label-column, --findings"
        problems.append(Problem(severity="unusable", title="no image has a label", advice=advice))
    elif data.exclusive and len(present) < 2:
        title = f"all images have the one label {present[0]!r}"
        advice = "A classifier needs two labels or more: add images of another one, such as normal"
        problems.append(Problem(severity="unusable", title=title, advice=advice))
    elif one_sided:
        title = f"{len(one_sided)} findings are never present, or never absent: {', '.join(map(repr, one_sided))}"
        advice = "Nothing can be learnt of these: leave them out with --ignore, or add images"
        problems.append(Problem(severity="warning", title=title, advice=advice))
    if present and all(name.isdecimal() for name in present):
        title = f"the labels are numbers: {', '.join(present)}"
        advice = "Name them, so that nobody has to guess: --label-name 0=normal 1=nodule"
        problems.append(Problem(severity="warning", title=title, advice=advice))
    without = [r.key for r in data.records if not r.is_labelled]
    if without and any(data.labelled()):
        title = f"{len(without)} images have no label"
        problems.append(
            Problem(
                severity="warning", title=title, advice="They are not used for training", examples=_examples(without)
            )
        )
    return problems


def _unnamed(data: OwnData) -> Problem | None:
    nameless = [r for r in data.records if not r.patient]
    if not nameless:
        return None
    by_study = sum(bool(r.study) for r in nameless)
    grouped = f" ({by_study} of them are kept together by study)" if by_study else ""
    return Problem(
        severity="leak",
        title=f"{len(nameless)} of {len(data.records)} images have no patient{grouped}",
        advice="EACH COUNTS AS A PATIENT OF ITS OWN: if one has several images, they come to both sides of a split and all "
        "figures are too good. Name the column (--patient-column), a part of the file name (--patient-pattern) or a level "
        "of folders (--layout label/patient)",
        examples=_examples(r.key for r in nameless),
    )


def _other_views(data: OwnData) -> Problem | None:
    """Return the images that are not frontal: a bundle screens AP and PA views."""
    other = [r for r in data.records if r.view and projection(r.view) not in FRONTAL_VIEWS]
    if not other:
        return None
    views = ", ".join(f"{printable(view)} {n}" for view, n in Counter(r.view for r in other).most_common())
    return Problem(
        severity="warning",
        title=f"{len(other)} images have another view than AP or PA: {views}",
        advice="Leave lateral views and CT slices out, unless these are what the network is for",
        examples=_examples(r.key for r in other),
    )


def _by_patient(data: OwnData) -> dict[str, list[OwnRecord]]:
    groups = defaultdict(list)
    for r in data.records:
        if r.patient:
            groups[r.patient].append(r)
    return groups


def _one_of_each(group: Sequence[OwnRecord], value_of: Callable[[OwnRecord], str]) -> str:
    """Return the first image of each value, with the value in brackets."""
    first = {value_of(r): r.key for r in reversed(group) if value_of(r)}
    return ", ".join(f"{key} ({value})" for value, key in reversed(first.items()))


def _patients_of_several_sites(data: OwnData) -> Problem | None:
    several = [g for g in _by_patient(data).values() if len({r.site for r in g if r.site}) > 1]
    if not several:
        return None
    return Problem(
        severity="warning",
        title=f"{len(several)} patients have images of several sites",
        advice="If every site numbers its patients from 1, put the site into the patient's name: they count as the same people",
        examples=_examples(_one_of_each(group, lambda r: r.site) for group in several),
    )


def _patients_on_sides(data: OwnData) -> Problem | None:
    several = [g for g in _by_patient(data).values() if len({r.split for r in g if r.split}) > 1]
    if not several:
        return None
    return Problem(
        severity="leak",
        title=f"the split of the source has {len(several)} patients on several sides",
        advice="Split by patient, which a training does if the source states no split",
        examples=_examples(_one_of_each(group, lambda r: r.split or "") for group in several),
    )


def _patients_with_labels(data: OwnData) -> Problem | None:
    """Return patients whose images have several labels, for single labels only: findings come and go."""
    if not data.exclusive:
        return None
    several = [g for g in _by_patient(data).values() if len({r.present for r in g if r.is_labelled}) > 1]
    if not several:
        return None
    return Problem(
        severity="warning",
        title=f"{len(several)} patients have images with different labels",
        advice="Follow-ups may be right; else a label, or the patient's name, is wrong",
        examples=_examples(_one_of_each(group, lambda r: "".join(r.present)) for group in several),
    )


def _pictures(same: Sequence[SamePicture]) -> list[Problem]:
    """Return the problems of the same picture in several files."""
    kinds: tuple[tuple[str, Severity, str, Callable[[SamePicture], bool]], ...] = (
        (
            "under different labels",
            "leak",
            "One of the labels is wrong: delete both files, or mend it",
            lambda p: p.two_labels,
        ),
        (
            "of different patients, or of images without a patient",
            "leak",
            "Delete one of each pair, or give both the same patient; a training keeps them on one side of its split",
            lambda p: p.two_patients and not p.two_labels,
        ),
        (
            "of the same patient",
            "warning",
            "Delete one of each pair; they count twice",
            lambda p: not (p.two_patients or p.two_labels),
        ),
    )
    return [
        Problem(
            severity=severity,
            title=f"{len(pairs)} pairs of files hold the same picture {what}",
            advice=advice,
            examples=_examples(f"{p.first} and {p.second} ({'equal' if p.equal else 'nearly equal'})" for p in pairs),
        )
        for what, severity, advice, belongs in kinds
        if (pairs := [p for p in same if belongs(p)])
    ]


def _shortcuts(associations: Sequence[Association]) -> list[Problem]:
    """Return a problem for each factor that tells a finding."""
    strong = defaultdict(list)
    for a in associations:
        if a.cramers_v >= _STRONG:
            strong[a.factor].append(a)
    return [
        Problem(
            severity="shortcut",
            title=f"the {factor} tells {', '.join(f'{a.finding!r} ({a.cramers_v:.2f})' for a in found)} (Cramer's V of 0 to 1)",
            advice=f"A network can answer by the {factor} alone: add images so that every label comes with every {factor}, and "
            "trust only figures on a site that was left out",
            examples=_examples(
                f"{value}: {n[0]} with and {n[1]} without {a.finding!r}"
                for a in found[:1]
                for value, n in a.table.items()
            ),
        )
        for factor, found in strong.items()
    ]


def _few(findings: Mapping[str, FindingCounts]) -> Problem | None:
    """Return the findings with too few patients for a claim on a test side."""
    few = {name: c for name, c in findings.items() if c.present and (c.one_side is None or c.one_side[0] < _LEAST_LOW)}
    if not few:
        return None
    return Problem(
        severity="warning",
        title=f"too few patients for a claim: {', '.join(f'{name!r} ({c.patients})' for name, c in few.items())}",
        advice="Collect more, or test every patient once (leave-one-site-out, folds) and report the interval",
        examples=_examples(_claim(name, c) for name, c in few.items()),
    )


def _claim(name: str, c: FindingCounts) -> str:
    n = round(_TEST_SHARE * c.patients)
    return (
        f"{name}: a measured sensitivity of 90 % is {_percent(c.one_side)} on a test side of 15 % ({n} patients), and "
        f"{_percent(c.all_tested)} if all {c.patients} are tested once"
    )


def _percent(interval: tuple[float, float] | None) -> str:
    return "not to be had" if interval is None else f"{interval[0]:.0%} to {interval[1]:.0%}"
