"""Signing: what is written, counters, certificates that travel with a bundle, and files that inspect does not call unlisted."""

import json

import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.manifest import MAX_COUNTER, MULTI_LABEL_SCHEMA, SCHEMA, Manifest
from cxr_edge.errors import BundleError, InputError, OutputError
from cxr_edge.signing.authority import certify
from cxr_edge.signing.dsse import Envelope
from cxr_edge.signing.keys import PrivateKey
from cxr_edge.signing.sign import sign_bundle, with_counter
from cxr_edge.signing.statements import BundleRelease, ReleaseKey
from cxr_edge.signing.verify import signing_key_ids


def test_a_signature_names_every_file(maker):
    bundle = Bundle.open(maker.make("toy"))
    signed = sign_bundle(bundle, maker.key)
    assert signed.file == bundle.root / "signatures" / f"{maker.key.key_id}.dsse.json"
    release = BundleRelease.read(Envelope.read(signed.file.read_bytes()).payload)
    on_disk = {p.relative_to(bundle.root).as_posix() for p in bundle.root.rglob("*") if p.is_file()}
    assert set(release.files) == on_disk - {f"signatures/{signed.file.name}"}
    assert signed.files == len(release.files)
    assert (release.name, release.version, release.counter) == ("toy", "1", 0)


def test_signatures_stand_side_by_side_and_are_not_unlisted(maker):
    bundle = Bundle.open(maker.make("toy"))
    other = PrivateKey.new()
    for key in (maker.key, other, maker.key):
        sign_bundle(bundle, key)
    (bundle.root / "signatures" / "note.txt").write_text("x")
    assert bundle.unlisted_files() == ("signatures/note.txt",)
    expected = {f"{key.key_id}.dsse.json": (key.key_id,) for key in (maker.key, other)}
    assert signing_key_ids(bundle) == expected
    (bundle.root / "signatures" / "z.dsse.json").write_text("{}")
    assert signing_key_ids(bundle)["z.dsse.json"] == ()


def test_a_counter_makes_another_bundle(maker):
    bundle = Bundle.open(maker.make("toy"))
    counted = with_counter(bundle, 5)
    assert counted.manifest.counter == 5
    assert counted.digest != bundle.digest
    assert json.loads((bundle.root / "manifest.json").read_text())["counter"] == 5
    assert with_counter(counted, 5) is counted
    with pytest.raises(InputError, match="has counter 5, a lower one was given: counters only grow"):
        with_counter(counted, 4)


def test_the_manifests_key(toy_bundle):
    document = json.loads((toy_bundle / "manifest.json").read_text())
    assert document["schema"] == SCHEMA
    assert "counter" not in document
    manifest = Manifest.from_json(document)
    assert manifest.counter == 0
    assert manifest.as_json() == document
    counted = {**document, "schema": MULTI_LABEL_SCHEMA, "counter": 9}
    assert Manifest.from_json(counted).as_json()["counter"] == 9
    assert Manifest.from_json(counted).as_json()["schema"] == MULTI_LABEL_SCHEMA
    for value in (-1, 1.0, True, "1", None, MAX_COUNTER + 1):
        with pytest.raises(BundleError, match=r"manifest\.json: counter must be"):
            Manifest.from_json({**counted, "counter": value})
    with pytest.raises(BundleError, match="counter is a key of cxr-edge-bundle/2, and the schema is cxr-edge-bundle/1"):
        Manifest.from_json({**counted, "schema": SCHEMA})


def test_a_certificate_of_another_key_or_for_other_counters(maker, tmp_path):
    bundle = Bundle.open(maker.make("toy"))
    other = PrivateKey.new()
    certificate = certify(maker.keys, maker.root, ReleaseKey(key=other.public, name="x", from_counter=2))
    with pytest.raises(
        InputError, match=f"is the certificate of key {other.key_id}, the bundle is signed with {maker.key.key_id}"
    ):
        sign_bundle(bundle, maker.key, certificate=certificate)
    with pytest.raises(InputError, match="the key may sign counters from 2 on, and the bundle has 0"):
        sign_bundle(bundle, other, certificate=certificate)
    (tmp_path / "text").write_text("{}")
    with pytest.raises(InputError, match="text is no certificate of a key: payload is missing"):
        sign_bundle(bundle, maker.key, certificate=tmp_path / "text")
    assert bundle.signature_files() == bundle.certificate_files() == ()


def test_a_folder_that_cannot_be_written(maker):
    bundle = Bundle.open(maker.make("toy"))
    (bundle.root / "signatures").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        sign_bundle(bundle, maker.key)


def test_names_of_the_package():
    import cxr_edge.signing

    for name in cxr_edge.signing.__all__:
        assert getattr(cxr_edge.signing, name).__name__ == name
    with pytest.raises(AttributeError, match=r"module 'cxr_edge\.signing' has no attribute 'nonsense'"):
        cxr_edge.signing.nonsense  # noqa: B018
