"""Comparison of a screening with the record of an earlier one: two records with their runs in, equal or not and why out.

On the machine and with the engines of the record the outputs must be equal bit for bit. Elsewhere probabilities may differ by
`TOLERANCE`, as those of a bundle's known answers may, with the same outcome, decision, prediction set and flags.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cxr_edge.decoding.limits import DEFAULT_LIMITS, Limits
from cxr_edge.evidence.chain_records import FileBegin
from cxr_edge.evidence.constants import TOLERANCE
from cxr_edge.evidence.describe import failure_record, run_record, screening_record
from cxr_edge.evidence.records import EngineRecord, FailureRecord, RunRecord, ScreeningRecord, read_record
from cxr_edge.evidence.site_key import SiteKey
from cxr_edge.evidence.verification import Verification, VerifiedLine, verify
from cxr_edge.records import Failure
from cxr_edge.screening.screener import FileResult, Screener

__all__ = [
    "Comparison",
    "Entry",
    "Log",
    "causes",
    "compare",
    "limits_of",
    "options_of",
    "read_log",
    "recorded",
    "run_of",
]

# Options that change no output, or are not repeated.
_IRRELEVANT = {"max_pixels", "min_side_px", "workers", "deadline_ms", "require_signature", "self_test"}
_NO_SITE = SiteKey(secret=bytes(32))

Equality = Literal["equal", "within tolerance", "different"]
Result = ScreeningRecord | FailureRecord  # of an input

# What must be the same for "within tolerance" too.
_EXACT = ("outcome", "reason", "forced_decision", "findings", "prediction_set", "flags", "view")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A screening or a failure in the log, with its run."""

    number: int
    time: str
    result: Result
    run: RunRecord


@dataclass(frozen=True, kw_only=True)
class Log:
    """Entries of a log of some inputs."""

    verification: Verification
    entries: Mapping[str, tuple[Entry, ...]]  # by SHA-256 of the input, in their order


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Result of a comparison."""

    equality: Equality
    largest: float  # difference of a probability, of the ensemble or of a member; infinite where one has none
    differences: tuple[str, ...]  # of the outputs, in words
    causes: tuple[str, ...]  # what was different when it was recorded, in words; may be there for equal outputs too

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object; `largest` is null where there are no two numbers to compare."""
        values = asdict(self)
        return {
            **values,
            "largest": self.largest if math.isfinite(self.largest) else None,
            "differences": list(self.differences),
            "causes": list(self.causes),
        }


def read_log(folder: Path, digests: set[str], *, every: bool) -> Log:
    """Verify a log and return its entries of the inputs with these SHA-256. every: all of each, else the latest.

    Raises InputError if there is no log, and for a record that this version does not know.
    """
    runs: dict[int, RunRecord] = {}
    found: dict[str, tuple[Entry, ...]] = {}

    def visit(verified: VerifiedLine) -> None:
        line = verified.line
        if line.kind == FileBegin.kind:
            runs.clear()  # each file repeats the runs that it needs
        result = read_record(line)
        if isinstance(result, RunRecord):
            runs[line.number] = result
        run = runs.get(line.run or 0)
        if run is None or not isinstance(result, Result) or result.input.sha256 not in digests:
            return
        entry = Entry(number=line.number, time=line.time, result=result, run=run)
        before = found.get(result.input.sha256, ())
        found[result.input.sha256] = (*before, entry) if every else (entry,)

    return Log(verification=verify(folder, visit=visit), entries=found)


def options_of(run: RunRecord, screener: Screener) -> dict[str, Any]:
    """Return the arguments of a Screener that answers as the run's: without its deadline, which no replay can keep.

    screener: any, for the names of its options and for its threads.
    """
    names = set(screener.options) - {"threads", "deadline_ms"}
    return {"threads": screener.options["threads"], **{k: v for k, v in run.options.items() if k in names}}


def limits_of(run: RunRecord) -> Limits:
    """Return the size limits of the run."""
    return DEFAULT_LIMITS.replaced(max_pixels=run.options.get("max_pixels"), min_side_px=run.options.get("min_side_px"))


def recorded(result: FileResult) -> Result:
    """Return the record of a new result, to be compared; names and UIDs in it are of no site."""
    outcome = result.outcome
    if isinstance(outcome, Failure):
        return failure_record(result, outcome, site_key=_NO_SITE, names=False)
    return screening_record(result, outcome, site_key=_NO_SITE, names=False)


def run_of(screener: Screener) -> RunRecord:
    """Return the record of the run that a screener is now."""
    return run_record(screener, options={}, site_key=_NO_SITE, signer="")


def compare(before: Result, run: RunRecord, after: Result, run_after: RunRecord) -> Comparison:
    """Compare a result with the recorded one. run, run_after: of the recorded result and of the new one."""
    if isinstance(before, FailureRecord) or isinstance(after, FailureRecord):
        largest, differences = _compare_failures(before, after)
        exact = not differences
    else:
        largest = _largest(before, after)
        differences = tuple(_differences(before, after, largest))
        exact = all(getattr(before, name) == getattr(after, name) for name in _EXACT)
    equality: Equality = "different"
    if not differences:
        equality = "equal"
    elif exact and largest <= TOLERANCE:
        equality = "within tolerance"
    return Comparison(
        equality=equality,
        largest=largest,
        differences=differences,
        causes=tuple([*causes(run, run_after), *_degraded(before, after)]),
    )


