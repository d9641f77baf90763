"""Where credentials come from: files in their order, keys from the most specific on, helpers that fail or hang."""

from __future__ import annotations

import base64
import os
import pickle
import select
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.pretty import pretty_repr

from longshore.errors import InvalidSpec, LongshoreError
from longshore.images.registry import login
from longshore.images.registry.credential_helpers import HelperFailed, ask_helper
from longshore.images.registry.credentials import (
    Credentials,
    Lookup,
    as_credentials,
    files,
    find,
    keys_for,
    login_file,
    normal_key,
)

from .samples import encoded

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the helpers here are shell scripts")


def entry(user: str, password: str = "pw") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


class Home:
    """A home directory with files of credentials, and helpers in a PATH of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environ = {"HOME": str(path), "PATH": f"relative:{path}/bin"}

    def write(self, name: str, content: Any) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else encoded(content))
        return file

    def helper(self, name: str, script: str) -> None:
        file = self.write(f"bin/docker-credential-{name}", f"#!/bin/sh\n{script}\n".encode())
        file.chmod(0o755)

    def find(self, registry: str = "ghcr.io", path: str = "owner/app", *, limit: float = 20) -> Lookup:
        return find(registry, path, environ=self.environ, uid=1000, helper_limit=limit)

    def user(self, registry: str = "ghcr.io", path: str = "owner/app") -> str | None:
        found = self.find(registry, path).credentials
        return found.username if found else None


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


DOCKER = ".docker/config.json"


# --- files -----------------------------------------------------------------------------------------------------------


def test_the_first_file_that_has_an_answer_counts(home: Home) -> None:
    places = [".dockercfg", DOCKER, ".config/containers/auth.json", "run/containers/auth.json", "own.json"]
    home.environ |= {"XDG_RUNTIME_DIR": f"{home.path}/run", "REGISTRY_AUTH_FILE": f"{home.path}/own.json"}
    assert home.user() is None
    for number, place in enumerate(places):
        auths = {"ghcr.io": entry(f"user{number}")}
        home.write(place, auths if place == ".dockercfg" else {"auths": auths})
        assert home.user() == f"user{number}"
    assert files(home.environ, 1000) == [str(home.path / place) for place in reversed(places)]
    home.write("own.json", {"auths": {"quay.io": entry("other")}})
    assert home.user() == "user3"


def test_root_has_a_file_without_a_run_time_directory() -> None:
    assert files({"HOME": "/root"}, 0)[0] == "/run/containers/0/auth.json"
    assert files({"HOME": "/home/ann"}, 1000)[0] == "/home/ann/.config/containers/auth.json"
    assert files({"HOME": "/r", "DOCKER_CONFIG": "/d", "XDG_CONFIG_HOME": "/c"}, 1000) == [
        "/c/containers/auth.json",
        "/d/config.json",
        "/r/.dockercfg",
    ]
    assert files({"USERPROFILE": "/u"}, None)[0] == "/u/.config/containers/auth.json"


def test_what_was_looked_at_is_told(home: Home) -> None:
    home.write(DOCKER, {"auths": {"quay.io": entry("x")}})
    found = home.find()
    assert found.credentials is None
    assert found.looked == [
        f"{home.path}/.config/containers/auth.json (No such file or directory)",
        f"{home.path}/{DOCKER}",
        f"{home.path}/.dockercfg (No such file or directory)",
    ]


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"auths": ' + b"[" * 5000, b" " * (1 << 20) + b"{}"])
def test_a_file_that_cannot_be_read_is_passed_over_and_told(
    home: Home, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    home.write(".config/containers/auth.json", content)
    home.write(DOCKER, {"auths": {"ghcr.io": entry("ann")}})
    found = home.find()
    assert found.credentials == Credentials("ann", "pw")
    assert found.looked[0].startswith(f"{home.path}/.config/containers/auth.json (")
    assert "cannot read credentials from" in caplog.text


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(home: Home) -> None:
    (home.path / ".docker").mkdir()
    os.mkfifo(home.path / DOCKER)
    assert f"{home.path}/{DOCKER} (is not a regular file)" in home.find().looked


@pytest.mark.parametrize("odd", [None, [], 5, "x", {"ghcr.io": None}, {"ghcr.io": {"auth": 5}}, {"ghcr.io": {}}])
@pytest.mark.parametrize("member", ["auths", "credHelpers", "credsStore"])
def test_odd_members_are_no_credentials(home: Home, member: str, odd: Any) -> None:
    home.write(DOCKER, {member: odd})
    assert home.user() is None


# --- keys ------------------------------------------------------------------------------------------------------------


def test_the_most_specific_key_wins(home: Home) -> None:
    assert keys_for("ghcr.io", "a/b") == ["ghcr.io/a/b", "ghcr.io/a", "ghcr.io"]
    home.write(DOCKER, {"auths": {"ghcr.io": entry("host"), "ghcr.io/owner": entry("owner")}})
    assert home.user("ghcr.io", "owner/app") == "owner"
    assert home.user("ghcr.io", "owners/app") == "host"
    assert home.user("ghcr.io:443", "owner/app") is None
    assert home.user("evil-ghcr.io", "owner/app") is None


@pytest.mark.parametrize(
    "key",
    ["docker.io", "index.docker.io", "https://index.docker.io/v1/", "https://registry-1.docker.io", "docker.io/v1/"],
)
def test_docker_hub_has_several_keys(home: Home, key: str) -> None:
    home.write(DOCKER, {"auths": {key: entry("ann")}})
    assert home.user("docker.io", "library/alpine") == "ann"


@pytest.mark.parametrize("key", ["https://ghcr.io", "http://ghcr.io/", "https://ghcr.io/v2/", "ghcr.io/v1", "ghcr.io"])
def test_a_key_may_have_a_scheme_and_a_version(key: str) -> None:
    assert normal_key(key) == "ghcr.io"


@pytest.mark.parametrize(
    ("found", "credentials"),
    [
        (entry("ann", "a:b"), Credentials("ann", "a:b")),
        (entry("ann", ""), Credentials("ann", "")),
        (entry("ann", "pw\0\0"), Credentials("ann", "pw")),
        ({"username": "ann", "password": "pw"}, Credentials("ann", "pw")),
        (entry("x", "") | {"identitytoken": "t"}, Credentials(identity_token="t")),
        ({"registrytoken": "t"}, Credentials(registry_token="t")),
        ({"auth": "not base64!"}, None),
        ({"auth": base64.b64encode(b"no colon").decode()}, None),
        ({"auth": base64.b64encode(b"\xff:x").decode()}, None),
        ({"auth": base64.b64encode(b"a:b\r\nX: y").decode()}, None),
        ({}, None),
    ],
)
def test_an_entry_has_one_of_several_forms(home: Home, found: dict[str, str], credentials: Credentials | None) -> None:
    home.write(DOCKER, {"auths": {"ghcr.io": found}})
    assert home.find().credentials == credentials


# --- helpers ---------------------------------------------------------------------------------------------------------

ANSWERS = """read server; printf '{"ServerURL":"%s","Username":"ann","Secret":"%s"}' "$server" "$server" """


def test_a_helper_of_the_host_comes_before_the_store_and_both_before_entries(home: Home) -> None:
    home.helper("one", ANSWERS)
    home.helper("two", ANSWERS.replace("ann", "bob"))
    content = {"auths": {"ghcr.io": entry("entry")}, "credsStore": "two", "credHelpers": {"ghcr.io": "one"}}
    home.write(DOCKER, content)
    assert home.find().credentials == Credentials("ann", "ghcr.io")
    assert home.find().source == f"{home.path}/{DOCKER} (helper one)"
    assert home.find("quay.io", "a").credentials == Credentials("bob", "quay.io")


def test_docker_hub_has_its_old_name_for_helpers(home: Home) -> None:
    home.helper("store", ANSWERS)
    home.write(DOCKER, {"credsStore": "store"})
    assert home.find("docker.io", "library/a").credentials == Credentials("ann", "https://index.docker.io/v1/")


def test_a_helper_may_have_an_identity_token(home: Home) -> None:
    home.helper("store", """echo '{"Username":"<token>","Secret":"refresh"}'""")
    home.write(DOCKER, {"credsStore": "store"})
    assert home.find().credentials == Credentials(identity_token="refresh")


NO_ANSWERS = {
    "exit 1": "it ended with exit code 1",
    "echo not json": "not a JSON object",
    "echo '{}'": "no Username and Secret",
    """echo '{"Username":1,"Secret":2}'""": "no Username and Secret",
    """printf '{"Username":"a:b","Secret":"x"}'""": "its answer cannot be used",
    "kill -9 $$": "exit code -9",
}


@pytest.mark.parametrize("script", NO_ANSWERS)
def test_a_helper_without_an_answer_is_told_and_passed_over(
    home: Home, script: str, caplog: pytest.LogCaptureFixture
) -> None:
    home.helper("store", script)
    home.write(DOCKER, {"credsStore": "store", "auths": {"ghcr.io": entry("entry")}})
    found = home.find()
    assert found.credentials == Credentials("entry", "pw")
    assert any(NO_ANSWERS[script] in each for each in found.looked)


@pytest.mark.parametrize("name", ["", "missing", "../evil", "a/b", "a b", "x" * 100])
def test_a_helper_that_there_is_not_is_passed_over(home: Home, name: str) -> None:
    home.write(DOCKER, {"credHelpers": {"ghcr.io": name}, "auths": {"ghcr.io": entry("entry")}})
    assert home.user() == "entry"


def test_a_helper_that_has_nothing_says_so_on_standard_output(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    home.helper("store", "echo credentials not found in native keychain; exit 1")
    home.write(DOCKER, {"credsStore": "store", "auths": {"ghcr.io": entry("entry")}})
    assert home.user() == "entry"
    assert caplog.text == ""


def test_a_helper_is_not_taken_from_a_relative_folder(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.helper("store", ANSWERS)
    monkeypatch.chdir(home.path)
    home.environ["PATH"] = "bin:./bin:"
    home.write(DOCKER, {"credsStore": "store"})
    assert home.user() is None


def ends(pid: int) -> bool:
    """Whether a process of another parent ends."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], 10)[0])
    finally:
        os.close(fd)


