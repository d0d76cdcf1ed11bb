"""Attacks on a box that requires signatures, one test each: docs/security.md lists them, and a test holds its list complete.

The attacker may change everything in the bundle's folder, the engines and, where the test says so, the trusted keys. Each attack
ends in an error that names what was found.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from cxr_edge import engines
from cxr_edge.bundle import Bundle, file_ref, write_bundle
from cxr_edge.compiler.build_bundle import build
from cxr_edge.digests import sha256_file
from cxr_edge.engines import BuildSettings
from cxr_edge.errors import BundleError, EngineError, InputError
from cxr_edge.signing.authority import certify, revoke, rotate_root
from cxr_edge.signing.box import Box
from cxr_edge.signing.dsse import Envelope
from cxr_edge.signing.engine_files import ENGINE_SIGNATURE
from cxr_edge.signing.keys import PrivateKey
from cxr_edge.signing.sign import sign_bundle, with_counter
from cxr_edge.signing.statements import BundleRelease, ReleaseKey, RevokedKeys, RootKey
from cxr_edge.signing.verify import bundle_files

FILES = ["plain.onnx", "segmenter.onnx", "known-fine.png", "gate.set", "model-card.md"]


def refused(maker, root, message, **options):
    """Check that the bundle is refused with this message, and that the box has recorded nothing of it."""
    before = (maker.state / "seen.json").read_bytes() if (maker.state / "seen.json").exists() else b""
    with pytest.raises(BundleError, match=message) as error:
        maker.verify(root, **options)
    after = (maker.state / "seen.json").read_bytes() if (maker.state / "seen.json").exists() else b""
    assert after == before
    return str(error.value)


def signature(root: Path) -> Path:
    (file,) = (root / "signatures").glob("*.dsse.json")
    return file


def rewrite_manifest(root: Path, **changes: object) -> None:
    """Change keys of the manifest, as who knows the format would."""
    values = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    (root / "manifest.json").write_text(json.dumps({**values, **changes}), encoding="utf-8")


def test_an_honest_bundle_is_accepted(maker):
    verified = maker.verify(maker.signed(counter=4))
    assert (verified.key_name, verified.key_id, verified.counter) == ("Test maker", maker.key.key_id, 4)
    assert (verified.root, verified.root_version, verified.highest_seen) == (maker.root.key_id, 1, 4)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_replaced(maker, name):
    root = maker.signed()
    (root / name).write_bytes((root / name).read_bytes() + b"\n")
    refused(maker, root, f"{name} in .* was altered: manifest.json .* expects SHA-256")


@pytest.mark.parametrize("name", FILES)
def test_a_file_and_its_digest_in_the_manifest_are_replaced(maker, name):
    root = maker.signed()
    before = sha256_file(root / name)
    (root / name).write_bytes((root / name).read_bytes() + b"\n")
    text = (root / "manifest.json").read_text(encoding="utf-8")
    assert before in text
    (root / "manifest.json").write_text(text.replace(before, sha256_file(root / name)), encoding="utf-8")
    message = refused(maker, root, "is of other files: of manifest.json it has SHA-256")
    assert message.endswith("get the bundle again from its maker, with its signature")


def test_a_threshold_in_the_manifest_is_changed(maker):
    root = maker.signed()
    rewrite_manifest(root, decision={"thresholds": {"covid-19": 0.99}, "uncertain_below": 0.5})
    refused(maker, root, "is of other files: of manifest.json")


def test_the_signature_is_removed(maker):
    root = maker.signed()
    signature(root).unlink()
    refused(maker, root, rf"has no signature, expected one by a key that root {maker.root.key_id[:12]}\.\.\. trusts")


def test_the_signature_is_of_another_bundle(maker):
    root, other = maker.signed(), maker.signed("other", version="2")
    shutil.copy(signature(other), signature(root))
    refused(maker, root, "is of another bundle: of toy 2, this is toy 1")


def test_the_signature_is_of_another_build_of_the_same_version(maker):
    root, other = maker.signed(), maker.signed("other", intended_use="Other tests.")
    shutil.copy(signature(other), signature(root))
    refused(maker, root, "is of other files: of manifest.json it has SHA-256 .*, the bundle")


def test_the_statement_is_changed_under_its_signature(maker):
    root = maker.signed()
    rewrite_manifest(root, intended_use="Anything.")
    envelope = Envelope.read(signature(root).read_bytes())
    bundle = Bundle.open(root)
    forged = BundleRelease(name="toy", version="1", counter=1, files=bundle_files(bundle))
    values = json.loads(Envelope.sign(forged.payload(), PrivateKey.new()).as_bytes())
    values["signatures"] = json.loads(signature(root).read_bytes())["signatures"]
    signature(root).write_text(json.dumps(values))
    assert Envelope.read(signature(root).read_bytes()).signatures == envelope.signatures
    refused(maker, root, "does not match its statement: one of them was altered, or belongs to another bundle")


def test_the_key_is_not_trusted(maker):
    other = PrivateKey.new()
    root = maker.signed(key=other)
    refused(
        maker, root, rf"is by key {other.key_id[:12]}\.\.\., which is not trusted; trusted: {maker.key.key_id[:12]}"
    )


def test_the_key_of_an_attacker_under_the_id_of_a_trusted_one(maker):
    root = maker.signed(key=PrivateKey.new())
    values = json.loads(signature(root).read_bytes())
    values["signatures"][0]["keyid"] = maker.key.key_id
    signature(root).write_text(json.dumps(values))
    refused(maker, root, "does not match its statement")


def test_the_key_is_revoked(maker):
    root = maker.signed()
    revoke(maker.keys, maker.root, [maker.key.key_id])
    refused(maker, root, rf"is by key {maker.key.key_id[:12]}\.\.\., which is revoked \(list 1 of the root's\)")


def test_a_revoked_key_without_its_certificate(maker):
    root = maker.signed()
    revoke(maker.keys, maker.root, [maker.key.key_id])
    shutil.rmtree(maker.keys / "release")
    refused(maker, root, "which is revoked")


def test_a_revoked_key_beside_a_valid_one(maker):
    """The bundle was signed by two makers, of whom one is still trusted: it is accepted for that one."""
    second = PrivateKey.new()
    certify(maker.keys, maker.root, ReleaseKey(key=second.public, name="Second"))
    root = maker.signed()
    sign_bundle(Bundle.open(root), second)
    revoke(maker.keys, maker.root, [maker.key.key_id])
    assert maker.verify(root).key_name == "Second"


def test_an_older_list_of_revoked_keys(maker):
    revoke(maker.keys, maker.root, ["0" * 64])
    older = (maker.keys / "revoked.json").read_bytes()
    revoke(maker.keys, maker.root, ["1" * 64])
    maker.verify(maker.signed())
    (maker.keys / "revoked.json").write_bytes(older)
    refused(maker, maker.signed("again"), "list of revoked keys in .* is older .*: expected serial 2 or more, it has 1")


def test_the_list_of_revoked_keys_is_removed(maker):
    revoke(maker.keys, maker.root, ["0" * 64])
    maker.verify(maker.signed())
    (maker.keys / "revoked.json").unlink()
    refused(maker, maker.signed("again"), "or missing: expected serial 1 or more, it has 0")


def test_a_forged_list_of_revoked_keys(maker):
    statement = RevokedKeys(serial=99, keys=(maker.key.key_id,))
    (maker.keys / "revoked.json").write_bytes(Envelope.sign(statement.payload(), PrivateKey.new()).as_bytes())
    refused(maker, maker.signed(), r"revoked\.json is not signed by the root key .*: copy the whole folder")


def test_a_forged_certificate_in_the_trusted_keys(maker):
    attacker = PrivateKey.new()
    forged = ReleaseKey(key=attacker.public, name="Test maker")
    file = maker.keys / "release" / f"{attacker.key_id}.json"
    file.write_bytes(Envelope.sign(forged.payload(), attacker).as_bytes())
    root = maker.signed(key=attacker)
    message = refused(maker, root, "which is not trusted")
    assert re.search(rf"{attacker.key_id}\.json is not signed by the root key {maker.root.key_id[:12]}", message)


def test_a_forged_certificate_that_travels_with_the_bundle(maker):
    attacker = PrivateKey.new()
    root = maker.signed(key=attacker)
    forged = Envelope.sign(ReleaseKey(key=attacker.public, name="Test maker").payload(), attacker)
    (root / "signatures" / f"{attacker.key_id}.certificate.json").write_bytes(forged.as_bytes())
    refused(maker, root, "which is not trusted.*certificate.json is not signed by the root key")


def test_a_wider_certificate_of_before_travels_with_the_bundle(maker):
    """The root has limited the key since; the box's own copy of the certificate counts."""
    wide = (maker.keys / "release" / f"{maker.key.key_id}.json").read_bytes()
    certify(maker.keys, maker.root, ReleaseKey(key=maker.key.public, name="Test maker", to_counter=5))
    root = maker.signed(counter=6)
    (root / "signatures" / f"{maker.key.key_id}.certificate.json").write_bytes(wide)
    refused(maker, root, r"may sign counters 0 to 5, and the bundle has 6")


