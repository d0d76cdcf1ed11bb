"""The commands of signatures, from keys to a screening that requires them, and what they print."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from cxr_edge.cli import main
from cxr_edge.signing import trust


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Keep the state in the test's folder, and let no trusted keys of this machine count."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(trust.TRUST_VARIABLE, raising=False)
    monkeypatch.setattr(trust, "DEFAULT_FOLDER", tmp_path / "none")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys):
    """Return a function that runs a command and returns its status, output and messages."""

    def run(*words):
        status = main([str(w) for w in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def signed(run, toy_bundle):
    """Make keys in the current folder (root, release, keys/) and a signed bundle `toy` with counter 3."""
    assert run("keys", "new", "root")[0] == 0
    assert run("keys", "new", "release")[0] == 0
    keys = ["--root-key", "root", "--trusted-keys", "keys"]
    assert run("keys", "certify", "release.pub", "--name", "Test maker", *keys)[0] == 0
    shutil.copytree(toy_bundle, "toy")
    assert run("sign", "toy", "--key", "release", "--counter", "3")[0] == 0
    return keys


def key_id(name):
    from cxr_edge.signing.keys import PublicKey

    return PublicKey.read(f"{name}.pub").key_id


def test_keys_new(run):
    status, out, _ = run("keys", "new", "root")
    assert (status, out) == (0, f"key {key_id('root')}\nroot\nroot.pub\n")
    assert run("keys", "new", "root")[::2] == (
        2,
        "cxr-edge: root.pub exists, a key is never overwritten: give another name\n",
    )
    status, out, _ = run("keys", "new", "other", "--json")
    assert json.loads(out) == {"key_id": key_id("other"), "file": "other"}


def test_keys_new_with_a_passphrase(run, monkeypatch):
    assert run("keys", "new", "root", "--passphrase")[0] == 2
    assert not Path("root").exists()
    monkeypatch.setenv("CXR_EDGE_KEY_PASSPHRASE", "word")
    assert run("keys", "new", "root", "--passphrase")[0] == 0
    assert b"ENCRYPTED" in Path("root").read_bytes()
    certify = ["keys", "certify", "root.pub", "--name", "x", "--root-key", "root", "--trusted-keys", "keys"]
    assert run(*certify)[0] == 0
    monkeypatch.delenv("CXR_EDGE_KEY_PASSPHRASE")
    assert "root is protected by a passphrase" in run(*certify)[2]


def test_sign_and_verify(run, signed):
    status, out, err = run("sign", "toy", "--key", "release")
    assert status == 0
    assert out.startswith(f"toy 1, counter 3: 9 files signed by key {key_id('release')}\n")
    assert err == ""
    status, out, _ = run("verify", "toy", "--trusted-keys", "keys")
    assert status == 0
    assert (
        f"toy 1 is signed: by Test maker, key {key_id('release')}\ntrusted by root {key_id('root')} (version 1)\n"
        in out
    )
    assert not Path("state").exists()
    status, out, _ = run("verify", "toy", "--trusted-keys", "keys", "--json")
    assert json.loads(out)["verified"] is True
    assert json.loads(out)["counter"] == 3


def test_sign_says_that_a_new_counter_makes_another_bundle(run, signed):
    status, out, err = run("sign", "toy", "--key", "release", "--counter", "4", "--json")
    assert status == 0
    assert json.loads(out)["counter"] == 4
    assert "counter 3 -> 4" in err
    assert "has a new digest, so that its engines are to be built again" in err
    assert run("sign", "toy", "--key", "release", "--counter", "4")[2] == ""
    assert run("sign", "toy", "--key", "release", "--counter", "2")[0] == 2
    with pytest.raises(SystemExit):
        run("sign", "toy", "--key", "release", "--counter", "-1")


def test_verify_without_trusted_keys(run, signed, monkeypatch):
    status, out, err = run("verify", "toy")
    assert (status, out) == (2, "")
    assert "none is no folder of trusted keys" in err
    monkeypatch.setenv(trust.TRUST_VARIABLE, "keys")
    assert run("verify", "toy")[0] == 0


def test_verify_refuses(run, signed):
    shutil.rmtree("toy/signatures")
    status, out, err = run("verify", "toy", "--trusted-keys", "keys", "--json")
    assert status == 3
    assert json.loads(out)["verified"] is False
    assert "has no signature" in json.loads(out)["error"]
    assert "has no signature" in err


def test_a_return_is_recorded_and_shown(run, signed, toy_bundle):
    shutil.copytree("toy", "newer")
    assert run("sign", "newer", "--key", "release", "--counter", "5")[0] == 0
    assert run("verify", "newer", "--trusted-keys", "keys", "--record")[0] == 0
    status, _, err = run("verify", "toy", "--trusted-keys", "keys")
    assert status == 3
    assert "expected counter 5 or more, it has 3" in err
    status, out, _ = run("verify", "toy", "--trusted-keys", "keys", "--allow-rollback")
    assert status == 0
    assert "returned from counter 5, and recorded" in out
    _, out, _ = run("keys", "show", "--trusted-keys", "keys")
    assert "  toy: counter 3\n" in out
    assert "toy returned from 5 to 3" in out
    _, out, _ = run("keys", "show", "--trusted-keys", "keys", "--json")
    assert json.loads(out)["box"]["counters"] == {"toy": 3}


def test_keys_certify_with_counters(run, signed):
    again = ["keys", "certify", "release.pub", "--name", "Test maker", *signed]
    _, out, _ = run(*again, "--from-counter", "2", "--to-counter", "9")
    assert out.startswith(f"Test maker, key {key_id('release')}, may sign counters 2 to 9\n")
    status, _, err = run(*again, "--from-counter", "9", "--to-counter", "2")
    assert (status, err) == (2, "cxr-edge: --to-counter must be a whole number, 9 or more, got 2\n")
    status, _, err = run("keys", "certify", "release.pub", "--name", "a\x1bb", *signed)
    assert status == 2
    assert "cxr-edge: --name must be a printable text" in err


def test_keys_revoke_by_file_or_id_and_show(run, signed):
    status, out, _ = run("keys", "revoke", "release.pub", "0" * 64, *signed)
    assert (status, out.splitlines()[0]) == (0, "list 1 of revoked keys: 2")
    _, out, _ = run("keys", "show", "--trusted-keys", "keys")
    assert f"release key {key_id('release')}: Test maker, counters from 0 on, REVOKED\n" in out
    assert "list 1 of revoked keys: 2\n" in out
    assert "has seen nothing" in out
    assert run("verify", "toy", "--trusted-keys", "keys")[0] == 3
    assert run("keys", "revoke", "absent.pub", *signed)[0] == 2


def test_keys_rotate_root(run, signed):
    run("keys", "new", "root2")
    status, out, _ = run("keys", "rotate-root", "root2", *signed)
    assert (status, out) == (0, f"root 2 is key {key_id('root2')}; copy the whole folder to every box\n")
    assert f"root 2: key {key_id('root2')}\n" in run("keys", "show", "--trusted-keys", "keys")[1]
    status, _, err = run("keys", "revoke", "release.pub", *signed)
    assert status == 2
    assert "the root key in force is" in err
    Path("keys/release/forged.json").write_text("{}")
    assert "not accepted: " in run("keys", "show", "--trusted-keys", "keys")[1]


def test_inspect_shows_the_signature(run, signed, toy_bundle):
    release = key_id("release")[:12]
    assert "\nSignature      none\n" in run("inspect", toy_bundle)[1]
    assert "\nCounter        none, older versions are not noticed\n" in run("inspect", toy_bundle)[1]
    _, out, _ = run("inspect", "toy")
    assert f"\nSignature      claims key {release}...: not checked (--trusted-keys DIR checks it)\n" in out
    assert "\nCounter        3\n" in out
    _, out, _ = run("inspect", "toy", "--trusted-keys", "keys")
    assert f"\nSignature      by Test maker, key {key_id('release')}: verified\n" in out
    run("keys", "revoke", "release.pub", *signed)
    status, out, _ = run("inspect", "toy", "--trusted-keys", "keys")
    assert status == 0
    assert f"claims key {release}...: NOT ACCEPTED: the signature of bundle 'toy'" in out
    status, out, err = run("inspect", "toy", "--trusted-keys", "keys", "--require-signature", "--json")
    assert status == 3
    assert json.loads(out)["usable"] is False
    assert "which is revoked" in err
    assert run("inspect", "toy", "--trusted-keys", "absent")[0] == 2
    assert json.loads(run("inspect", "toy", "--json")[1])["signature"]["verified"] is None
    assert (
        json.loads(run("inspect", toy_bundle, "--trusted-keys", "keys", "--json")[1])["signature"]["verified"] is False
    )


def test_a_box_that_requires_signatures(run, signed, images, monkeypatch):
    """From the first build to a screening, each refusal with the command that mends it."""
    require = ["--require-signature", "--trusted-keys", "keys"]
    screen = ["screen", images, "--bundle", "toy", "--csv"]
    status, _, err = run(*screen, *require)
    assert status == 3
    assert "there are no engines" in err
    assert err.endswith("build-engine " + str(Path("toy").resolve()) + " --require-signature --trusted-keys keys\n")
    assert run("build-engine", "toy", "--precision", "fp32")[0] == 0
    status, _, err = run(*screen, *require)
    assert status == 3
    assert "were not signed by this box, which has no key yet" in err
    assert run(*screen)[0] == 0  # without the requirement
    assert not Path("state").exists()
    assert run("build-engine", "toy", "--precision", "fp32", *require)[0] == 0
    assert not Path("state/cxr-edge/seen.json").exists()  # a build does not use the bundle yet
    status, out, _ = run(*screen, *require)
    assert (status, out.count("\n")) == (0, 4)
    assert json.loads(Path("state/cxr-edge/seen.json").read_text())["roots"][key_id("root")]["counters"] == {"toy": 3}
    for command in (["bench", "--iterations", "1", "--warmup", "1", "--image-px", "200"], ["drift", images]):
        status, _, err = run(*command, "--bundle", "toy", *require)
        assert status == (0 if command[0] == "bench" else 2), err  # the toy has no reference exams
    Path("toy/signatures").rename("aside")
    for command in (screen, ["build-engine", "toy"], ["bench", "--bundle", "toy"], ["drift", images, "--bundle", "toy"],
                    ["calibrate", "toy", images, "--out", "new"], ["inspect", "toy"]):  # fmt: skip
        status, out, err = run(*command, *require)
        assert (status, out) == (3, ""), command
        assert "has no signature, expected one by a key that root" in err


@pytest.mark.parametrize("name", ["toy", "toy/manifest.json", "toy/plain.onnx"])
def test_a_bundle_that_every_user_may_change_after_it_was_checked(run, signed, name):
    path = Path(name)
    path.chmod(path.stat().st_mode | 0o002)
    status, _, err = run("build-engine", "toy", "--require-signature", "--trusted-keys", "keys")
    assert status == 2
    assert f"{name} (mode " in err
    assert "also after it was checked: chmod o-w it" in err
    assert run("verify", "toy", "--trusted-keys", "keys")[0] == 0  # nothing is run


def test_rebuild_signs_again_and_repeats_only_signed_settings(run, signed, images):
    require = ["--require-signature", "--trusted-keys", "keys"]
    assert run("build-engine", "toy", "--precision", "fp32", *require)[0] == 0
    build = Path("toy/engines/onnxruntime/build.json")
    values = json.loads(build.read_text())
    values["settings"]["max_loss"] = 1.0
    build.write_text(json.dumps(values))
    status, _, err = run("screen", images, "--bundle", "toy", "--csv", *require)
    assert status == 3
    assert "--max-loss" not in err
    status, _, err = run("screen", images, "--bundle", "toy", "--csv", "--rebuild", *require)
    assert status == 0
    assert "this box has signed build.json" in err
    assert json.loads(build.read_text())["settings"]["max_loss"] == 0.01


def test_a_build_without_the_requirement_removes_the_signature(run, signed):
    require = ["--require-signature", "--trusted-keys", "keys"]
    assert run("build-engine", "toy", "--precision", "fp32", *require)[0] == 0
    assert Path("toy/engines/onnxruntime/box-signature.json").exists()
    assert run("build-engine", "toy", "--precision", "fp32")[0] == 0
    assert not Path("toy/engines/onnxruntime/box-signature.json").exists()


def test_a_single_network_has_no_signature(run, toy_bundle):
    status, _, err = run("build-engine", toy_bundle / "plain.onnx", "--preset", "sane", "--require-signature")
    assert status == 2
    assert "--require-signature goes with a bundle; a single .onnx file has no signature" in err


@pytest.mark.parametrize(
    "command", [["sign", "toy", "--key", "release"], ["verify", "toy", "--trusted-keys", "keys"], ["keys", "new", "k"]]
)
def test_without_cryptography(run, signed, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    status, out, err = run(*command)
    assert (status, out) == (2, "")
    assert "pip install 'cxr-edge[sign]'" in err


def test_inspect_without_cryptography(run, signed, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    assert "not checked (signatures need the package cryptography" in run("inspect", "toy", "--trusted-keys", "keys")[1]