def test_a_helper_that_hangs_is_killed_with_its_children(home: Home) -> None:
    home.helper("store", f"/bin/sleep 1000 & echo $! > {home.path}/child; wait")
    with pytest.raises(HelperFailed, match=r"no answer within 0\.3 s; it may wait for a keyring"):
        ask_helper("store", "ghcr.io", environ=home.environ, limit=0.3)
    assert ends(int((home.path / "child").read_text()))


def test_a_helper_can_be_stopped(home: Home) -> None:
    home.helper("store", "exec /bin/sleep 1000")
    stop = threading.Event()
    stop.set()
    with pytest.raises(HelperFailed, match="it was stopped"):
        ask_helper("store", "ghcr.io", environ=home.environ, limit=60, should_stop=stop.is_set)


# --- values ----------------------------------------------------------------------------------------------------------


def test_no_secret_is_shown() -> None:
    secret = Credentials("ann", "s3cret", "t0ken", "t0ken")
    for shown in (repr(secret), str(secret), pretty_repr(secret), f"{Lookup(credentials=secret)}"):
        assert "ann" in shown
        assert "s3cret" not in shown
        assert "t0ken" not in shown
    assert pickle.loads(pickle.dumps(secret)) == secret


@pytest.mark.parametrize("fields", [("a:b", "x"), ("a", "x\n"), ("a\r", "x"), ("a", 5), (None, "x")])
def test_what_no_header_can_carry_is_refused(fields: Any) -> None:
    with pytest.raises(InvalidSpec, match="credentials"):
        Credentials(*fields)


