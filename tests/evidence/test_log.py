"""Evidence of screenings of a toy bundle: what is recorded, exactly, and what is not."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import cxr_edge
from cxr_edge.bundle import Bundle
from cxr_edge.digests import sha256_file
from cxr_edge.engines import reference
from cxr_edge.errors import InputError
from cxr_edge.evidence import EvidenceLog, WriterSettings, describe, verify
from cxr_edge.evidence.lines import Line
from cxr_edge.evidence.records import (
    FailureRecord,
    RunEndRecord,
    RunRecord,
    ScreeningRecord,
    read_record,
)
from cxr_edge.evidence.site_key import SiteKey
from cxr_edge.records import Failure
from cxr_edge.screening.screener import FileResult, Screener
from tests.builders.dicom_files import PATIENT, dataset, file_bytes, xray_pixels
from tests.evidence.conftest import lines


@pytest.fixture(scope="module")
def screener(toy_bundle):
    bundle = Bundle.open(toy_bundle)
    return Screener(bundle, reference(bundle), answer_all=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """A PNG and a DICOM file with a patient's name in name and header, and a broken file."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 255, (120, 150), dtype=np.uint8)
    cv2.imwrite(str(folder / "Smith_Jane.png"), cv2.GaussianBlur(pixels, (0, 0), 9))
    data = file_bytes(dataset(xray_pixels(rows=120, columns=150), SOPInstanceUID="1.2.840.99.7"))
    (folder / "Smith_Jane.dcm").write_bytes(data)
    (folder / "Smith_Jane broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return [folder / "Smith_Jane.png", folder / "Smith_Jane.dcm", folder / "Smith_Jane broken.png"]


@pytest.fixture(scope="module")
def results(screener, files) -> list[FileResult]:
    return [screener.screen_file(file) for file in files]


@pytest.fixture
def log(tmp_path, screener, results) -> Path:
    with EvidenceLog(tmp_path / "log", screener, options={"workers": 2}) as opened:
        for result in results:
            opened.add(result)
    return tmp_path / "log"


def records(log):
    return [read_record(Line.decode(line)) for line in lines(log)]


def test_a_screening_is_recorded_to_the_last_bit(log, results, files):
    (record,) = [r for r in records(log) if isinstance(r, ScreeningRecord)][:1]
    screening = results[0].outcome
    assert record.probabilities == screening.probabilities
    assert record.members == {m.member: m.probabilities for m in screening.members}
    assert np.float32(record.probabilities[0]).tobytes() == np.float32(screening.probabilities[0]).tobytes()
    assert record.roi == screening.roi.as_tuple()
    assert (record.outcome, record.decision, record.forced_decision) == ("answered", *[screening.forced_decision] * 2)
    assert record.flags == tuple(f.code for f in screening.flags)
    assert record.input.sha256 == sha256_file(files[0])
    assert (record.input.format, record.input.width_px, record.input.height_px) == ("png", 150, 120)
    assert set(record.times_ms) == set(screening.times.by_stage())
    assert record.dropped is None


def test_the_run_says_what_screened(log, screener):
    record = next(r for r in records(log) if isinstance(r, RunRecord))
    assert record.bundle.sha256 == screener.bundle.digest
    assert record.labels == screener.manifest.labels
    assert record.operating_point == screener.operating_point.digest()
    assert [(e.part, e.precision, e.sha256) for e in record.engines] == [
        (part, "fp32", digest) for part, digest in zip(screener.engines.parts, screener.engines.digests, strict=True)
    ]
    assert record.options == {"threads": 1, "answer_all": True, "population": None, "workers": 2}
    software = record.software
    assert software.cxr_edge == cxr_edge.__version__
    assert software.core_sha256 == sha256_file(Path(cxr_edge._core.__file__))
    assert software.libraries["numpy"].version == np.__version__
    assert len(software.libraries["onnxruntime"].sha256) == 64
    assert record.machine.processor


def test_the_code_has_another_digest_after_a_change(tmp_path):
    (tmp_path / "a.py").write_text("a = 1")
    first = describe._code_digest(tmp_path)
    (tmp_path / "a.py").write_text("a = 2")
    assert describe._code_digest(tmp_path) != first


def test_every_line_of_a_screening_names_its_run(log):
    found = [Line.decode(line) for line in lines(log)]
    run = next(line.number for line in found if line.kind == "run")
    assert [line.run for line in found if line.kind in ("screening", "failure", "end")] == [run] * 4
    assert isinstance(records(log)[-1], RunEndRecord)
    assert records(log)[-1] == RunEndRecord(screenings=2, failures=1, complete=True)


def test_no_name_and_no_uid_is_in_the_log(log):
    text = b"".join(lines(log)).decode()
    assert "Smith" not in text
    assert "1.2.840" not in text
    assert PATIENT.split("^")[0] not in text


def test_names_and_uids_are_found_by_their_hashes(log, files):
    key = SiteKey.read(log / "site.key")
    inputs = [r.input for r in records(log) if isinstance(r, ScreeningRecord | FailureRecord)]
    assert [i.name for i in inputs] == [key.hash_name(str(file)) for file in files]
    assert [i.uid for i in inputs] == [None, key.hash_uid("1.2.840.99.7"), None]
    assert all(i.source is None for i in inputs)


def test_names_are_stored_on_request(tmp_path, screener, results, files):
    with EvidenceLog(tmp_path / "log", screener, names=True, site_key=tmp_path / "key") as log:
        log.add(results[0])
    assert not (tmp_path / "log" / "site.key").exists()
    record = next(r for r in records(tmp_path / "log") if isinstance(r, ScreeningRecord))
    assert record.input.source == str(files[0])


def test_a_failure_has_the_digest_of_its_bytes_and_a_reason_without_its_name(log, files):
    (record,) = [r for r in records(log) if isinstance(r, FailureRecord)]
    assert record.input.sha256 == sha256_file(files[2])
    assert record.error.startswith("the file ends before the end of its image")
    key = SiteKey(secret=bytes(32))
    failure = Failure(source="a/Smith.dcm", reason="a/Smith.dcm is none, Smith.dcm")
    found = describe.failure_record(FileResult(outcome=failure), failure, site_key=key, names=False)
    assert found.error == "... is none, ..."


@dataclass(frozen=True)
class _Dropped:
    member: str
    reason: str


@dataclass(frozen=True)
class _Degraded:
    dropped: tuple[_Dropped, ...]


def test_members_that_did_not_answer_are_recorded(results):
    screening = results[0].outcome
    object.__setattr__(degraded := replace(screening), "degraded", _Degraded(dropped=(_Dropped("plain", "too late"),)))
    record = describe.screening_record(results[0], degraded, site_key=SiteKey(secret=bytes(32)), names=False)
    assert [(d.member, d.reason) for d in record.dropped] == [("plain", "too late")]
    assert ScreeningRecord.from_json(json.loads(json.dumps(record.as_json()))) == record


def test_numbers_that_are_not_finite_are_recorded(results):
    screening = replace(results[0].outcome, probabilities=(float("nan"), float("inf"), -float("inf"), -0.0))
    record = describe.screening_record(results[0], screening, site_key=SiteKey(secret=bytes(32)), names=False)
    again = ScreeningRecord.from_json(json.loads(json.dumps(record.as_json(), allow_nan=False)))
    assert repr(again.probabilities) == "(nan, inf, -inf, -0.0)"


def test_a_run_that_an_error_ends_says_so(tmp_path, screener, results):
    def interrupted():
        with EvidenceLog(tmp_path, screener) as log:
            log.add(results[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert records(tmp_path)[-1] == RunEndRecord(screenings=1, failures=0, complete=False)
    assert verify(tmp_path).intact


def test_a_key_signs_checkpoints(tmp_path, screener, results):
    keys = pytest.importorskip("cxr_edge.signing.keys")
    pytest.importorskip("cryptography")
    private = keys.PrivateKey.new()
    private.write(tmp_path / "log.pem")
    settings = WriterSettings(checkpoint_every=2)
    with EvidenceLog(tmp_path / "log", screener, key=tmp_path / "log.pem", settings=settings) as log:
        for result in results:
            log.add(result)
        head = log.head
    found = verify(tmp_path / "log", keys=[private.public], expected=[head])
    assert found.intact
    assert found.checkpoints == 2
    assert found.signed_by == (private.key_id,)
    assert next(r for r in records(tmp_path / "log") if isinstance(r, RunRecord)).signer == private.key_id
    other = keys.PrivateKey.new().public
    assert verify(tmp_path / "log", keys=[other]).problem.damage == "signature"


def test_a_log_may_be_closed_twice(tmp_path, screener):
    log = EvidenceLog(tmp_path, screener)
    log.close()
    count = len(lines(tmp_path))
    log.close()
    assert len(lines(tmp_path)) == count


def test_other_things_than_results(tmp_path, screener, results):
    with pytest.raises(InputError, match="EvidenceLog takes the Screener of its results, found str"):
        EvidenceLog(tmp_path, "screener")
    with (
        EvidenceLog(tmp_path, screener) as log,
        pytest.raises(InputError, match="add takes a FileResult, found Screening"),
    ):
        log.add(results[0].outcome)


def test_a_record_of_a_later_version_is_named():
    line = Line(number=4, previous="0" * 64, time="2026-01-01T00:00:00.000Z", kind="end", run=1, record={"later": 1})
    with pytest.raises(InputError, match=r"line 4 of the evidence log cannot be read \(record.later is not a key"):
        read_record(line)
