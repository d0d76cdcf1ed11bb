"""Print what pip is to install for the Python that runs this, one argument a line, given the path of pyproject.toml.

Run by the arm64 Python, so that the tags of the wheels are its own: its version, and glibc up to that of its C library.
"""

import os
import sys
from pathlib import Path

import tomllib

GLIBC_OF_MANYLINUX2014 = 17

project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
tests = [r for r in project["optional-dependencies"]["dev"] if r.startswith(("pytest", "hypothesis"))]
glibc = int(os.confstr("CS_GNU_LIBC_VERSION").rpartition(".")[2])
print(
    "--only-binary=:all:",
    "--implementation=cp",
    f"--python-version={sys.version_info.major}.{sys.version_info.minor}",
    "--platform=manylinux2014_aarch64",
    *(f"--platform=manylinux_2_{minor}_aarch64" for minor in range(GLIBC_OF_MANYLINUX2014, glibc + 1)),
    *project["dependencies"],
    *tests,
    sep="\n",
)