def test_a_pair_is_user_and_password() -> None:
    assert as_credentials(("ann", "pw")) == Credentials("ann", "pw")
    assert as_credentials(None) is None
    for wrong in ("ann:pw", ["ann", "pw"], ("a",), {"username": "a"}):
        with pytest.raises(InvalidSpec, match="credentials"):
            as_credentials(wrong)


# --- login -----------------------------------------------------------------------------------------------------------


def stored(home: Home, registry: str = "ghcr.io", user: str = "ann") -> Path:
    return Path(login.store(registry, Credentials(user, "pw"), environ=home.environ, uid=1000))


def test_login_writes_a_file_that_only_its_owner_reads(home: Home) -> None:
    home.environ["XDG_RUNTIME_DIR"] = f"{home.path}/run"
    file = stored(home)
    assert file == home.path / "run/containers/auth.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert home.find().credentials == Credentials("ann", "pw")
    assert os.listdir(file.parent) == ["auth.json"]


def test_login_keeps_what_else_is_in_the_file(home: Home) -> None:
    home.environ["REGISTRY_AUTH_FILE"] = str(home.path / "auth.json")
    auths = {"quay.io": entry("q"), "https://ghcr.io/v2/": entry("old"), "ghcr.io/owner": entry("o")}
    home.write("auth.json", {"auths": auths, "future": [1]})
    stored(home)
    assert b"future" in (home.path / "auth.json").read_bytes()
    assert home.user("quay.io", "x") == "q"
    assert home.user("ghcr.io", "owner/x") == "o"
    assert home.user("ghcr.io", "other/x") == "ann"


