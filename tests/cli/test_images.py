"""Images by the real command line: from docker's registry on this machine to containers that run."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from longshore.cli.arguments import options
from longshore.cli.arguments.parser import Arguments, UsageError, parse
from longshore.cli.verbs.run import VERB as RUN

from ..images.packed import layer
from ..images.real import PASSWORD, USER, registry, registry_with_passwords
from ..images.runnable import Made, push_index, shell
from ..images.tars import file
from .command import Longshore

real = pytest.mark.real


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with `app`, `silent` (without a command) and `other` (for another platform)."""
    with registry(tmp_path_factory.mktemp("registry")) as made:
        shell().push(f"{made.host}/app:latest")
        Made(layer(file(b"x"))).push(f"{made.host}/silent:latest")
        push_index(f"{made.host}/other:1", Made(layer(file(b"x", b"arm")), architecture="arm64"))
        yield made.host


def refused(longshore: Longshore, *words: str, **options: Any) -> str:
    """What a command line that fails says."""
    done = longshore(*words, **options)
    assert (done.returncode, done.stdout) == (125, b""), done
    said: str = done.stderr.decode()
    return said


# images


@real
def test_an_image_is_pulled_listed_run_and_removed(longshore: Longshore, host: str) -> None:
    made = shell()
    done = longshore("pull", f"{host}/app")
    assert done.stdout.decode() == f"{made.id}\n"
    lines = done.stderr.decode().splitlines()
    assert {line.split()[1] for line in lines} >= {"downloading", "done"}
    again = longshore("image", "pull", "-q", f"{host}/app")
    assert (again.stdout.decode(), again.stderr) == (f"{made.id}\n", b"")

    name, id = f"{host}/app:latest", made.id[7:19]
    heading, row = longshore.ok("images").splitlines()
    assert heading.split() == ["NAME", "ID", "PLATFORM", "CREATED", "SIZE", "UNIQUE"]
    assert row.split()[:3] == [name, id, "linux/amd64"]
    assert longshore.ok("images", "-q") == f"{made.id}\n"
    assert [image["digest"] for image in longshore.lines("image", "ls", "--format", "json")] == [made.digest]
    assert longshore.json("image", "inspect", id)[0]["config"]["WorkingDir"] == "/srv"
    assert [step.split()[-1] for step in longshore.ok("history", id).splitlines()[1:]] == ["0", "1"]

    assert longshore.ok("run", f"{host}/app") == "from the image\n"
    assert longshore.ok("run", f"image:{host}/app", "--", "/bin/cat", "own") == "of the upper layer\n"
    words = ("--pull=never", "--entrypoint", "/bin/cat", f"{host}/app", "own")
    assert longshore.ok("run", *words) == "of the upper layer\n"

    longshore.ok("tag", id, "mine:1")
    assert longshore.ok("rmi", "mine:1") == "mine:1\n"
    assert longshore.ok("image", "rm", id) == f"{name}\n{made.digest}\n"
    assert longshore.ok("images", "-q") == ""


@real
def test_an_image_that_is_not_here_is_pulled_by_run(longshore: Longshore, host: str) -> None:
    done = longshore("run", f"{host}/app", "--", "/bin/sh", "-c", "echo $WHO")
    assert (done.returncode, done.stdout) == (0, b"image\n")
    assert b" downloading" in done.stderr
    done = longshore("run", "-q", "--pull", "always", "--rm", f"{host}/app")
    assert (done.stdout, done.stderr) == (b"from the image\n", b"")
    assert shell().digest in longshore.ok("explain", "run", f"{host}/app")


@real
def test_bars_show_a_pull_on_a_terminal(longshore: Longshore, host: str) -> None:
    with longshore.at_terminal("pull", f"{host}/app", size=(24, 110)) as terminal:
        assert terminal.wait() == 0
        assert shell().layers[0].descriptor.digest[7:19].encode() in terminal.screen
        assert "━".encode() in terminal.screen
        assert terminal.screen.endswith(f"{shell().id}\r\n".encode())


@real
def test_an_image_is_pushed_pruned_and_verified(longshore: Longshore, host: str) -> None:
    longshore.ok("pull", f"{host}/app")
    longshore.ok("image", "tag", f"{host}/app", f"{host}/copies/app:2")
    assert longshore.ok("push", "-q", f"{host}/copies/app:2") == f"{shell().digest}\n"
    assert longshore("image", "verify").stderr == b"longshore: all is as it should be\n"
    assert longshore.ok("image", "prune") == ""
    assert longshore.ok("image", "prune", "--all").splitlines()[-1] == shell().digest
    assert longshore.ok("run", f"{host}/copies/app:2") == "from the image\n"


@real
def test_what_was_saved_is_loaded_and_runs(longshore: Longshore, host: str, tmp_path: Path) -> None:
    longshore.ok("pull", f"{host}/app")
    longshore.ok("tag", f"{host}/app", "mine:1")
    longshore.ok("save", "-o", f"{tmp_path}/app.tar", "mine:1")
    piped = longshore("save", "mine:1")
    assert piped.stdout == (tmp_path / "app.tar").read_bytes()
    longshore.ok("rmi", "-f", shell().id)
    assert longshore.ok("load", "-i", f"{tmp_path}/app.tar") == "mine:1\n"
    assert longshore.ok("run", "--pull", "never", "mine:1") == "from the image\n"
    longshore.ok("rmi", "mine:1")
    assert longshore.ok("image", "load", input=piped.stdout) == "mine:1\n"
    with open("/dev/full", "wb") as full:
        done = longshore("save", "mine:1", stdout=full)
    assert done.stderr == b"longshore: cannot write to standard output: No space left on device\n"
    said = refused(longshore, "load", f"{tmp_path}/nothing.tar")
    assert "nothing.tar" in said


