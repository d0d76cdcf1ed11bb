"""Evidence of screenings: results in, lines of the log out, each on the disk before `add` returns.

It is used as `with EvidenceLog("evidence", screener) as log: log.add(screener.screen_file("chest.dcm"))`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from cxr_edge.errors import InputError
from cxr_edge.evidence.describe import failure_record, run_record, screening_record
from cxr_edge.evidence.folder import open_folder
from cxr_edge.evidence.lines import Head
from cxr_edge.evidence.records import RunEndRecord
from cxr_edge.evidence.site_key import SiteKey
from cxr_edge.evidence.writer import ChainWriter, Signer, WriterSettings
from cxr_edge.records import Failure
from cxr_edge.screening.screener import FileResult, Screener

__all__ = ["SITE_KEY_FILE", "EvidenceLog"]

SITE_KEY_FILE = "site.key"  # in the log's folder, unless another is given


class EvidenceLog:
    """The log in a folder, which is created, for the results of one screener. Thread-safe; several processes may share the
    folder.

    key: file of the private key that signs checkpoints, one every `settings.checkpoint_every` lines and one at the end; None for
    none. site_key: file of the key that hashes names and UIDs, made if it is missing; None: `site.key` in the folder. names:
    store the names of inputs too. options: of the run, to be recorded beside the screener's.

    Raises InputError for a key that cannot be used, OutputError if the log cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        screener: Screener,
        *,
        key: str | os.PathLike[str] | None = None,
        site_key: str | os.PathLike[str] | None = None,
        names: bool = False,
        options: Mapping[str, Any] | None = None,
        settings: WriterSettings = WriterSettings(),  # noqa: B008  # frozen
    ) -> None:
        if not isinstance(screener, Screener):
            raise InputError(f"EvidenceLog takes the Screener of its results, found {type(screener).__name__}")
        path, signer = Path(folder), _signer(key)
        os.close(open_folder(path, create=True))
        self._site_key = SiteKey.read_or_make(path / SITE_KEY_FILE if site_key is None else Path(site_key))
        self._names = names
        run = run_record(
            screener, options=options or {}, site_key=self._site_key, signer="" if signer is None else signer.key_id
        )
        self._writer = ChainWriter(path, key=signer, run=run, settings=settings)
        self._mutex = threading.Lock()
        self._screenings = self._failures = 0
        self._closed = False

    @property
    def head(self) -> Head:
        """The last line that was written here: keep it elsewhere to show later that the log up to it is unchanged."""
        return self._writer.head

    def add(self, result: FileResult) -> Head:
        """Write the record of a result. Returns number and digest of its line, which is then on the disk."""
        if not isinstance(result, FileResult):
            raise InputError(
                f"add takes a FileResult, found {type(result).__name__}: pass what screen_file returns, or "
                "FileResult(outcome=screening, image=image)"
            )
        outcome, site_key, names = result.outcome, self._site_key, self._names
        if isinstance(outcome, Failure):
            head = self._writer.append(failure_record(result, outcome, site_key=site_key, names=names))
        else:
            head = self._writer.append(screening_record(result, outcome, site_key=site_key, names=names))
        with self._mutex:
            self._failures += isinstance(outcome, Failure)
            self._screenings += not isinstance(outcome, Failure)
        return head

    def close(self, *, complete: bool = True) -> None:
        """Write the end of the run and, with a key, a checkpoint. complete: False if the run ended early. May be called again."""
        if self._closed:
            return
        self._closed = True
        try:
            self._writer.append(RunEndRecord(screenings=self._screenings, failures=self._failures, complete=complete))
            self._writer.close()
        finally:
            self._writer.abandon()

    def __enter__(self) -> EvidenceLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(complete=kind is None)


def _signer(key: str | os.PathLike[str] | None) -> Signer | None:
    if key is None:
        return None
    from cxr_edge.signing.keys import PrivateKey  # whose package cryptography is an extra

    return PrivateKey.read(key)
