"""Statements: in-toto's form, back and forth, and strict reading."""

import hashlib
import json
import re

import pytest

from cxr_edge.errors import BundleError
from cxr_edge.signing.keys import PrivateKey
from cxr_edge.signing.statements import BundleRelease, EngineBuild, ReleaseKey, RevokedKeys, RootKey
from cxr_edge.specs.json_fields import FieldError

KEY = PrivateKey.new().public
ID = hashlib.sha256(b"").hexdigest()
EVERY = [
    BundleRelease(name="toy", version="1 ä", counter=3, files={"manifest.json": ID, "sub/a.onnx": "0" * 64}),
    ReleaseKey(key=KEY, name="Maker", from_counter=2, to_counter=9),
    ReleaseKey(key=KEY, name="Maker"),
    RevokedKeys(serial=2, keys=(ID, "1" * 64)),
    RootKey(version=2, key=KEY),
    EngineBuild(bundle_sha256=ID, backend="onnxruntime", files={"build.json": ID}),
]


@pytest.mark.parametrize("statement", EVERY)
def test_a_statement_reads_back(statement):
    assert type(statement).read(statement.payload()) == statement


def test_the_form_is_in_totos():
    assert json.loads(EVERY[0].payload()) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": "manifest.json", "digest": {"sha256": ID}},
            {"name": "sub/a.onnx", "digest": {"sha256": "0" * 64}},
        ],
        "predicateType": "cxr-edge:bundle-release/1",
        "predicate": {"name": "toy", "version": "1 ä", "counter": 3},
    }
    key = json.loads(EVERY[1].payload())
    assert key["subject"] == [{"name": "key", "digest": {"sha256": KEY.key_id}}]
    assert hashlib.sha256(bytes.fromhex(key["predicate"]["key"])).hexdigest() == KEY.key_id


@pytest.mark.parametrize("statement", EVERY)
@pytest.mark.parametrize("kind", [BundleRelease, ReleaseKey, RevokedKeys, RootKey, EngineBuild])
def test_one_kind_never_passes_for_another(statement, kind):
    if not isinstance(statement, kind):
        with pytest.raises(FieldError, match=f'predicateType must be {kind.PREDICATE_TYPE}, got "cxr-edge:'):
            kind.read(statement.payload())


def altered(statement, path, value):
    """Return the payload with the value at a path like `predicate.counter` replaced; None removes it."""
    document = json.loads(statement.payload())
    *steps, last = path.split(".")
    target = document
    for step in steps:
        target = target[int(step) if step.isdigit() else step]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("statement", "path", "value", "message"),
    [
        (EVERY[0], "_type", "https://in-toto.io/Statement/v0.1", "_type must be https://in-toto.io/Statement/v1"),
        (EVERY[0], "more", 1, "more is not a key of this format"),
        (EVERY[0], "subject", {}, "subject must be a list"),
        (EVERY[0], "subject.0.name", "", "subject[0].name must be a printable text"),
        (EVERY[0], "subject.1.name", "manifest.json", "subject must be a list of different names"),
        (EVERY[0], "subject.0.digest.sha256", "0" * 63, "subject[0].digest.sha256 must be 64 lower-case hexadecimal digits"),
        (EVERY[0], "subject.0.digest.sha256", "A" * 64, "must be 64 lower-case hexadecimal digits"),
        (EVERY[0], "subject.0.digest.md5", "0", "subject[0].digest.md5 is not a key of this format"),
        (EVERY[0], "subject.0.uri", "x", "subject[0].uri is not a key of this format"),
        (EVERY[0], "predicate.counter", -1, "predicate.counter must be a whole number, 0 or more"),
        (EVERY[0], "predicate.counter", True, "predicate.counter must be a whole number"),
        (EVERY[0], "predicate.version", None, "predicate.version is missing"),
        (EVERY[0], "predicate.name", 5, "predicate.name must be a printable text"),
        (EVERY[1], "predicate.key", "zz" * 32, "predicate.key must be 64 lower-case hexadecimal digits"),
        (EVERY[1], "predicate.key", "00" * 32, "predicate must be about the keys that are the statement's subjects"),
        (EVERY[1], "predicate.to_counter", 1, "predicate.to_counter must be a whole number, 2 or more"),
        (EVERY[3], "predicate.serial", 0, "predicate.serial must be a whole number, 1 or more"),
        (EVERY[4], "predicate.version", 1, "predicate.version must be a whole number, 2 or more"),
        (EVERY[5], "predicate.bundle_sha256", "x", "predicate.bundle_sha256 must be 64 lower-case"),
    ],
)  # fmt: skip
def test_malformed_statements(statement, path, value, message):
    with pytest.raises(BundleError, match=re.escape(message)):
        type(statement).read(altered(statement, path, value))


def test_counters_that_a_key_may_sign():
    limited, free = EVERY[1], EVERY[2]
    assert [limited.allows(n) for n in (1, 2, 9, 10)] == [False, True, True, False]
    assert free.allows(0)
    assert free.allows(10**9)
    assert (limited.counters(), free.counters()) == ("2 to 9", "from 0 on")