def test_a_stolen_release_key_signs_a_counter_that_is_not_its_own(maker):
    certify(maker.keys, maker.root, ReleaseKey(key=maker.key.public, name="Test maker", from_counter=2, to_counter=5))
    refused(maker, maker.signed(counter=6), r"\(Test maker\), which may sign counters 2 to 5, and the bundle has 6")
    refused(maker, maker.signed("older", counter=1), "which may sign counters 2 to 5, and the bundle has 1")


def test_a_release_key_certifies_another_key(maker):
    """Only the root may."""
    attacker = PrivateKey.new()
    root = maker.signed(key=attacker)
    made = Envelope.sign(ReleaseKey(key=attacker.public, name="x").payload(), maker.key)
    (root / "signatures" / f"{attacker.key_id}.certificate.json").write_bytes(made.as_bytes())
    refused(maker, root, "which is not trusted")


def test_a_certificate_in_place_of_a_signature(maker):
    """A statement of the root's about a key is no statement about a bundle, whoever signed it."""
    root = maker.signed()
    shutil.copy(maker.keys / "release" / f"{maker.key.key_id}.json", signature(root))
    refused(maker, root, "which is not trusted")
    own = Envelope.sign(ReleaseKey(key=maker.key.public, name="x").payload(), maker.key)
    signature(root).write_bytes(own.as_bytes())
    refused(maker, root, "predicateType must be cxr-edge:bundle-release/1")


