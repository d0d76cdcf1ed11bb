"""The shell lines of docs/cli.md run and end with the status that they name."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
LINES = [re.fullmatch(r"(.*\S) +# (\d+)", line) for block in BLOCKS for line in block.splitlines()]

# In place of the installed command: it adds the toy bundle and its engines.
COMMAND = """#!/bin/sh
exec {python} -c 'import sys; from cxr_edge.cli import main; sys.exit(main())' "$@" {built}
"""


@pytest.fixture
def shell(built, images, tmp_path):
    """Return a function that runs a line of bash in a folder with X-rays."""
    images.rename(tmp_path / "xrays")
    command = tmp_path / "bin" / "cxr-edge"
    command.parent.mkdir()
    command.write_text(COMMAND.format(python=shlex.quote(sys.executable), built=shlex.join(built)))
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"}

    def run(line):
        command = ["bash", "-o", "pipefail", "-c", line]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_every_line_names_its_status():
    assert len(LINES) > 10
    assert all(LINES)


@pytest.mark.parametrize("line", [match.groups() for match in LINES if match], ids=lambda pair: pair[0][:60])
def test_the_line_ends_with_its_status(shell, line):
    command, status = line
    done = shell(command)
    assert done.returncode == int(status), done.stderr
    assert "Traceback" not in done.stderr
