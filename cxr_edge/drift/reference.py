"""Reference exams of a bundle: statistics of known exams come in, a JSON file comes out, and back.

Manifest key `reference` names the file. Each statistic's values are sorted by themselves, so that no exam can be put together
again from it. Training writes one from its validation patients, `cxr-edge calibrate` from the site's own cases.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cxr_edge.bundle import Bundle, file_ref, write_bundle
from cxr_edge.drift.statistics import GROUPS, group_of, statistic_names
from cxr_edge.errors import BundleError, InputError
from cxr_edge.specs.json_fields import (
    FieldError,
    field_names,
    is_number,
    parse,
    require,
    require_keys,
    require_object,
    require_text,
)

__all__ = ["LEAST_EXAMS", "MOST_EXAMS", "REFERENCE_NAME", "SCHEMA", "Reference", "attach_reference"]

SCHEMA = "cxr-edge-reference/1"
REFERENCE_NAME = "reference.json"  # in the folder of a bundle
LEAST_EXAMS, MOST_EXAMS = 50, 1000

_MAX_BYTES = 4 * 1024 * 1024
_WRITE_AGAIN = "write it again, or leave the key `reference` out"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Values of each statistic in the reference exams, sorted."""

    of: str  # whose exams they are, in words
    exams: int
    statistics: Mapping[str, tuple[float, ...]]  # name -> one value of each exam, ascending

    def __post_init__(self) -> None:
        require_text(self.of, "of")
        within = isinstance(self.exams, int) and LEAST_EXAMS <= self.exams <= MOST_EXAMS
        require(within, "exams", f"a whole number from {LEAST_EXAMS} to {MOST_EXAMS}", self.exams)
        require(bool(self.statistics), "statistics", "an object with one statistic or more", {})
        for name, values in self.statistics.items():
            known = group_of(name) in GROUPS and "." in name
            require(known, f"statistics.{name}", f"named {', '.join(f'{g}.NAME' for g in GROUPS)}", name)
            _check_values(values, f"statistics.{name}", self.exams)

    @classmethod
    def of_exams(cls, exams: Iterable[Mapping[str, float]], *, of: str, seed: int = 1) -> Reference:
        """Make a reference of the statistics of exams (`exam_statistics`), one exam of each patient.

        of: whose exams they are, in words. seed: for the choice among more than MOST_EXAMS. Raises InputError for fewer than
        LEAST_EXAMS, or exams of bundles that differ.
        """
        rows = list(exams)
        if len(rows) < LEAST_EXAMS:
            raise InputError(f"a reference needs exams of {LEAST_EXAMS} patients or more, got {len(rows)}")
        if any(row.keys() != rows[0].keys() for row in rows):
            raise InputError("the exams have different statistics: screen all of them with the same bundle")
        if len(rows) > MOST_EXAMS:
            rows = random.Random(seed).sample(rows, MOST_EXAMS)
        values = {name: tuple(sorted(row[name] for row in rows)) for name in rows[0]}
        return cls(of=of, exams=len(rows), statistics=values)

    def median(self, name: str) -> float:
        """Return the median of a statistic: the lower one of two."""
        values = self.statistics[name]
        return values[(len(values) - 1) // 2]

    def as_json(self) -> dict[str, Any]:
        values = {name: [_short(v) for v in found] for name, found in self.statistics.items()}
        return {"schema": SCHEMA, "of": self.of, "exams": self.exams, "statistics": values}

    @classmethod
    def from_json(cls, value: object) -> Reference:
        """Read what `as_json` returned. Raises FieldError with the path of the invalid key."""
        found = require_keys(value, [*field_names(cls), "schema"])
        require(found["schema"] == SCHEMA, "schema", repr(SCHEMA), found["schema"])
        statistics = require_object(found["statistics"], "statistics")
        for name, values in statistics.items():
            require(isinstance(values, list), f"statistics.{name}", "a list", values)
        return cls(of=found["of"], exams=found["exams"], statistics={name: tuple(v) for name, v in statistics.items()})

    def write(self, file: Path) -> None:
        """Write the file, a line for each statistic."""
        document = self.as_json()
        lines = [f"  {json.dumps(name)}: {_list(v)}" for name, v in document.pop("statistics").items()]
        head = json.dumps(document, indent=1, ensure_ascii=False)[:-2]
        file.write_text(
            f'{head},\n "statistics": {{\n' + ",\n".join(lines) + "\n }\n}\n", encoding="utf-8", newline="\n"
        )

    @classmethod
    def read(cls, file: Path) -> Reference:
        """Read the file. Raises BundleError for one that is not valid."""
        try:
            size = file.stat().st_size
            if size > _MAX_BYTES:
                raise BundleError(f"{file} has {size} bytes, a reference at most {_MAX_BYTES}: {_WRITE_AGAIN}")
            return cls.from_json(parse(file.read_bytes()))
        except FieldError as error:
            raise BundleError(f"{file}: {error.key or 'the whole file'} {error.message}; {_WRITE_AGAIN}") from None
        except OSError as error:
            raise BundleError(f"{file} cannot be read ({error.strerror}): check its permissions") from None

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Reference | None:
        """Return the bundle's reference, or None. Raises BundleError if it is not valid, or not of this bundle's networks."""
        manifest = bundle.manifest
        if manifest.reference is None:
            return None
        file = bundle.file(manifest.reference)
        reference = cls.read(file)
        known = statistic_names(manifest.labels, manifest.checker.scores if manifest.checker else ())
        if unknown := sorted(set(reference.statistics) - set(known)):
            raise BundleError(
                f"{file} has the statistic {unknown[0]}, which bundle {manifest.name!r} does not give: {_WRITE_AGAIN}"
            )
        return reference


def attach_reference(bundle: Bundle, reference: Reference) -> Bundle:
    """Write the reference into the bundle's folder and its manifest, in place of an earlier one. Returns the changed bundle."""
    reference.write(bundle.root / REFERENCE_NAME)
    return write_bundle(bundle.root, replace(bundle.manifest, reference=file_ref(bundle.root, REFERENCE_NAME)))


def _check_values(values: Sequence[float], key: str, exams: int) -> None:
    require(len(values) == exams, key, f"{exams} numbers, one of each exam", f"{len(values)} items")
    if not all(map(is_number, values)):
        i = next(i for i, value in enumerate(values) if not is_number(value))
        require(False, f"{key}[{i}]", "a finite number", values[i])
    if list(values) != sorted(values):
        i = next(i for i in range(1, exams) if values[i - 1] > values[i])
        require(False, f"{key}[{i}]", f"at least {values[i - 1]}, the one before it", values[i])


def _short(value: float) -> float | int:
    """Return a whole number as one, which is shorter in a file."""
    return int(value) if value == int(value) else value


def _list(values: Sequence[float]) -> str:
    return json.dumps(values, separators=(",", ":"))
