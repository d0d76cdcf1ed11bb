"""Mutation testing of csrc: one operator, number or name is changed, the core compiled again, and a golden test must fail.

In: source files and the tests that hold them. Out: a `Result` for each mutant that compiles. The sources are formatted by
clang-format, so that an operator between spaces is a binary one. Only the core's files are compiled again, without
optimisation; its inline functions replace their copies in the bindings. So a constant that sizes a class always fails a test.

This runs inside a copy of the checkout, under `python -S`: without the editable install, which would put the ordinary core
before the mutated one. Each mutant's tests run in a fork, which has no imports to repeat.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache
from pathlib import Path

import hypothesis.extra.numpy  # noqa: F401  # for the forks
import onnx  # noqa: F401  # for the forks
import pybind11
import pytest

from tests.mutate.records import Mutant, Result

_SWAPS = {
    "+": "-", "-": "+", "*": "/", "/": "*", "%": "*", "<": "<=", ">": ">=", "<=": "<", ">=": ">", "==": "!=", "!=": "==",
    "&&": "||", "||": "&&", "<<": ">>", ">>": "<<", "&": "|", "|": "&", "+=": "-=", "-=": "+=", "*=": "/=", "/=": "*=",
    "true": "false", "false": "true", "smaller": "larger", "larger": "smaller", "min": "max", "max": "min",
}  # fmt: skip
_COMMENT_OR_TEXT = r"//.*|\"(?:\\.|[^\"])*\"|^#.*"
_OPERATOR = r"(?<= )(?:[-+*/]=?|[%&|]|[<>=!]=|[<>]|&&|\|\||<<|>>)(?= )"
_NUMBER = r"(?<![\w.])(?:0x[0-9a-fA-F]+|\d+\.\d+|\d+)(?=u?\b)"
_TOKEN = re.compile(rf"{_COMMENT_OR_TEXT}|(?P<swap>{_OPERATOR}|\b[a-z]+\b)|(?P<number>{_NUMBER})", re.MULTILINE)

_COMPILE = ("c++", "-O0", "-std=c++17", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-Icsrc/include", "-Icsrc")
_MODULE = f"cxr_edge/_core{sysconfig.get_config_var('EXT_SUFFIX')}"
_OBJECTS = Path("build/objects")
_MEMORY = 16 << 30
_SECONDS = 120  # a mutant may loop forever; the tests take a few seconds


def results(sources: Sequence[str], tests: Sequence[str]) -> Iterator[Result]:
    """Yield the results of all mutants of `sources` in this folder."""
    _OBJECTS.mkdir(parents=True, exist_ok=True)
    if not (_compile([*_core(), *Path("csrc/bindings").glob("*.cc")]) and _passes(tests)):
        raise SystemExit(f"without a mutant: the core does not compile, or this fails: pytest {' '.join(tests)}")
    for source in sources:
        text = Path(source).read_text()
        for start, end, new in mutations(text):
            yield from _result(source, text, text[:start] + new + text[end:], tests)
        Path(source).write_text(text)
        _compile([file for file in _core() if source in _dependencies(file)])


def mutations(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the changes of a source: replace the characters from a start to an end by a text."""
    for token in _TOKEN.finditer(text):
        new = _changed(token)
        if new is not None:
            yield *token.span(), new


def _changed(token: re.Match[str]) -> str | None:
    number = token["number"]
    if number is None:
        return _SWAPS.get(token["swap"] or "")
    if number.startswith("0x"):
        return hex(int(number, 16) + 1)
    return str(float(number) + 1) if "." in number else str(int(number) + 1)


def _result(source: str, text: str, mutated: str, tests: Sequence[str]) -> Iterator[Result]:
    Path(source).write_text(mutated)
    if _compile([file for file in _core() if source in _dependencies(file)]):
        lines = zip(text.splitlines(), mutated.splitlines(), strict=True)
        old, new = next((a.strip(), b.strip()) for a, b in lines if a != b)
        mutant = Mutant(file=source, old=old, new=new)
        yield Result(mutant=mutant, survived=_passes(tests))


def _core() -> list[Path]:
    return sorted(Path("csrc").glob("*.cc"))


@cache
def _dependencies(file: Path) -> str:
    return subprocess.run([*_COMPILE, "-MM", str(file)], capture_output=True, text=True, check=True).stdout


def _compile(files: Sequence[Path]) -> bool:
    """Compile these files and link the module; return whether that worked."""
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{pybind11.get_include()}"]
    commands = [
        [*_COMPILE, *includes, "-c", str(f), "-o", str(_OBJECTS / f"{f.parent.name}-{f.stem}.o")] for f in files
    ]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return all(pool.map(_succeeds, commands)) and _link()


def _link() -> bool:
    # Of several definitions of an inline function the linker takes the first: the core's.
    objects = [str(o) for part in ("csrc-*.o", "bindings-*.o") for o in sorted(_OBJECTS.glob(part))]
    Path(_MODULE).unlink(missing_ok=True)
    return _succeeds(["c++", "-shared", "-o", _MODULE, *objects, "-pthread"])


def _succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def _passes(tests: Sequence[str]) -> bool:
    child = os.fork()
    if child == 0:
        _test(tests)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _test(tests: Sequence[str]) -> None:
    """Run the tests and end this process, by a signal after too long a time."""
    code = 1
    try:
        signal.alarm(_SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1), os.dup2(nothing, 2)
        imported = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W", imported, *tests]))
    finally:
        os._exit(code)


if __name__ == "__main__":
    _split = sys.argv.index("--")
    for _found in results(sys.argv[1:_split], sys.argv[_split + 1 :]):
        print(json.dumps([asdict(_found.mutant), _found.survived]), flush=True)