# words


def read(*words: str) -> Arguments:
    return parse(RUN, list(words), Arguments(help=False))


def test_an_entrypoint_is_a_program_or_a_list() -> None:
    assert options.entrypoint(read("app")) is None
    assert options.entrypoint(read("--entrypoint", "sh", "app")) == ["sh"]
    assert options.entrypoint(read("--entrypoint", '["python", "-u"]', "app")) == ["python", "-u"]
    assert options.entrypoint(read("--entrypoint=", "app")) == []
    with pytest.raises(UsageError, match="is not a JSON list"):
        options.entrypoint(read("--entrypoint", "[sh]", "app"))


def test_a_name_is_an_image_also_beside_a_folder_of_this_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "library" / "python").mkdir(parents=True)
    assert options.spec(read("library/python")).root == "library/python"
    (tmp_path / "library" / "python" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="may be an image or the bundle") as caught:
        options.spec(read("library/python"))
    assert caught.value.hint == "write image:library/python for the image, ./library/python for the bundle"
    assert options.spec(read("image:library/python")).root == "image:library/python"


def test_a_word_that_image_does_not_know_is_told(longshore: Longshore) -> None:
    assert "did you mean `inspect`?" in refused(longshore, "image", "inpsect", "x")
    assert "run `longshore image --help`" in refused(longshore, "image", "frobnicate")
    assert "image verify" in longshore.ok("help", "image", "verify")
    assert "`image ls`" in longshore.ok("images", "--help")
    assert "  prune " in longshore.ok("image")


# errors that a person can act on


@real
def test_what_is_wrong_with_an_image_is_told_with_the_next_step(longshore: Longshore, host: str) -> None:
    said = refused(longshore, "run", f"{host}/app:nope", "--", "true")
    assert f"there is no image `{host}/app:nope` at the registry {host}" in said
    said = refused(longshore, "run", "--pull", "never", f"{host}/app")
    assert f"hint: fetch it with `longshore pull {host}/app`" in said
    said = refused(longshore, "run", "-q", f"{host}/silent")
    assert f"the image `{host}/silent` has no command" in said
    assert "hint: give one" in said
    said = refused(longshore, "pull", f"{host}/other:1")
    assert "only for linux/arm64\n" in said
    assert "hint: choose another tag" in said
    said = refused(longshore, "pull", "127.0.0.1:1/app")
    assert "cannot pull `127.0.0.1:1/app`" in said
    assert "hint: " in said
    assert "--pull goes with an image" in refused(longshore, "run", "--pull", "always", "host", "--", "true")
    assert "platform" in refused(longshore, "run", "--platform", "linux/arm64", "host", "--", "true")
    assert longshore.ok("ps", "-aq") == ""


@real
def test_a_folder_that_may_have_been_meant_is_told(longshore: Longshore, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:1"}
    said = refused(longshore, "run", "tree", "--", "true", cwd=tmp_path, env=nowhere)
    assert "write rootfs:tree" in said


# credentials


@real
def test_login_keeps_a_password_that_works_and_logout_forgets_it(longshore: Longshore, tmp_path: Path) -> None:
    kept = tmp_path / "auth.json"
    with registry_with_passwords(tmp_path / "registry") as made:
        environ = {"HOME": str(made.home), "REGISTRY_AUTH_FILE": str(kept), "DOCKER_CONFIG": str(tmp_path)}
        name = f"{made.host}/app:1"

        said = refused(longshore, "pull", name, env=environ)
        assert "wants user and password" in said
        assert f"hint: `longshore login {made.host}`" in said
        words = ("login", "-u", USER, "--password-stdin", made.host)
        said = refused(longshore, *words, input=b"wrong\n", env=environ)
        assert f"cannot log in to {made.host}: the registry {made.host} refuses user `{USER}`" in said
        assert not kept.exists()

        done = longshore(*words, input=f"{PASSWORD}\n".encode(), env=environ)
        assert (done.returncode, done.stdout) == (0, b"")
        assert PASSWORD.encode() not in done.stderr
        assert stat.S_IMODE(os.stat(kept).st_mode) == 0o600
        assert list(json.loads(kept.read_bytes())["auths"]) == [made.host]

        said = refused(longshore, "pull", name, env=environ)
        assert f"there is no image `{name}`" in said

        longshore.ok("logout", made.host, env=environ)
        assert "wants user and password" in refused(longshore, "pull", name, env=environ)
        assert "has no credentials for it" in refused(longshore, "logout", made.host, env=environ)


@real
def test_login_asks_at_a_terminal_and_does_not_show_the_password(longshore: Longshore, tmp_path: Path) -> None:
    with registry_with_passwords(tmp_path / "registry") as made:
        longshore.environment |= {"HOME": str(made.home), "REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}
        with longshore.at_terminal("login", made.host) as terminal:
            terminal.expect(b"User: ")
            terminal.type(f"{USER}\n".encode())
            terminal.expect(f"Password for {made.host}: ".encode())
            terminal.type(f"{PASSWORD}\n".encode())
            assert terminal.wait() == 0
            assert PASSWORD.encode() not in terminal.screen
            assert terminal.restored
    assert "with --password-stdin" in refused(longshore, "login", "-u", USER, made.host)
