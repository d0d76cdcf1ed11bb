"""Words that hide what the code does, found in names, comments and docstrings: `python -m tests.words`, part of `make lint`.

docs/glossary.md has the words to use. A line of ALLOWED names a file and a word that is right there.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

__all__ = ["found", "main"]

ROOT = Path(__file__).parents[1]
FOLDERS = ("cxr_edge", "training", "benchmarks", "csrc")

# Pattern -> the word to use. Matched in snake_case parts of names, in comments and in docstrings.
WORDS = {
    r"said": "predicted, reported",
    r"asked": "requested, settings",
    r"came": "actual, was",
    r"told": "identified",
    r"judge[sd]?|judging": "evaluate, compare",
    r"believed?|disbelief": "accepted, valid",
    r"hurts?|harm": "sensitivity",
    r"retreat": "fall back",
    r"anew": "again",
    r"made up for": "compensated",
    r"held against": "compared with",
    r"stands? for": "represents",
    r"if need be": "if necessary",
    r"what came of": "result of",
    r"lies|lie in": "is stored",
}
_PER = re.compile(
    r"\b(one|numbers?|probability|probabilities|arrays?|figures?|threads?|rows?|lines?|entry|values?|logits?|names?|flags?) an? "
    r"(label|member|part|spec|network|image|stage|step|fold|backend|sample|epoch|second|column|patient)\b"
)
_FIRST = re.compile(r"(What|Where|Which|How|Whether)\b")
_NAME = re.compile(r"(?<![a-z])(said|asked|came|told|judged?|hurt|harm|retreat|believed|anew)(?![a-z])", re.IGNORECASE)
_WORD = re.compile(r"\b(" + "|".join(WORDS) + r")\b", re.IGNORECASE)

ALLOWED: frozenset[tuple[str, str]] = frozenset(
    {
        ("cxr_edge/decoding/dicom.py", "'name a patient': per"),
        ("cxr_edge/decoding/dicom_header.py", "'name a patient': per"),
        ("training/data/guard.py", "'names a label': per"),
        ("training/markdown.py", "stands for"),
    }
)


def found(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line and word of each finding in a Python or C++ file."""
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        for number, line in enumerate(text.splitlines(), 1):
            comment = line.partition("//")[2]
            yield from ((number, w) for w in _in_prose(comment))
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield from ((token.start[0], w) for w in _in_prose(token.string))
        elif token.type == tokenize.NAME:
            yield from ((token.start[0], m[1].lower()) for m in _NAME.finditer(token.string))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring is not None:
                line = node.body[0].lineno
                yield from ((line, w) for w in _in_prose(docstring))
                if first := _FIRST.match(docstring):
                    yield line, f"docstring begins with {first[1]}"


def _in_prose(text: str) -> Iterator[str]:
    yield from (m[1].lower() for m in _WORD.finditer(text))
    yield from (f"{m[0]!r}: per" for m in _PER.finditer(text))


def main() -> int:
    """Print findings as FILE:LINE WORD. Returns 1 if there are any."""
    files = [
        f for folder in FOLDERS for f in sorted((ROOT / folder).rglob("*")) if f.suffix in (".py", ".h", ".cc", ".cu")
    ]
    findings = [(f.relative_to(ROOT).as_posix(), line, word) for f in files for line, word in found(f)]
    findings = [x for x in findings if (x[0], x[2]) not in ALLOWED]
    for name, line, word in findings:
        print(f"{name}:{line} {word}" + (f" -> {WORDS[word]}" if word in WORDS else ""))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
