"""The folder of trusted keys: certificates, revocation and rotation by the root, and which folder is used."""

import re
import shutil

import pytest

from cxr_edge.errors import BundleError, InputError
from cxr_edge.signing.authority import certify, revoke, rotate_root
from cxr_edge.signing.dsse import Envelope
from cxr_edge.signing.keys import PrivateKey
from cxr_edge.signing.sign import sign_bundle
from cxr_edge.signing.statements import ReleaseKey, RootKey
from cxr_edge.signing.trust import TRUST_VARIABLE, TrustedKeys, trusted_keys_folder


def test_a_new_folder_has_the_root_and_its_key(maker):
    trust = TrustedKeys.read(maker.keys)
    assert (trust.root, trust.root_version, trust.anchor) == (maker.root.public, 1, maker.root.key_id)
    assert trust.release_keys == (ReleaseKey(key=maker.key.public, name="Test maker"),)
    assert (trust.revoked, trust.serial, trust.rejected) == (frozenset(), 0, ())


def test_the_folder_is_the_given_one_the_variables_or_the_machines(maker, monkeypatch, tmp_path):
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    monkeypatch.setattr("cxr_edge.signing.trust.DEFAULT_FOLDER", tmp_path / "machine")
    with pytest.raises(
        InputError, match=r"machine is no folder of trusted keys, it has no root\.pub: give one with --trust"
    ):
        trusted_keys_folder()
    shutil.copytree(maker.keys, tmp_path / "machine")
    assert trusted_keys_folder() == tmp_path / "machine"
    monkeypatch.setenv(TRUST_VARIABLE, str(maker.keys))
    assert trusted_keys_folder() == maker.keys
    assert trusted_keys_folder(tmp_path / "machine") == tmp_path / "machine"
    with pytest.raises(InputError, match="absent is no folder of trusted keys"):
        trusted_keys_folder(tmp_path / "absent")


def test_only_the_root_in_force_certifies_revokes_and_rotates(maker):
    other, key = PrivateKey.new(), ReleaseKey(key=PrivateKey.new().public, name="x")
    message = rf"root key in force is {maker.root.key_id[:12]}\.\.\., the given one is {other.key_id[:12]}"
    for act in (
        lambda: certify(maker.keys, other, key),
        lambda: revoke(maker.keys, other, ["0" * 64]),
        lambda: rotate_root(maker.keys, other, PrivateKey.new()),
    ):
        with pytest.raises(InputError, match=message):
            act()


def test_a_certificate_is_replaced(maker):
    certify(maker.keys, maker.root, ReleaseKey(key=maker.key.public, name="Test maker", to_counter=3))
    (key,) = TrustedKeys.read(maker.keys).release_keys
    assert key.to_counter == 3


def test_lists_of_revoked_keys_grow(maker):
    assert revoke(maker.keys, maker.root, ["1" * 64]).serial == 1
    revoked = revoke(maker.keys, maker.root, ["0" * 64, "1" * 64])
    assert (revoked.serial, revoked.keys) == (2, ("0" * 64, "1" * 64))
    trust = TrustedKeys.read(maker.keys)
    assert (trust.serial, trust.revoked) == (2, {"0" * 64, "1" * 64})


def test_a_release_key_is_rotated_by_a_certificate_that_travels_with_the_bundle(maker, tmp_path):
    """A box that knows only the root accepts a key that is new to it."""
    new = PrivateKey.new()
    elsewhere = tmp_path / "makers-own"
    shutil.copytree(maker.keys, elsewhere)
    certificate = certify(elsewhere, maker.root, ReleaseKey(key=new.public, name="New key", from_counter=1))
    root = maker.signed(key=new)
    with pytest.raises(BundleError, match="which is not trusted"):
        maker.verify(root)
    from cxr_edge.bundle import Bundle

    sign_bundle(Bundle.open(root), new, certificate=certificate)
    assert maker.verify(root).key_name == "New key"


def test_the_root_is_rotated_twice(maker):
    root = maker.signed()
    revoke(maker.keys, maker.root, ["0" * 64])
    maker.verify(root)
    second, third = PrivateKey.new(), PrivateKey.new()
    assert rotate_root(maker.keys, maker.root, second).version == 2
    verified = maker.verify(root)
    assert (verified.root, verified.root_version) == (second.key_id, 2)
    assert rotate_root(maker.keys, second, third).version == 3
    assert maker.verify(root).root == third.key_id
    trust = TrustedKeys.read(maker.keys)
    assert (trust.serial, trust.revoked, trust.anchor) == (1, {"0" * 64}, maker.root.key_id)
    with pytest.raises(InputError, match="root key in force is"):
        certify(maker.keys, maker.root, ReleaseKey(key=maker.key.public, name="x"))
    with pytest.raises(InputError, match="the new root key is the old one"):
        rotate_root(maker.keys, third, third)


def test_the_folder_is_valid_at_every_moment_of_a_rotation(maker, monkeypatch):
    """A kill between two files leaves a folder that the old root or the new one is in force in."""
    from cxr_edge.signing import authority

    revoke(maker.keys, maker.root, ["0" * 64])
    root, versions = maker.signed(), []
    write = authority.write_file

    def checked(*args):
        write(*args)
        versions.append(maker.verify(root, record=False).root_version)

    monkeypatch.setattr(authority, "write_file", checked)
    rotate_root(maker.keys, maker.root, PrivateKey.new())
    assert versions == [1, 1, 2]


def test_statements_of_an_old_root_are_not_accepted(maker):
    old = (maker.keys / "release" / f"{maker.key.key_id}.json").read_bytes()
    new = PrivateKey.new()
    rotate_root(maker.keys, maker.root, new)
    (maker.keys / "release" / f"{maker.key.key_id}.json").write_bytes(old)
    trust = TrustedKeys.read(maker.keys)
    assert trust.release_keys == ()
    assert re.search(rf"is not signed by the root key {new.key_id[:12]}\.\.\., or was altered", trust.rejected[0])


def test_a_root_of_another_number(maker):
    named = RootKey(version=3, key=maker.key.public)
    (maker.keys / "root").mkdir()
    file = maker.keys / "root" / "2.json"
    file.write_bytes(Envelope.sign(named.payload(), maker.root, maker.key).as_bytes())
    with pytest.raises(BundleError, match=r"2\.json names root 3, expected 2: copy the whole folder"):
        TrustedKeys.read(maker.keys)


def test_a_file_that_is_no_statement_is_named(maker):
    (maker.keys / "release" / "a.json").write_text("{}")
    (maker.keys / "revoked.json").write_text("[]")
    with pytest.raises(BundleError, match=r"revoked\.json: the whole file must be an object, got \[\]: copy the whole"):
        TrustedKeys.read(maker.keys)
    (maker.keys / "revoked.json").unlink()
    (rejected,) = TrustedKeys.read(maker.keys).rejected
    assert "a.json: payload is missing" in rejected


def test_a_root_that_is_no_key(maker):
    (maker.keys / "root.pub").write_text("no key")
    with pytest.raises(InputError, match=r"root\.pub holds no public key in PEM"):
        TrustedKeys.read(maker.keys)