def test_login_writes_through_a_link(home: Home) -> None:
    real = home.write("real.json", {})
    (home.path / "auth.json").symlink_to(real)
    home.environ["REGISTRY_AUTH_FILE"] = str(home.path / "auth.json")
    stored(home)
    assert (home.path / "auth.json").is_symlink()
    assert b"ghcr.io" in real.read_bytes()


def test_logout_removes_only_the_registrys_entries(home: Home) -> None:
    stored(home)
    stored(home, "quay.io", "q")
    home.write(DOCKER, {"auths": {"ghcr.io": entry("docker")}})
    left = login.erase("ghcr.io", environ=home.environ, uid=1000)
    assert left == [f"{home.path}/{DOCKER}"]
    assert home.user("quay.io", "x") == "q"
    with pytest.raises(LongshoreError, match="has no credentials for it") as refused:
        login.erase("ghcr.io", environ=home.environ, uid=1000)
    assert DOCKER in (refused.value.hint or "")


@pytest.mark.parametrize("content", [b"nonsense", b'{"auths": []}'])
def test_login_destroys_no_file_that_it_cannot_read(home: Home, content: bytes) -> None:
    home.environ["REGISTRY_AUTH_FILE"] = str(home.write("auth.json", content))
    with pytest.raises(LongshoreError, match="cannot"):
        stored(home)
    assert (home.path / "auth.json").read_bytes() == content


def test_login_says_where_it_cannot_write(home: Home) -> None:
    home.write("file", b"")
    home.environ["REGISTRY_AUTH_FILE"] = f"{home.path}/file/auth.json"
    with pytest.raises(LongshoreError, match=r"file/auth\.json"):
        stored(home)


def test_login_of_root_is_where_podman_looks() -> None:
    assert login_file({"HOME": "/root"}, 0) == "/run/containers/0/auth.json"
    assert login_file({"HOME": "/home/a"}, 1000) == "/home/a/.config/containers/auth.json"
