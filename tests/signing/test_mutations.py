"""Whatever is changed in a signed bundle, its signature or the trusted keys, it is refused with a sentence, or means the same."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr_edge.bundle import Bundle
from cxr_edge.errors import BundleError, CxrEdgeError
from cxr_edge.signing.dsse import IN_TOTO, Envelope, Signature
from cxr_edge.signing.engine_files import check_engine_files, sign_engine_files
from cxr_edge.signing.state import BoxState
from cxr_edge.signing.statements import BundleRelease, ReleaseKey, RevokedKeys, RootKey
from cxr_edge.signing.verify import Verified
from cxr_edge.specs.json_fields import FieldError

SAME = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def signed(maker):
    """Return the maker, the bundle and its signature file."""
    root = maker.signed()
    return maker, root, root / "signatures" / f"{maker.key.key_id}.dsse.json"


def mutated(data: bytes, position: int, byte: int, how: str) -> bytes:
    """Return the data with a byte changed, removed or added, or cut."""
    at = position % len(data)
    head, tail = data[:at], data[at + 1 :]
    return {
        "change": head + bytes([byte]) + tail,
        "remove": head + tail,
        "add": head + bytes([byte]) + data[at:],
        "cut": head,
    }[how]


MUTATION = (st.integers(0, 10**6), st.integers(0, 255), st.sampled_from(["change", "remove", "add", "cut"]))


def verified_or_message(maker: Any, root: Path) -> Verified | str:
    """Return who signed the bundle, or why it is refused. Any other exception fails the test."""
    try:
        return maker.verify(root, record=False)
    except CxrEdgeError as error:
        return str(error)


@SAME
@given(*MUTATION)
def test_a_mutated_signature_file(signed, position, byte, how):
    maker, root, file = signed
    original = file.read_bytes()
    changed = mutated(original, position, byte, how)
    try:
        file.write_bytes(changed)
        outcome = verified_or_message(maker, root)
        if isinstance(outcome, str):
            assert "is not accepted" in outcome
        else:  # blanks, a key id that is missing, base64 of the same bytes
            before, after = Envelope.read(original), Envelope.read(changed)
            assert (after.payload, after.payload_type) == (before.payload, before.payload_type)
            assert outcome.key_id == maker.key.key_id
    finally:
        file.write_bytes(original)


@SAME
@given(st.sampled_from(["manifest.json", "plain.onnx", "known-fine.png"]), *MUTATION)
def test_a_mutated_file_of_the_bundle(signed, name, position, byte, how):
    maker, root, _ = signed
    original = (root / name).read_bytes()
    changed = mutated(original, position, byte, how)
    try:
        (root / name).write_bytes(changed)
        if changed == original:
            return
        with pytest.raises(CxrEdgeError):
            maker.verify(root, record=False)
    finally:
        (root / name).write_bytes(original)


@SAME
@given(st.sampled_from(["revoked.json", "release/KEY.json", "root/2.json"]), *MUTATION)
def test_mutated_trusted_keys(maker, name, position, byte, how):
    from cxr_edge.signing.authority import revoke, rotate_root
    from cxr_edge.signing.keys import PrivateKey

    if not (maker.state / "ready").exists():
        revoke(maker.keys, maker.root, ["0" * 64])
        rotate_root(maker.keys, maker.root, PrivateKey.new())
        maker.verify(maker.signed())
        (maker.state / "ready").touch()
    file = maker.keys / name.replace("KEY", maker.key.key_id)
    original = file.read_bytes()
    try:
        file.write_bytes(mutated(original, position, byte, how))
        outcome = verified_or_message(maker, maker.keys.parent / "toy")
        assert isinstance(outcome, str) or (outcome.root_version, outcome.key_name) == (2, "Test maker")
    finally:
        file.write_bytes(original)


@settings(max_examples=30)
@given(JSON, st.sampled_from([BundleRelease, ReleaseKey, RevokedKeys, RootKey]))
def test_any_json_under_a_valid_signature_is_read_or_refused(value, kind):
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [],
        "predicateType": kind.PREDICATE_TYPE,
        "predicate": value,
    }
    for document in (value, statement, {**statement, "subject": value}):
        with suppress(FieldError):
            kind.read(json.dumps(document).encode())


@given(JSON)
def test_any_json_is_an_envelope_or_refused(value):
    for document in (value, {"payload": value, "payloadType": value, "signatures": value}):
        with suppress(FieldError):
            Envelope.read(json.dumps(document).encode())


@given(st.binary(max_size=200))
def test_any_bytes_under_any_signature_are_refused(maker_key, data):
    envelope = Envelope(payload_type=IN_TOTO, payload=data, signatures=(Signature(key_id="", sig=data[:64]),))
    assert not Envelope.read(envelope.as_bytes()).signed_by(maker_key)


@pytest.fixture(scope="module")
def maker_key():
    from cxr_edge.signing.keys import PrivateKey

    return PrivateKey.new().public


def test_mutations_find_what_they_should(signed):
    """The helper changes something in each way."""
    _, root, _ = signed
    data = Path(root, "manifest.json").read_bytes()
    assert len(mutated(data, 7, 0, "remove")) == len(data) - 1
    assert len(mutated(data, 7, 0, "add")) == len(data) + 1
    assert mutated(data, 7, 0, "change")[7] == 0
    assert mutated(data, 7, 0, "cut") == data[:7]
    assert Bundle.open(root).manifest.counter == 1


@SAME
@given(st.sampled_from(["box-signature.json", "build.json", "a.onnx"]), *MUTATION)
def test_mutated_engines(tmp_path, name, position, byte, how):
    folder, box = tmp_path / "engines", BoxState(tmp_path / "box")
    key = box.box_key()
    if not folder.exists():
        folder.mkdir()
        files = {"build.json": folder / "build.json", "a.onnx": folder / "a.onnx"}
        for file in files.values():
            file.write_bytes(file.name.encode() * 9)
        signature = sign_engine_files(files, key, bundle_sha256="0" * 64, backend="onnxruntime")
        (folder / "box-signature.json").write_bytes(signature)
    check_engine_files(folder, key.public, backend="onnxruntime")
    original = (folder / name).read_bytes()
    changed = mutated(original, position, byte, how)
    try:
        (folder / name).write_bytes(changed)
        with suppress(BundleError):
            check_engine_files(folder, key.public, backend="onnxruntime")
            assert changed == original or Envelope.read(changed).payload == Envelope.read(original).payload
    finally:
        (folder / name).write_bytes(original)