def causes(before: RunRecord, after: RunRecord) -> Iterator[str]:
    """Yield what is different between two runs and may change outputs, in words."""
    if before.bundle.sha256 != after.bundle.sha256:
        yield (
            f"another bundle: {_bundle(before)} when recorded, {_bundle(after)} now"
            if _bundle(before) != _bundle(after)
            else f"another bundle of the same name: digest {before.bundle.sha256[:12]}... when recorded, "
            f"{after.bundle.sha256[:12]}... now"
        )
    if before.operating_point != after.operating_point:
        yield "another operating point (thresholds or error budget)"
    if before.backend != after.backend:
        yield f"another backend: {before.backend} when recorded, {after.backend} now"
    engines = {e.part: e for e in after.engines}
    pairs = [(e, engines[e.part]) for e in before.engines if e.part in engines]
    changed = [_engine(old, new) for old, new in pairs if old.sha256 != new.sha256]
    if changed:
        yield f"other engines: {', '.join(changed)}"
    yield from _versions(before, after)
    for name in ("processor", "instruction_sets", "platform"):
        here, there = getattr(after.machine, name), getattr(before.machine, name)
        if here != there:
            yield f"another machine ({name.replace('_', ' ')}): {there!r} when recorded, {here!r} now"
    for name in sorted({*before.options, *after.options} - _IRRELEVANT):
        if before.options.get(name) != after.options.get(name):
            yield f"another option {name}: {before.options.get(name)} when recorded, {after.options.get(name)} now"


def _engine(before: EngineRecord, after: EngineRecord) -> str:
    if before.precision == after.precision:
        return before.part
    return f"{before.part} ({before.precision} when recorded, {after.precision} now)"


def _versions(before: RunRecord, after: RunRecord) -> Iterator[str]:
    software, there = after.software, before.software
    for name, library in there.libraries.items():
        now = software.libraries.get(name)
        if now is None or now.version != library.version:
            yield f"another {name}: {library.version} when recorded, {'none' if now is None else now.version} now"
        elif now.sha256 != library.sha256:
            yield f"another build of {name} {library.version}"
    if there.cxr_edge != software.cxr_edge:
        yield f"another cxr-edge: {there.cxr_edge} when recorded, {software.cxr_edge} now"
    elif there.code_sha256 != software.code_sha256:
        yield "other Python code of cxr-edge of the same version"
    if there.core_sha256 != software.core_sha256:
        yield "another native core"
    for name in sorted(
        {*before.versions, *after.versions} - {"processor", "instruction_sets", "platform", "onnxruntime"}
    ):
        if before.versions.get(name) != after.versions.get(name):
            yield f"another {name}: {before.versions.get(name)} when recorded, {after.versions.get(name)} now"


def _degraded(before: Result, after: Result) -> Iterator[str]:
    for result, when in ((before, "when recorded"), (after, "now")):
        if isinstance(result, ScreeningRecord) and result.dropped:
            yield f"degraded {when}: without {', '.join(f'{d.member} ({d.reason})' for d in result.dropped)}"


def _bundle(run: RunRecord) -> str:
    return f"{run.bundle.name} {run.bundle.version}"


def _compare_failures(before: Result, after: Result) -> tuple[float, tuple[str, ...]]:
    if isinstance(before, FailureRecord) and isinstance(after, FailureRecord):
        same = before.error == after.error
        return 0.0, () if same else (
            f"it failed with another reason: {before.error!r} when recorded, {after.error!r} now",
        )
    if isinstance(before, FailureRecord):
        return math.inf, (f"it failed when it was recorded ({before.error}) and is screened now",)
    return math.inf, (f"it fails now: {after.error if isinstance(after, FailureRecord) else ''}",)


def _largest(before: ScreeningRecord, after: ScreeningRecord) -> float:
    """Return the largest difference of a probability, or of a score of the checker."""
    pairs = [(before.probabilities, after.probabilities)]
    pairs += [(row, after.members.get(name, ())) for name, row in before.members.items()]
    pairs.append((tuple(before.checks.values()), tuple(after.checks.get(name, math.nan) for name in before.checks)))
    if any(len(a) != len(b) for a, b in pairs) or set(before.members) != set(after.members):
        return math.inf
    differences = [_distance(a, b) for row, other in pairs for a, b in zip(row, other, strict=True)]
    return max(differences, default=0.0)


def _distance(a: float, b: float) -> float:
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    difference = abs(a - b)
    return math.inf if math.isnan(difference) else difference


def _differences(before: ScreeningRecord, after: ScreeningRecord, largest: float) -> Iterator[str]:
    if set(before.members) != set(after.members):
        yield f"other members: {', '.join(before.members)} when recorded, {', '.join(after.members)} now"
    elif not math.isfinite(largest):
        yield "other numbers of probabilities or scores, or some that are not finite"
    elif largest > 0 or not _same_bits(before, after):
        yield f"probabilities or scores differ by up to {largest:.3g}"
    if before.roi != after.roi:
        yield f"another lung box: {list(before.roi)} when recorded, {list(after.roi)} now"
    for name in _EXACT:
        here, there = getattr(after, name), getattr(before, name)
        if here != there:
            yield f"another {name.replace('_', ' ')}: {_text(there)} when recorded, {_text(here)} now"


def _same_bits(before: ScreeningRecord, after: ScreeningRecord) -> bool:
    """Return whether all numbers are the same; 0.0 and -0.0 are not."""
    rows = [
        (b.probabilities, *(b.members[k] for k in sorted(b.members)), tuple(b.checks.values())) for b in (before, after)
    ]
    return repr(rows[0]) == repr(rows[1])


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)
