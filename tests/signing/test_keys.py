"""Keys: files of openssl's form, signatures, and every message about a file that holds no key."""

import os
import shutil
import stat
import subprocess
import sys
from base64 import b64encode

import pytest

from cxr_edge.errors import InputError
from cxr_edge.signing.keys import PASSPHRASE_VARIABLE, PrivateKey, PublicKey

# RFC 8032, section 7.1, test 2.
SECRET = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
PUBLIC = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
SIGNATURE = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


@pytest.fixture
def key(tmp_path):
    made = PrivateKey.new()
    made.write(tmp_path / "own")
    return made


def test_a_key_file_is_private_and_reads_back(key, tmp_path):
    file = tmp_path / "own"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    read = PrivateKey.read(file)
    assert read == key
    assert read.key_id == key.public.key_id
    assert key.public.verify(b"text", read.sign(b"text"))
    assert "PRIVATE" not in repr(key)


def test_a_public_key_reads_back_and_verifies_only_its_own(key, tmp_path):
    file = tmp_path / "own.pub"
    file.write_bytes(key.public.pem())
    public = PublicKey.read(file)
    assert public == key.public
    signature = key.sign(b"text")
    assert public.verify(b"text", signature)
    assert not public.verify(b"texts", signature)
    assert not public.verify(b"text", signature[:-1])
    assert not public.verify(b"text", b"")
    assert not PrivateKey.new().public.verify(b"text", signature)


def test_the_standard_vector(tmp_path):
    public = PublicKey(raw=bytes.fromhex(PUBLIC))
    assert public.verify(b"\x72", bytes.fromhex(SIGNATURE))
    assert public.key_id == "39f713d0a644253f04529421b9f51b9b08979d08295959c4f3990ee617f5139f"
    der = bytes.fromhex("302e020100300506032b657004220420" + SECRET)  # RFC 8410, section 7
    file = tmp_path / "standard"
    file.write_text(f"-----BEGIN PRIVATE KEY-----\n{b64encode(der).decode()}\n-----END PRIVATE KEY-----\n")
    file.chmod(0o600)
    assert PrivateKey.read(file).sign(b"\x72").hex() == SIGNATURE


def test_a_key_is_never_overwritten(key, tmp_path):
    before = (tmp_path / "own").read_bytes()
    with pytest.raises(InputError, match="own exists, a key is never overwritten: give another name"):
        PrivateKey.new().write(tmp_path / "own")
    assert (tmp_path / "own").read_bytes() == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_private_key_that_others_may_read_is_refused(key, tmp_path, mode):
    (tmp_path / "own").chmod(mode)
    with pytest.raises(InputError, match=rf"other users may open \(mode {mode:o}, expected 600\): chmod 600 it"):
        PrivateKey.read(tmp_path / "own")


def test_files_that_hold_no_key(key, tmp_path):
    with pytest.raises(
        InputError, match=r"absent cannot be read \(No such file or directory\): check the path, or make"
    ):
        PublicKey.read(tmp_path / "absent")
    with pytest.raises(InputError, match="is no key file, expected a PEM file"):
        PublicKey.read(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(InputError, match="is no key file"):
        PrivateKey.read(tmp_path / "pipe")
    large = tmp_path / "large"
    large.write_bytes(bytes(65_537))
    with pytest.raises(InputError, match="is no key file"):
        PublicKey.read(large)
    with pytest.raises(InputError, match="own holds no public key in PEM: give the right file, or make one with"):
        PublicKey.read(tmp_path / "own")
    text = tmp_path / "text"
    text.write_text("no key")
    text.chmod(0o600)
    with pytest.raises(
        InputError, match="text holds no private key in PEM or the passphrase in CXR_EDGE_KEY_PASSPHRASE"
    ):
        PrivateKey.read(text)


def test_a_key_of_another_algorithm(tmp_path):
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    other = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "ec", tmp_path / "ec.pub"
    private.write_bytes(other.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
    private.chmod(0o600)
    public.write_bytes(other.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(InputError, match="ec holds a private key of another algorithm, expected Ed25519"):
        PrivateKey.read(private)
    with pytest.raises(InputError, match=r"ec\.pub holds a public key of another algorithm, expected Ed25519"):
        PublicKey.read(public)


def test_a_passphrase(key, tmp_path, monkeypatch):
    from cryptography.hazmat.primitives import serialization as s

    locked = s.load_pem_private_key((tmp_path / "own").read_bytes(), None).private_bytes(
        s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"word")
    )
    file = tmp_path / "locked"
    file.write_bytes(locked)
    file.chmod(0o600)
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    with pytest.raises(
        InputError, match="locked is protected by a passphrase: set it in the variable CXR_EDGE_KEY_PASS"
    ):
        PrivateKey.read(file)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "other")
    with pytest.raises(InputError, match="or the passphrase in CXR_EDGE_KEY_PASSPHRASE is wrong"):
        PrivateKey.read(file)
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "word")
    assert PrivateKey.read(file) == key


def test_a_public_key_has_32_bytes():
    with pytest.raises(InputError, match="has 32 bytes, got 31"):
        PublicKey(raw=bytes(31))


def test_without_cryptography(key, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    for act in (PrivateKey.new, lambda: PrivateKey.read(tmp_path / "own"), lambda: key.public.verify(b"", b"")):
        with pytest.raises(
            InputError, match=r"package cryptography, which is not installed: pip install 'cxr-edge\[sign\]'"
        ):
            act()


def test_importing_the_module_does_not_import_cryptography():
    code = "import cxr_edge.signing.keys, sys; print('cryptography' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl on the path")
def test_keys_and_signatures_are_those_of_openssl(tmp_path):
    def openssl(*words):
        return subprocess.run(["openssl", *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    openssl("genpkey", "-algorithm", "ed25519", "-out", "theirs")
    (tmp_path / "theirs").chmod(0o600)
    key = PrivateKey.read(tmp_path / "theirs")
    assert openssl("pkey", "-in", "theirs", "-pubout").encode() == key.public.pem()
    (tmp_path / "own.pub").write_bytes(key.public.pem())
    (tmp_path / "data").write_bytes(b"text")
    (tmp_path / "signature").write_bytes(key.sign(b"text"))
    check = "pkeyutl -verify -pubin -inkey own.pub -rawin -in data -sigfile signature"
    assert "Signature Verified Successfully" in openssl(*check.split())


def test_a_key_that_cannot_be_written(key, tmp_path):
    with pytest.raises(InputError, match=r"absent/own cannot be written \(No such file or directory\)"):
        key.write(tmp_path / "absent" / "own")
