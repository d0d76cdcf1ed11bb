"""Every Python block of the documentation runs: the blocks of a page are one program, in their order.

A page becomes a script in which all other lines are empty, so that a traceback names the page's own line. It runs in a process
of its own, with warnings as errors, in a folder with the files that the pages name: `chest.dcm`, `chest.png`, `xrays/`,
`my-bundle/`. A toy bundle with engines takes the place of the starter.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_edge import Bundle
from cxr_edge.compiler.build_bundle import build
from cxr_edge.engines import BuildSettings
from tests.builders.dicom_files import dataset, file_bytes
from tests.builders.toy_bundle import toy_images

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_OPTIONAL = ("torch", "PIL")
_SET_UP = "from cxr_edge.bundle import folder as f; f.PACKAGED = f.Path({bundle!r})"


def pages() -> list[str]:
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("training/**/*.md")]
    return sorted(f.relative_to(ROOT).as_posix() for f in files if _BLOCK.search(f.read_text(encoding="utf-8")))


def script(text: str) -> str:
    """Return a page with every line empty that is not Python."""
    lines = [""] * text.count("\n")
    for block in _BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1))
        code = block[1].splitlines()
        lines[first : first + len(code)] = code
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def files(toy_bundle, tmp_path_factory) -> Path:
    """Return a folder with the files that the pages name."""
    folder = tmp_path_factory.mktemp("pages")
    bundle = Bundle.open(shutil.copytree(toy_bundle, folder / "my-bundle"))
    build(bundle, BuildSettings(precision="fp32"))
    pictures = toy_images()
    (folder / "chest.dcm").write_bytes(file_bytes(dataset(pictures["known-coarse.png"] >> 4)))
    shutil.copy(toy_bundle / "known-smooth.png", folder / "chest.png")
    (folder / "xrays").mkdir()
    for name in ("chest.dcm", "chest.png"):
        shutil.copy(folder / name, folder / "xrays")
    return folder


def run(text: str, files: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    folder = Path(shutil.copytree(files, tmp_path / "page"))
    code = script(text).split("\n", 1)[1]  # the first line is the title
    (folder / "page.py").write_text(f"{_SET_UP.format(bundle=str(folder / 'my-bundle'))}\n{code}", encoding="utf-8")
    command = [sys.executable, "-W", "error", "page.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("page", pages())
def test_the_blocks_of_a_page_run(page, files, tmp_path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for package in _OPTIONAL:  # the lowest versions are tested without training's packages
        if re.search(rf"^(import|from) {package}\b", script(text), re.MULTILINE):
            pytest.importorskip(package)
    result = run(text, files, tmp_path)
    assert result.returncode == 0, f"{page}, with the page's line numbers:\n{result.stderr}"


def test_a_block_that_fails_is_named_by_its_line(files, tmp_path) -> None:
    text = "# Title\n\n```python\na = 1\n```\n\ntext\n\n```\nnot run\n```\n\n```python\n\nb = a / 0\n```\n"
    result = run(text, files, tmp_path)
    assert result.returncode == 1
    assert "line 15, in <module>\n    b = a / 0" in result.stderr


def test_pages_with_blocks_are_found() -> None:
    assert {"README.md", "docs/bundle-format.md", "docs/python.md"} <= set(pages())
