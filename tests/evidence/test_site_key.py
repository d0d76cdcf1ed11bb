"""The site's key: made once, for its owner only; hashes that need it."""

import os
import stat

import pytest

from cxr_edge.errors import InputError, OutputError
from cxr_edge.evidence.site_key import SiteKey


def test_a_key_is_made_once_and_only_its_owner_can_read_it(tmp_path):
    path = tmp_path / "site.key"
    key = SiteKey.read_or_make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(key.secret) == 32
    assert SiteKey.read_or_make(path) == key
    assert [p.name for p in tmp_path.iterdir()] == ["site.key"]
    assert SiteKey.read_or_make(tmp_path / "other").secret != key.secret


def test_hashes_depend_on_the_key_and_on_what_they_are_of():
    a, b = SiteKey(secret=bytes(32)), SiteKey(secret=b"1" * 32)
    hashes = [a.hash_uid("1.2.3"), b.hash_uid("1.2.3"), a.hash_name("1.2.3"), a.hash_uid("1.2.4"), a.key_id]
    assert len(set(hashes)) == 5
    assert "31" * 32 not in repr(b)
    assert b.secret.hex() not in repr(b)
    assert a.hash_name(os.fsdecode(b"\xff.png"))


def test_a_file_that_is_no_key(tmp_path):
    path = tmp_path / "site.key"
    path.write_text("secret")
    path.chmod(0o600)
    with pytest.raises(InputError, match="is no site key, expected 64 hexadecimal digits"):
        SiteKey.read_or_make(path)
    path.chmod(0o640)
    with pytest.raises(InputError, match=r"may be read by other users \(mode 640, expected 600\): chmod 600 it"):
        SiteKey.read_or_make(path)
    with pytest.raises(OutputError, match=r"cannot be made .No such file or directory.: give a file in a folder"):
        SiteKey.read_or_make(tmp_path / "none" / "site.key")
    with pytest.raises(InputError, match=r"cannot be read .No such file"):
        SiteKey.read(tmp_path / "none")