def test_a_payload_of_another_type(maker):
    root = maker.signed()
    payload = Envelope.read(signature(root).read_bytes()).payload
    signature(root).write_bytes(Envelope.sign(payload, maker.key, payload_type="application/json").as_bytes())
    refused(maker, root, "has the payload type application/json, expected application/vnd.in-toto")


def test_a_statement_that_leaves_a_file_out(maker):
    root = maker.signed()
    bundle = Bundle.open(root)
    files = {name: digest for name, digest in bundle_files(bundle).items() if name != "plain.onnx"}
    short = BundleRelease(name="toy", version="1", counter=1, files=files)
    signature(root).write_bytes(Envelope.sign(short.payload(), maker.key).as_bytes())
    refused(maker, root, "is of other files: of plain.onnx it has SHA-256 none, the bundle")


def test_a_statement_with_another_counter_than_the_manifest(maker):
    root = maker.signed(counter=1)
    other = BundleRelease(name="toy", version="1", counter=9, files=bundle_files(Bundle.open(root)))
    signature(root).write_bytes(Envelope.sign(other.payload(), maker.key).as_bytes())
    refused(maker, root, "has counter 9, the manifest 1")


def test_an_older_version(maker):
    older = maker.signed("older", counter=3)
    maker.verify(maker.signed("newer", counter=7, version="2"))
    message = refused(maker, older, "older than what this box has seen: expected counter 7 or more, it has 3")
    assert "`cxr-edge verify BUNDLE --allow-rollback`, which is logged" in message


