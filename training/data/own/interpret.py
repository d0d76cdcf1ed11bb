"""Interpretation of facts: entries with texts in, records with findings, sides, ages and pseudonyms out.

A cell that is not understood counts as not stated and is a doubt, with row and column; the image stays.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from cxr_edge.errors import InputError
from cxr_edge.names import printable
from training.data.faults import Fault
from training.data.own.cells import NO_FINDING, age_years, label_text, patient_text, presence, sex, side
from training.data.own.columns import Columns
from training.data.own.facts import Entry
from training.data.own.files import Finder, key_below
from training.data.own.identities import Pseudonyms
from training.data.own.options import Options
from training.data.own.records import Findings, OwnRecord

__all__ = ["Interpreter"]

Value = TypeVar("Value")
_FIRST = ("normal", "no finding", "negative", "healthy")  # labels that come first
_SEVERAL = "|"  # between findings in one cell


class Interpreter:
    """Meaning of the entries of one source. `doubts` and `notes` are complete after `records`."""

    def __init__(
        self, entries: Sequence[Entry], columns: Columns | None, finder: Finder, options: Options, salt: bytes | None
    ) -> None:
        self.doubts: list[Fault] = []
        self.notes: list[str] = []
        self._entries, self._finder, self._pseudonyms = entries, finder, Pseudonyms(salt)
        self._columns = {} if columns is None else {role: columns.names[i] for role, i in columns.roles.items()}
        self._by_column = columns is not None and bool(columns.findings)
        self._several = any(_SEVERAL in e.facts.label for e in entries)
        self._named = dict(columns.findings) if columns is not None and self._by_column else {}
        self._label_names = _label_names(self._texts(), options.label_names, self.notes)
        self.findings = tuple(self._named) if self._by_column else self._ordered()
        self._single: dict[str, Findings] = {}

    def records(self, root: str) -> tuple[OwnRecord, ...]:
        """Return a record for each entry. root: folder that keys are relative to."""
        keys = Counter[str]()
        return tuple(
            self._record(entry, _unique(printable(key_below(entry.path, root)), keys)) for entry in self._entries
        )

    def _record(self, entry: Entry, key: str) -> OwnRecord:
        facts = entry.facts
        return OwnRecord(
            path=Path(entry.path),
            key=key,
            findings=self._findings(entry),
            patient=self._pseudonyms.of("patient", patient_text(facts.patient)),
            study=self._pseudonyms.of("study", facts.study),
            site=facts.site,
            scanner=facts.scanner,
            view=facts.view,
            age_years=self._read(age_years, entry, "age", facts.age, None),
            sex=self._read(sex, entry, "sex", facts.sex, ""),
            mask=self._read(self._mask, entry, "mask", facts.mask, None),
            split=self._read(side, entry, "split", facts.split, None),
        )

    def _mask(self, cell: str) -> Path | None:
        return Path(self._finder.find(cell))

    def _read(self, parse: Callable[[str], Value], entry: Entry, role: str, cell: str, default: Value) -> Value:
        """Return what a cell means; a doubt and `default` if it means nothing."""
        if not cell:
            return default
        try:
            return parse(cell)
        except InputError as error:
            column = f", column {self._columns.get(role, role)!r}"
            self.doubts.append(Fault(where=f"{entry.where}{column}", reason=f"{error}; it counts as not stated"))
            return default

    def _findings(self, entry: Entry) -> Findings:
        if self._by_column:
            cells = entry.facts.findings
            return {name: self._read(presence, entry, name, cells.get(name, ""), None) for name in self.findings}
        text = entry.facts.label
        if text not in self._single:
            self._single[text] = self._of_label(text)
        return self._single[text]

    def _of_label(self, text: str) -> Findings:
        """Return the findings of a cell with a label, or with several findings; all unknown if it is empty."""
        labels = self._parts(text)
        if not labels:
            return dict.fromkeys(self.findings, None)
        present = {self._label_names[label] for label in labels if label in self._label_names}
        return {name: name in present for name in self.findings}

    def _texts(self) -> Counter[str]:
        """Return label -> images, as the source words it."""
        counts = Counter(e.facts.label for e in self._entries)
        texts: Counter[str] = Counter()
        for text, n in counts.items():
            for label in self._parts(text):
                if not (self._several and label.lower() in NO_FINDING):
                    texts[label] += n
        return texts

    def _parts(self, text: str) -> list[str]:
        return [label for part in text.split(_SEVERAL) if (label := label_text(part))]

    def _ordered(self) -> tuple[str, ...]:
        names = set(self._label_names.values())
        return tuple(sorted(names, key=lambda name: (name.lower() not in _FIRST, name)))


def _label_names(texts: Counter[str], given: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """Return label as in the source -> its name: as given, else the most frequent of the spellings that differ in case."""
    if unknown := sorted(set(given) - set(texts)):
        raise InputError(
            f"--label-name: no image has the label {unknown[0]!r}; the labels are {', '.join(map(repr, sorted(texts)))}"
        )
    spellings: dict[str, list[str]] = defaultdict(list)
    for text, _ in texts.most_common():
        spellings[given.get(text, text).casefold()].append(given.get(text, text))
    for same in spellings.values():
        if len(distinct := list(dict.fromkeys(same))) > 1:
            notes.append(
                f"the labels {', '.join(map(repr, distinct))} differ in case alone and are one, {distinct[0]!r}"
            )
    return {text: spellings[given.get(text, text).casefold()][0] for text in texts}


def _unique(key: str, seen: Counter[str]) -> str:
    seen[key] += 1
    return key if seen[key] == 1 else f"{key}~{seen[key]}"
