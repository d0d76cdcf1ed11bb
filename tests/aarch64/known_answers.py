"""Build engines of the starter bundle on this machine, screen its synthetic X-rays, compare with the manifest's answers.

Argument: how many of the known answers to take; an emulated processor needs seconds for each. The manifest's were computed
on x86-64. Works in a new folder `known-answers` in the current one. Fails if a lung box differs at all, or a probability by more
than TOLERANCE.
"""

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

from cxr_edge import Bundle
from cxr_edge.cli import main

# ONNX Runtime has other float kernels on Arm, which add in another order. The native core itself is exact.
TOLERANCE = 1e-5


def starter_with(count: int) -> Bundle:
    """A copy of the starter bundle with only the first `count` known answers."""
    root = Path(shutil.copytree(Bundle.open("starter").root, "known-answers", ignore=shutil.ignore_patterns("engines")))
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["known_answers"] = manifest["known_answers"][:count]
    (root / "manifest.json").write_text(json.dumps(manifest))
    return Bundle.open(root)


def cxr_edge(*arguments: str) -> str:
    """What the command prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = main(arguments)
    if status:
        sys.exit(f"cxr-edge {' '.join(arguments)}: exit status {status}")
    return out.getvalue()


def compare(bundle: Bundle) -> float:
    """The largest difference of a probability."""
    answers = {str(bundle.file(a.file)): a for a in bundle.manifest.known_answers}
    results = json.loads(cxr_edge("screen", "--bundle", str(bundle.root), "--answer-all", "--json", *answers))[
        "results"
    ]
    worst = 0.0
    for result in results:
        answer = answers.pop(result["source"])
        if result["roi"] != list(answer.roi):
            sys.exit(f"{result['source']}: the lung box is {result['roi']}, the manifest says {list(answer.roi)}")
        pairs = zip(result["probabilities"].values(), answer.probabilities, strict=True)
        worst = max(worst, *(abs(here - there) for here, there in pairs))
    return float("inf") if answers else worst


if __name__ == "__main__":
    bundle = starter_with(int(sys.argv[1]))
    cxr_edge("build-engine", str(bundle.root), "--precision", "fp32")
    worst = compare(bundle)
    print(
        f"{len(bundle.manifest.known_answers)} known answers: equal lung boxes, "
        f"probabilities at most {worst:.2g} apart (allowed: {TOLERANCE:g})"
    )
    sys.exit(not worst <= TOLERANCE)
