"""A run on own data: its folder in, the runs of its members and of its left-out sites, and one training of either, out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from cxr_edge.cli.output import print_message
from cxr_edge.errors import InputError
from training.data.own.identities import SALT
from training.recipes.members import StarterRun
from training.recipes.own.configure import Tables, members_config, sites_config
from training.recipes.own.jobs import Job
from training.recipes.own.request import Request
from training.recipes.run import Run
from training.recipes.sites import SitesRun
from training.shared_files import atomic_write, write_text
from training.toml_tables import as_toml, check_keys, parse_table, read_toml

__all__ = ["CONFIG", "OwnRun", "Settings", "copy_salt"]

CONFIG = "config.toml"  # of a run folder

_HEAD = """# Written by cxr-edge train. This repeats the run with the same epochs and, with salt.bin beside it, the same split:
#   cxr-edge train --config config.toml --out ANOTHER-FOLDER
# [request] is what was requested; the other tables follow from it, from the data and from the speed of the machine.
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Contents of config.toml."""

    request: Request
    tables: Tables
    versions: Mapping[str, str]

    def write(self, file: Path) -> None:
        """Write the file; a killed process leaves no partial one."""
        sites = {} if self.tables.sites is None else {"sites": self.tables.sites}
        content = {
            "request": self.request.as_table(),
            "training": self.tables.training,
            **sites,
            "versions": self.versions,
        }
        write_text(file, f"{_HEAD}\n{as_toml(content)}")

    @classmethod
    def read(cls, file: Path) -> Settings:
        """Read a file that `write` wrote, or a person changed. Raises InputError for what cannot work."""
        values = read_toml(file)
        check_keys(values, _Content, str(file))
        if missing := sorted({"request", "training"} - set(values)):
            raise InputError(f"{file}: {', '.join(missing)} is missing: is it the config.toml of a cxr-edge train?")
        request = parse_table(Request, values["request"], f"{file}: request")
        tables = Tables(training=values["training"], sites=values.get("sites"))
        found = cls(request=request, tables=tables, versions=values.get("versions", {}))
        candidate = "" if tables.sites is None else next(iter(sites_config(tables, threads=1).variants))
        members_config(tables, candidate, threads=1)  # checks the values
        return found


@dataclass
class _Content:
    request: Any
    training: Any
    sites: Any
    versions: Any


def copy_salt(run: Path, out: Path) -> None:
    """Give a repeated run the salt of the first: the split orders patients by their pseudonyms."""
    if (out / SALT).exists():
        return
    if not (run / SALT).exists():
        print_message(
            f"note: {run} holds no {SALT} of the first run, so that patients are split in another way than there"
        )
        return
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / SALT) as beside:
        beside.touch(0o600)
        beside.write_bytes((run / SALT).read_bytes())


class OwnRun:
    """The runs of one folder. threads: of this process."""

    def __init__(self, tables: Tables, out: Path, *, threads: int) -> None:
        self.tables, self.out, self.threads = tables, out, threads

    def members(self, candidate: str) -> StarterRun:
        """Return the run of the members, with the settings of a candidate; empty without left-out sites."""
        run = StarterRun(members_config(self.tables, candidate, threads=self.threads), self.out, self.out)
        return _sharing(run, self.first)

    @cached_property
    def first(self) -> StarterRun:
        """The run with the settings of the first candidate, which has the same images and segmenter as the others."""
        names = [""] if self.tables.sites is None else list(self.tables.sites["variants"])
        return StarterRun(members_config(self.tables, names[0], threads=self.threads), self.out, self.out)

    @cached_property
    def sites(self) -> SitesRun:
        """The run of the left-out sites."""
        return _sharing(SitesRun(sites_config(self.tables, threads=self.threads), self.out, self.out), self.first)

    def train(self, job: Job) -> None:
        """Train the network of a job, unless its folder holds it."""
        if job.fold:
            self.sites.train(job.name, job.fold)
        else:
            self.members(job.candidate).train_member(job.name)


_Kind = TypeVar("_Kind", bound=Run)


def _sharing(run: _Kind, other: StarterRun) -> _Kind:
    """Let a run have the images and canvases of another one of the same folder."""
    run.__dict__.update({name: getattr(other, name) for name in ("samples", "canvases")})
    return run