def test_an_older_version_with_a_new_counter_in_its_manifest(maker):
    older = maker.signed("older", counter=3)
    maker.verify(maker.signed("newer", counter=7, version="2"))
    with_counter(Bundle.open(older), 8)
    refused(maker, older, "is of other files: of manifest.json")


def test_an_older_root_key(maker):
    before = Path(shutil.copytree(maker.keys, maker.keys.with_name("before")))
    rotate_root(maker.keys, maker.root, PrivateKey.new())
    maker.verify(maker.signed())
    shutil.rmtree(maker.keys)
    before.rename(maker.keys)
    refused(maker, maker.signed("again"), "the root key in .* is older .*: expected version 2 or more, it has 1")


def test_a_stolen_old_root_key_names_another_successor(maker):
    """The box has seen the true one."""
    before = Path(shutil.copytree(maker.keys, maker.keys.with_name("before")))
    rotate_root(maker.keys, maker.root, PrivateKey.new())
    maker.verify(maker.signed())
    attackers = PrivateKey.new()
    rotate_root(before, maker.root, attackers)
    shutil.rmtree(maker.keys)
    before.rename(maker.keys)
    message = refused(maker, maker.signed("again"), f"root 2 in .* is key {attackers.key_id[:12]}")
    assert "one of them is forged" in message


def test_a_forged_root_key(maker):
    attacker = PrivateKey.new()
    forged = RootKey(version=2, key=attacker.public)
    (maker.keys / "root").mkdir()
    (maker.keys / "root" / "2.json").write_bytes(Envelope.sign(forged.payload(), attacker).as_bytes())
    refused(maker, maker.signed(), r"2\.json is not signed by the root key")


def test_a_root_key_without_its_own_signature(maker):
    """Nobody has shown to have the new key: it may be a mistake, or another's."""
    named = RootKey(version=2, key=PrivateKey.new().public)
    (maker.keys / "root").mkdir()
    (maker.keys / "root" / "2.json").write_bytes(Envelope.sign(named.payload(), maker.root).as_bytes())
    refused(maker, maker.signed(), r"2\.json is not signed by the root key")


