"""The state of a box: highest counters, written only when they change, by one process after the other; and its key."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cxr_edge.errors import BundleError, InputError, OutputError
from cxr_edge.signing.keys import PrivateKey
from cxr_edge.signing.state import BoxState, Seen, state_folder


def test_the_folder_is_the_given_one_or_the_users(monkeypatch, tmp_path):
    assert state_folder(tmp_path) == tmp_path
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_folder() == tmp_path / "xdg" / "cxr-edge"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder() == tmp_path / ".local" / "state" / "cxr-edge"

    def homeless():
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InputError, match="no home folder for the state of this box: give a folder with --state DIR"):
        state_folder()


def test_verifying_writes_only_what_changed(maker):
    root = maker.signed(counter=2)
    maker.verify(root, record=False)
    assert not maker.state.exists()
    maker.verify(root)
    file = maker.state / "seen.json"
    before = file.stat().st_ino
    maker.verify(root)
    assert file.stat().st_ino == before
    maker.verify(maker.signed("newer", counter=3))
    assert file.stat().st_ino != before
    assert sorted(p.name for p in maker.state.iterdir()) == [".lock", "seen.json"]


def test_a_state_that_may_not_be_written_is_enough_for_what_was_seen(maker, monkeypatch):
    """As for a program that runs under another user than the one who installs."""
    root = maker.signed()
    maker.verify(root)
    monkeypatch.setattr(BoxState, "_lock", lambda _: pytest.fail("wanted to write"))
    assert maker.verify(root).counter == 1


def test_a_state_that_cannot_be_written(maker, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OutputError, match=r"state of this box cannot be written to .* \(.*\): give another folder with --state"
    ):
        BoxState(tmp_path / "file" / "state").update("a", lambda seen: Seen(serial=1))


def test_a_return_to_an_older_bundle_is_recorded(maker):
    older = maker.signed("older", counter=3)
    maker.verify(maker.signed("newer", counter=7))
    verified = maker.verify(older, allow_rollback=True)
    assert (verified.counter, verified.highest_seen, verified.returned_from) == (3, 3, 7)
    assert maker.verify(older).returned_from is None
    (record,) = BoxState(maker.state).seen(maker.root.key_id).returns
    assert (record.bundle, record.from_counter, record.to_counter) == ("toy", 7, 3)
    with pytest.raises(BundleError, match="expected counter 3 or more, it has 2"):
        maker.verify(maker.signed("oldest", counter=2))


def test_counters_are_of_each_name_and_each_root(maker):
    maker.verify(maker.signed(counter=7))
    assert maker.verify(maker.signed("other", counter=1, name="other")).highest_seen == 1
    assert BoxState(maker.state).seen(maker.root.key_id).counters == {"toy": 7, "other": 1}
    assert BoxState(maker.state).seen("0" * 64) == Seen()


def test_without_a_counter_a_bundle_is_counted_as_0(maker):
    assert maker.verify(maker.signed(counter=0)).counter == 0
    maker.verify(maker.signed("first", counter=1))
    with pytest.raises(BundleError, match="expected counter 1 or more, it has 0"):
        maker.verify(maker.signed("again", counter=0))


def _raise_counter(folder: str, name: str, counter: int) -> None:
    def higher(seen: Seen) -> Seen:
        return Seen(counters={**seen.counters, name: max(counter, seen.counters.get(name, 0))})

    BoxState(Path(folder)).update("a", higher)


def test_writers_come_one_after_the_other(tmp_path):
    """Threads here: each opens the lock by itself, as a process would."""
    tasks = [(str(tmp_path), name, i) for i in range(1, 6) for name in ("one", "two")]
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda task: _raise_counter(*task), tasks))
    assert BoxState(tmp_path).seen("a").counters == {"one": 5, "two": 5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"serial": -1}, "roots.a.serial must be a whole number, 0 or more"),
        ({"root_version": 0}, "roots.a.root_version must be a whole number, 1 or more"),
        ({"root_key": 5}, "roots.a.root_key must be a text"),
        ({"counters": {"toy": "7"}}, "roots.a.counters.toy must be a whole number"),
        ({"counters": []}, "roots.a.counters must be an object"),
        ({"returns": [{}]}, r"roots.a.returns\[0\].bundle is missing"),
        ({"more": 1}, "roots.a.more is not a key of this format"),
    ],
)
def test_a_damaged_record(tmp_path, change, message):
    BoxState(tmp_path).update("a", lambda _: Seen(counters={"toy": 7}))
    values = json.loads((tmp_path / "seen.json").read_text())
    values["roots"]["a"].update(change)
    (tmp_path / "seen.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=message) as error:
        BoxState(tmp_path).seen("a")
    assert "delete it to begin again, and the next bundle is accepted whatever its counter" in str(error.value)


def test_a_record_that_is_a_dangling_link_is_no_missing_one(tmp_path):
    (tmp_path / "seen.json").symlink_to("absent")
    with pytest.raises(InputError, match="cannot be used"):
        BoxState(tmp_path).seen("a")


def test_the_key_of_a_box_is_made_once(tmp_path):
    box = BoxState(tmp_path / "state")
    assert box.box_public_key() is None
    key = box.box_key()
    assert box.box_key() == key
    assert box.box_public_key() == key.public
    assert stat.S_IMODE((tmp_path / "state" / "box.key").stat().st_mode) == 0o600
    (tmp_path / "state" / "box.pub").write_bytes(PrivateKey.new().public.pem())
    assert box.box_key() == key
    assert box.box_public_key() == key.public
    assert not [name for name in os.listdir(tmp_path / "state") if name.startswith(".box")]
