"""Reference exams of a bundle, against which `cxr_edge.drift` compares later exams: samples come in, the reference comes out.

One exam of each patient, screened by the fp32 networks from the file on, as a device screens it.
"""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from collections.abc import Sequence

from cxr_edge import engines
from cxr_edge.bundle import Bundle
from cxr_edge.drift import Reference, attach_reference, exam_statistics
from cxr_edge.drift.reference import LEAST_EXAMS, MOST_EXAMS
from cxr_edge.errors import InputError
from cxr_edge.records import Failure
from cxr_edge.screening.folder import screen_files
from cxr_edge.screening.screener import Screener
from training.data.dataset import Sample

__all__ = ["OF_VALIDATION", "attach_validation", "one_of_each_patient", "reference_of"]

OF_VALIDATION = "validation patients of the bundle's training, one image of each"


def one_of_each_patient(samples: Sequence[Sample], *, seed: int) -> list[Sample]:
    """Return one sample of each group of patients, in the order of the groups' names."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.group].append(sample)
    draws = random.Random(seed)
    return [draws.choice(groups[name]) for name in sorted(groups)]


def reference_of(bundle: Bundle, samples: Sequence[Sample], *, of: str, seed: int = 1, threads: int = 1) -> Reference:
    """Screen one image of each patient. of: whose exams they are, in words.

    Raises InputError for an image that cannot be screened, and for fewer patients than a reference needs.
    """
    screener = Screener(bundle, engines.reference(bundle, threads=1), whole=True)
    chosen = one_of_each_patient(samples, seed=seed)
    random.Random(seed).shuffle(chosen)
    rows = []
    for result in screen_files(screener, [s.record.path for s in chosen[:MOST_EXAMS]], workers=threads):
        if isinstance(result.outcome, Failure) or result.image is None:
            raise InputError(f"{result.outcome.source} cannot be screened: {getattr(result.outcome, 'reason', '')}")
        rows.append(exam_statistics(result.outcome, result.image))
    return Reference.of_exams(rows, of=of, seed=seed)


def attach_validation(bundle: Bundle, samples: Sequence[Sample], *, seed: int, threads: int) -> Bundle:
    """Attach a reference of the validation patients. Returns the changed bundle, or the same one if they are too few."""
    validation = [s for s in samples if s.side == "validation"]
    patients = len({s.group for s in validation})
    if patients < LEAST_EXAMS:
        print(f"no reference for drift: {patients} validation patients, {LEAST_EXAMS} needed", file=sys.stderr)
        return bundle
    made = reference_of(bundle, validation, of=OF_VALIDATION, seed=seed, threads=threads)
    return attach_reference(bundle, made)