def test_a_link_to_a_file_outside_the_bundle(maker, tmp_path):
    root = maker.signed()
    (tmp_path / "elsewhere.onnx").write_bytes((root / "plain.onnx").read_bytes())
    (root / "plain.onnx").unlink()
    (root / "plain.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    refused(maker, root, "is a link that leads out of the bundle")


def test_files_that_are_no_signatures(maker):
    """A pipe that would never end, a file without an end, a link to one, a folder."""
    import os

    root = maker.signed()
    signature(root).unlink()
    folder = root / "signatures"
    os.mkfifo(folder / "a.dsse.json")
    (folder / "b.dsse.json").symlink_to("/dev/zero")
    (folder / "c.dsse.json").mkdir()
    (folder / "d.dsse.json").symlink_to("absent")
    with (folder / "e.dsse.json").open("wb") as large:
        large.truncate(2**40)
    message = refused(maker, root, "is not accepted")
    assert message.count("is no regular file of at most") == 4
    assert "cannot be read (No such file or directory)" in message


def test_a_thousand_signatures(maker):
    root = maker.signed()
    data = signature(root).read_bytes()
    signature(root).unlink()
    for i in range(1000):
        (root / "signatures" / f"{i:04d}.dsse.json").write_bytes(b"{}")
    (root / "signatures" / "9999.dsse.json").write_bytes(data)
    message = refused(maker, root, "is not accepted")
    assert message.count("is missing") == 32


@pytest.mark.parametrize("name", ["keys", "keys/root.pub", "state"])
def test_keys_or_state_that_every_user_may_change(maker, name, tmp_path):
    root = maker.signed()
    maker.verify(root)
    path = tmp_path / name
    path.chmod(path.stat().st_mode | 0o002)
    with pytest.raises(InputError, match=r"every user may change .*, also after it was checked: chmod o-w it"):
        maker.verify(root)


def test_a_damaged_record_of_what_was_seen(maker):
    """It is not taken for an empty one, which would let an older version in."""
    maker.verify(maker.signed(counter=7))
    file = maker.state / "seen.json"
    for data in (b"", file.read_bytes()[:-20], b'{"schema": "cxr-edge-seen/2", "roots": {}}'):
        file.write_bytes(data)
        with pytest.raises(InputError, match="has the highest counters that this box has seen, and cannot be used"):
            maker.verify(maker.signed(f"older-{len(data)}", counter=3))


@pytest.fixture(scope="module")
def built(toy_bundle, tmp_path_factory):
    """Return the folder of a bundle with engines that a box has built and signed, and the box' state."""
    folder = tmp_path_factory.mktemp("built")
    bundle = Bundle.open(shutil.copytree(toy_bundle, folder / "toy"))
    build(bundle, BuildSettings(precision="fp32", max_loss=0.02), box=Box.of_state(folder / "state"))
    return folder


@pytest.fixture
def box(built, tmp_path):
    """Return a copy of bundle and engines, their folder, and the box."""
    shutil.copytree(built, tmp_path / "box")
    bundle = Bundle.open(tmp_path / "box" / "toy")
    return bundle, bundle.root / "engines" / "onnxruntime", Box.of_state(tmp_path / "box" / "state")


def engines_refused(bundle, box, message):
    with pytest.raises(EngineError, match=message) as error:
        engines.load(bundle, box=box)
    assert f"cxr-edge build-engine {bundle.root} --require-signature --state" in str(error.value)
    return str(error.value)


def test_engines_that_the_box_has_signed_are_loaded(box):
    bundle, folder, own = box
    loaded = engines.load(bundle, box=own)
    assert loaded.parts == ("segmenter", "plain", "depthwise", "residual")
    assert loaded.reload is not None
    assert loaded.reload(bundle).describe() == loaded.describe()
    (folder / "plain.fp32.onnx").write_bytes((folder / "depthwise.fp32.onnx").read_bytes())
    with pytest.raises(EngineError, match="were replaced"):  # in another process too
        loaded.reload(bundle)


def test_an_engine_is_replaced_with_its_side_car(box):
    """Which loads without --require-signature: digests in side-cars find accidents only."""
    bundle, folder, own = box
    engine, car = folder / "plain.fp32.onnx", folder / "plain.fp32.json"
    shutil.copy(folder / "plain.fp32.onnx", folder / "old")
    import onnx

    network = onnx.load(engine)
    network.doc_string = "another network"
    onnx.save(network, engine)
    values = json.loads(car.read_text())
    car.write_text(json.dumps({**values, "engine_sha256": sha256_file(engine)}))
    (folder / "old").unlink()
    assert engines.load(bundle).parts
    engines_refused(bundle, own, r"the engines in .* were replaced: this box has signed plain\.fp32\.")


def test_limits_in_build_json_are_changed(box):
    bundle, folder, own = box
    values = json.loads((folder / "build.json").read_text())
    decision = {"thresholds": {"covid-19": 0.99}, "uncertain_below": 0.5}
    values["operating_point"] = {"decision": decision, "budget": None}
    (folder / "build.json").write_text(json.dumps(values))
    message = engines_refused(bundle, own, r"were replaced: this box has signed build\.json")
    assert "--max-loss" not in message  # settings of a build that is not signed are not repeated


def test_a_signed_engine_is_removed(box):
    bundle, folder, own = box
    (folder / "plain.fp32.onnx").unlink()
    engines_refused(
        bundle, own, r"has signed plain\.fp32\.onnx with SHA-256 .*, it has none \(No such file or directory\)"
    )


def test_engines_without_a_signature(box):
    bundle, folder, own = box
    (folder / ENGINE_SIGNATURE).unlink()
    engines_refused(bundle, own, "were not signed by this box")


def test_engines_of_another_box(box, tmp_path):
    bundle, _, _ = box
    other = Box.of_state(tmp_path / "other")
    engines_refused(bundle, other, "were not signed by this box, which has no key yet")
    other.signing_key()
    engines_refused(
        bundle, Box.of_state(tmp_path / "other"), "were signed by another box, or box-signature.json was altered"
    )


def test_a_self_test_engine_that_nobody_signed(box):
    """Runtimes load it before the others, so that a file which the box has not signed is refused at once."""
    bundle, folder, own = box
    (folder / "_self-test.plan").write_bytes(b"anything")
    engines_refused(bundle, own, r"have a file that this box has not signed: _self-test\.plan; delete it")


@pytest.mark.parametrize("name", [".", "plain.fp32.onnx"])
def test_engines_that_every_user_may_change(box, name):
    bundle, folder, own = box
    path = folder / name
    path.chmod(path.stat().st_mode | 0o002)
    with pytest.raises(InputError, match="every user may change"):
        engines.load(bundle, box=own)


def test_engines_of_a_backend_that_the_box_has_not_signed_beside_those_that_it_has(box, monkeypatch):
    """They are passed over: not even their self-test engine is loaded."""
    bundle, folder, own = box
    shutil.copytree(folder, folder.with_name("tensorrt"))
    asked = []
    choose = engines.loading.backends.choose
    monkeypatch.setattr(
        engines.loading.backends,
        "choose",
        lambda *args, **kwargs: asked.append(kwargs["among"]) or choose(*args, **kwargs),
    )
    assert engines.load(bundle, box=own).backend == "onnxruntime"
    assert asked == [["onnxruntime"]]
    with pytest.raises(EngineError, match="tensorrt were signed as engines of onnxruntime, expected tensorrt"):
        engines.load(bundle, backend="tensorrt", box=own)


def test_engines_of_another_backend_under_this_name(box):
    bundle, folder, own = box
    folder.rename(folder.with_name("onnxruntime-cuda"))
    engines_refused(bundle, own, "were signed as engines of onnxruntime, expected onnxruntime-cuda")


def test_engines_of_an_older_bundle(box):
    """They are signed, and outdated; the settings of that build are repeated."""
    bundle, _, own = box
    newer = with_counter(bundle, 5)
    message = engines_refused(newer, own, "are outdated: they were built from a bundle with digest")
    assert message.endswith("--precision fp32 --max-loss 0.02")


def test_a_bundle_of_the_same_maker_under_another_name_is_accepted(maker):
    """A limit that docs/security.md states: who may sign one bundle may sign another; reports show name, version and digest."""
    maker.verify(maker.signed("one", counter=7))
    assert maker.verify(maker.signed("two", counter=1, name="other")).bundle == "other"


def test_a_deleted_record_lets_an_older_version_in(maker):
    """A limit that docs/security.md states: who may write the state of the box may return it to older bundles."""
    older = maker.signed("older", counter=3)
    maker.verify(maker.signed("newer", counter=7))
    shutil.rmtree(maker.state)
    assert maker.verify(older).counter == 3


def test_an_unsigned_bundle_opens_without_the_requirement(maker):
    """A limit that docs/security.md states: who starts the command decides whether signatures are required."""
    root = maker.signed()
    shutil.rmtree(root / "signatures")
    bundle = Bundle.open(root)
    assert write_bundle(root, bundle.manifest).manifest.model_card == file_ref(root, "model-card.md")
