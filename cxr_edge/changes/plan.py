"""Change plan of a new bundle against an old one, under the three headings of the FDA's guidance on such plans.

Description of Modifications, Modification Protocol and Impact Assessment are the parts that the guidance "Marketing
Submission Recommendations for a Predetermined Change Control Plan for Artificial Intelligence-Enabled Device Software
Functions" names (final, December 2024, again August 2025; docket FDA-2022-D-2628). A plan here is what the two bundles can
show of them, and says what is missing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cxr_edge.bundle import ENGINES_DIR, Bundle
from cxr_edge.bundle.onnx_check import check_networks
from cxr_edge.changes import DEFAULT_MAX_CHANGED
from cxr_edge.changes.description import Description, describe
from cxr_edge.changes.images import compared_images
from cxr_edge.changes.impact import Impact, impact
from cxr_edge.changes.protocol import Protocol, protocol
from cxr_edge.engines import BUILD_FILE, BuildRecord, last_build_settings
from cxr_edge.version import __version__

__all__ = ["ChangePlan", "change_plan"]

_WIDTH = 120
_GUIDANCE = (
    "the three parts are those of the FDA's guidance on predetermined change control plans for AI-enabled device software "
    "functions (final, December 2024)"
)
_MISSING = (
    "Not in this plan, and to be written by those who answer for the change: why it is made, and what it does to the clinical "
    "use; benefits, and risks with their control (ISO 14971); how data for training and tests were collected, labelled and kept "
    "apart, beyond the provenance above; how networks are trained again; figures of sub-groups that the manifests do not "
    "state; effects together with other changes; how users are informed, and who approved it. cxr-edge is for research use and "
    "not a medical device; no authority has reviewed this text."
)


@dataclass(frozen=True, kw_only=True)
class ChangePlan:
    """The three parts."""

    old: str  # name, version and digest
    new: str
    made: str  # UTC, ISO 8601
    description: Description
    protocol: Protocol
    impact: Impact

    def lines(self) -> list[str]:
        """Return the plan as text."""
        return [
            "Change plan",
            f"From {self.old}",
            f"To   {self.new}",
            *textwrap.wrap(f"Made {self.made} by cxr-edge {__version__}; {_GUIDANCE}", _WIDTH),
            "",
            "1. Description of Modifications",
            "",
            *self.description.lines(),
            "",
            "2. Modification Protocol",
            "",
            *self.protocol.lines(),
            "",
            "3. Impact Assessment",
            "",
            *self.impact.lines(),
            "",
            *textwrap.wrap(_MISSING, _WIDTH),
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the plan."""
        return {
            "old": self.old,
            "new": self.new,
            "made": self.made,
            "cxr_edge": __version__,
            "description_of_modifications": self.description.as_json(),
            "modification_protocol": self.protocol.as_json(),
            "impact_assessment": self.impact.as_json(),
            "not_in_this_plan": _MISSING,
        }


def change_plan(
    old: Bundle,
    new: Bundle,
    *,
    images: Path | None = None,
    threads: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> ChangePlan:
    """Return the plan. images: a folder of X-rays to compare decisions on. say: takes lines of progress.

    Raises BundleError or ContractError for a bundle that cannot be used, InputError for a folder without files.
    """
    described = describe(old, new, check_networks(old), check_networks(new))
    shown = compared_images(old, new, images)
    return ChangePlan(
        old=_name(old),
        new=_name(new),
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        description=described,
        protocol=protocol(
            new.manifest,
            last_build_settings(new, None, "auto"),
            images=_gate_images(new),
            max_changed=DEFAULT_MAX_CHANGED,
            built=_built(new),
        ),
        impact=impact(old, new, described, shown, threads=threads, say=say),
    )


def _name(bundle: Bundle) -> str:
    return f"{bundle.manifest.name} {bundle.manifest.version} (SHA-256 of its manifest {bundle.digest})"


def _built(bundle: Bundle) -> list[BuildRecord]:
    """Return the records of the engines in the bundle's folder that were built of it."""
    found = []
    for path in sorted((bundle.root / ENGINES_DIR).glob(f"*/{BUILD_FILE}")):
        with suppress(ValueError):  # of another release, which `screen` refuses
            found.append(BuildRecord.read(path))
    return [record for record in found if record.bundle_sha256 == bundle.digest]


def _gate_images(bundle: Bundle) -> str:
    known, gate = len(bundle.manifest.known_answers), bundle.manifest.gate_set
    own = f"{known} known answers of the bundle, which are drawings" if known else "none in the bundle"
    if gate is not None:
        kind = "real images" if gate.kind == "images" else "drawn from a model of training images"
        own = f"the bundle's gate set of {gate.images} images ({kind})"
    return f"{own}, or X-rays of the site given with --calibration DIR"
