"""DSSE envelopes against the specification's own example, openssl, and every malformed form."""

import base64
import json
import re
import shutil
import subprocess

import pytest

from cxr_edge.signing.dsse import IN_TOTO, Envelope, pae
from cxr_edge.signing.keys import PrivateKey
from cxr_edge.specs.json_fields import FieldError

# protocol.md of github.com/secure-systems-lab/dsse, section Test Vectors.
TYPE, BODY = "http://example.com/HelloWorld", b"hello world"
PAE = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
X = 46950820868899156662930047687818585632848591499744589407958293238635476079160
Y = 5640078356564379163099075877009565129882514886557779369047442380624545832820
EXAMPLE = b"""{"payload": "aGVsbG8gd29ybGQ=",
 "payloadType": "http://example.com/HelloWorld",
 "signatures": [{"sig": "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="}]}"""


def test_the_encoding_is_the_specifications():
    assert pae(TYPE, BODY) == PAE
    assert pae("ä", b"") == b"DSSEv1 2 \xc3\xa4 0 "


def test_the_specifications_envelope_is_read_and_its_signature_holds_over_our_encoding():
    """It is ECDSA, which bundles are not signed with; the encoding under it is the same."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    envelope = Envelope.read(EXAMPLE)
    assert (envelope.payload, envelope.payload_type) == (BODY, TYPE)
    sig = envelope.signatures[0].sig
    der = utils.encode_dss_signature(int.from_bytes(sig[:32], "big"), int.from_bytes(sig[32:], "big"))
    key = ec.EllipticCurvePublicNumbers(X, Y, ec.SECP256R1()).public_key()
    key.verify(
        der, pae(envelope.payload_type, envelope.payload), ec.ECDSA(hashes.SHA256())
    )  # raises if it does not hold


def test_an_envelope_reads_back_and_names_its_signers():
    one, two, other = (PrivateKey.new() for _ in range(3))
    envelope = Envelope.read(Envelope.sign(b"payload", one, two).as_bytes())
    assert (envelope.payload, envelope.payload_type) == (b"payload", IN_TOTO)
    assert [s.key_id for s in envelope.signatures] == [one.key_id, two.key_id]
    assert envelope.signed_by(one.public)
    assert envelope.signed_by(two.public)
    assert not envelope.signed_by(other.public)


def test_the_payload_type_is_signed():
    key = PrivateKey.new()
    values = json.loads(Envelope.sign(b"payload", key).as_bytes())
    assert Envelope.read(json.dumps(values).encode()).signed_by(key.public)
    other = {**values, "payloadType": "application/other"}
    assert not Envelope.read(json.dumps(other).encode()).signed_by(key.public)


def test_url_safe_base64_and_a_missing_key_id_are_accepted():
    key = PrivateKey.new()
    payload = b"\xfb\xff\xfe" * 5
    signature = base64.urlsafe_b64encode(key.sign(pae(IN_TOTO, payload))).decode()
    text = {
        "payload": base64.urlsafe_b64encode(payload).decode(),
        "payloadType": IN_TOTO,
        "signatures": [{"sig": signature}],
    }
    assert "_" in text["payload"]
    envelope = Envelope.read(json.dumps(text).encode())
    assert envelope.payload == payload
    assert envelope.signed_by(key.public)


def test_a_key_id_is_only_a_hint():
    """Another key's id in front of a valid signature: the key is not tried. That key's id in front of a foreign one: it fails."""
    key, other = PrivateKey.new(), PrivateKey.new()
    values = json.loads(Envelope.sign(b"payload", key).as_bytes())
    values["signatures"][0]["keyid"] = other.key_id
    envelope = Envelope.read(json.dumps(values).encode())
    assert not envelope.signed_by(key.public)
    assert not envelope.signed_by(other.public)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"payload": "not base64!"}, "payload must be base64"),
        ({"payload": 7}, "payload must be base64, got 7"),
        ({"payload": "aGVsbG8"}, "payload must be base64"),
        ({"payload": "äöü="}, "payload must be base64"),
        ({"payloadType": ""}, 'payloadType must be a short text, got ""'),
        ({"payloadType": 1}, "payloadType must be a short text, got 1"),
        ({"payloadType": "a\x00b"}, "payloadType must be printable"),
        ({"signatures": []}, "signatures must be a list of 1 to 16, got 0"),
        ({"signatures": [{"sig": "AA=="}] * 17}, "signatures must be a list of 1 to 16, got 17"),
        ({"signatures": {}}, "signatures must be a list"),
        ({"signatures": [{"keyid": "a"}]}, "signatures[0].sig is missing"),
        ({"signatures": [{"sig": "AA==", "keyid": 1}]}, "signatures[0].keyid must be a short text"),
        ({"signatures": [{"sig": "AA==", "cert": ""}]}, "signatures[0].cert is not a key of this format"),
        ({"more": 1}, "more is not a key of this format"),
    ],
)
def test_malformed_envelopes(change, message):
    values = json.loads(EXAMPLE) | change
    with pytest.raises(FieldError, match=re.escape(message)):
        Envelope.read(json.dumps(values).encode())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{", b"\xff", b'{"payload": "", "payload": ""}', b"[" * 100_000]
)
def test_what_is_no_envelope(data):
    with pytest.raises(FieldError):
        Envelope.read(data)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl on the path")
def test_openssl_verifies_the_signature_of_a_bundle(maker, tmp_path):
    """With nothing of ours but the file: the specification's encoding is put together here by hand."""
    root = maker.signed()
    values = json.loads((root / "signatures" / f"{maker.key.key_id}.dsse.json").read_bytes())
    kind, body = values["payloadType"].encode(), base64.b64decode(values["payload"])
    (tmp_path / "data").write_bytes(b" ".join([b"DSSEv1", b"%d" % len(kind), kind, b"%d" % len(body), body]))
    (tmp_path / "sig").write_bytes(base64.b64decode(values["signatures"][0]["sig"]))
    (tmp_path / "key.pub").write_bytes(maker.key.public.pem())
    command = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        "key.pub",
        "-rawin",
        "-in",
        "data",
        "-sigfile",
        "sig",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Signature Verified Successfully" in done.stdout, done.stderr
