"""What both mutators give: a mutant, and whether a test found it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change of a source file. old, new: the changed lines without indentation, joined by spaces."""

    file: str
    old: str
    new: str

    @property
    def rewords(self) -> bool:
        """Whether only the wording or case of a sentence changed: tests quote the part of a message that matters."""
        same = self.old.lower() == self.new.lower().replace("xx", "")
        return same and re.search(r"\"[^\"]* [^\"]*\"", self.old) is not None


@dataclass(frozen=True, kw_only=True)
class Result:
    """survived: no test failed."""

    mutant: Mutant
    survived: bool
