"""registries.conf: which mirrors are asked, what is blocked, and what a short name means."""

from __future__ import annotations

from pathlib import Path

import pytest

from longshore.errors import InvalidSpec, LongshoreError
from longshore.images.names import ImageName
from longshore.images.registry.registries_conf import Configuration, Endpoint, endpoints, load, parse_name

DIGEST = "sha256:" + "0" * 64


def loaded(path: Path, text: str) -> Configuration:
    file = path / "registries.conf"
    file.write_text(text)
    return load({"CONTAINERS_REGISTRIES_CONF": str(file)})


def places(configuration: Configuration, name: str, insecure: bool | None = None) -> list[str]:
    found = endpoints(ImageName.parse(name), configuration, insecure)
    return [f"{each.registry}/{each.path}{'!' if each.insecure else ''}" for each in found]


MIRRORS = """
unqualified-search-registries = ["registry.example"]

[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "mirror.example/hub"
[[registry.mirror]]
location = "localhost:5000"
insecure = true
pull-from-mirror = "digest-only"

[[registry]]
prefix = "docker.io/team"
location = "inner.example/deep/team"
insecure = true

[[registry]]
location = "bad.example"
blocked = true

[[registry]]
prefix = "*.wild.example"
location = "wild"

[aliases]
fedora = "registry.fedoraproject.org/fedora"
"rhel7/atomic" = "registry.example/atomic"
empty = ""
"""


def test_without_files_there_is_only_the_registry(tmp_path: Path) -> None:
    assert places(load({"HOME": str(tmp_path), "CONTAINERS_REGISTRIES_CONF": ""}), "ghcr.io/a/b") == ["ghcr.io/a/b"]
    assert endpoints(ImageName.parse("alpine"), Configuration())[0].host == "registry-1.docker.io"


def test_mirrors_come_in_order_and_the_registry_last(tmp_path: Path) -> None:
    found = loaded(tmp_path, MIRRORS)
    assert places(found, "alpine") == ["mirror.example/hub/library/alpine", "docker.io/library/alpine"]
    assert places(found, f"alpine@{DIGEST}") == [
        "mirror.example/hub/library/alpine",
        "localhost:5000/library/alpine!",
        "docker.io/library/alpine",
    ]
    assert [each.is_origin for each in endpoints(ImageName.parse("alpine"), found)] == [False, True]


def test_the_longest_prefix_wins(tmp_path: Path) -> None:
    found = loaded(tmp_path, MIRRORS)
    assert places(found, "team/app:1") == ["inner.example/deep/team/app!"]
    assert places(found, "teams/app:1")[-1] == "docker.io/teams/app"
    assert places(found, "a.wild.example/x/y") == ["wild/x/y"]
    assert places(found, "ghcr.io/x/y") == ["ghcr.io/x/y"]


def test_what_the_call_says_of_the_registry_wins(tmp_path: Path) -> None:
    found = loaded(tmp_path, MIRRORS)
    assert places(found, "team/app", insecure=False) == ["inner.example/deep/team/app"]
    assert places(found, "ghcr.io/a", insecure=True) == ["ghcr.io/a!"]
    assert places(found, "alpine", insecure=True)[0] == "mirror.example/hub/library/alpine"


def test_a_blocked_registry_is_not_asked(tmp_path: Path) -> None:
    with pytest.raises(
        LongshoreError, match=r"cannot use `bad\.example/x:latest`: registries\.conf blocks bad\.example"
    ):
        places(loaded(tmp_path, MIRRORS), "bad.example/x")
    assert places(loaded(tmp_path, MIRRORS), "bad.example.org/x") == ["bad.example.org/x"]


def test_only_an_alias_changes_a_short_name(tmp_path: Path) -> None:
    found = loaded(tmp_path, MIRRORS)
    assert str(parse_name("fedora", found)) == "registry.fedoraproject.org/fedora:latest"
    assert str(parse_name("fedora:40", found)) == "registry.fedoraproject.org/fedora:40"
    assert str(parse_name(f"fedora@{DIGEST}", found)) == f"registry.fedoraproject.org/fedora@{DIGEST}"
    assert str(parse_name("rhel7/atomic", found)) == "registry.example/atomic:latest"
    for name in ("alpine", "empty", "docker.io/library/fedora"):
        assert parse_name(name, found) == ImageName.parse(name)
    with pytest.raises(InvalidSpec):
        parse_name("Fedora", found)


def test_a_mirror_by_digest_only_is_not_asked_for_a_tag(tmp_path: Path) -> None:
    text = '[[registry]]\nlocation="a.b"\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation="m.n"\n'
    found = loaded(tmp_path, text)
    assert places(found, "a.b/x:1") == ["a.b/x"]
    assert places(found, f"a.b/x@{DIGEST}") == ["m.n/x", "a.b/x"]
    tagged = loaded(tmp_path, text.replace("mirror-by-digest-only=true", "") + 'pull-from-mirror = "tag-only"\n')
    assert places(tagged, f"a.b/x@{DIGEST}") == ["a.b/x"]


def test_a_users_file_is_read_in_the_place_of_the_machines(tmp_path: Path) -> None:
    folder = tmp_path / ".config/containers"
    folder.mkdir(parents=True)
    (folder / "registries.conf").write_text('[[registry]]\nlocation="a.b"\nblocked=true\n')
    (folder / "registries.conf.d").mkdir()
    (folder / "registries.conf.d/50.conf").write_text('[[registry]]\nlocation="a.b"\n[[registry]]\nlocation="c.d"\n')
    (folder / "registries.conf.d/README").write_text("not one")
    found = {each.prefix: each.blocked for each in load({"HOME": str(tmp_path)}).registries}
    assert found["a.b"] is False, "a later file replaces what is said of a prefix"
    assert "c.d" in found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("registry = 5", r"write \[\[registry\]\]"),
        ("[[registry", "registries.conf is not valid"),
        ("[[registry]]\n", "neither `prefix` nor `location`"),
        ("[[registry]]\nprefix='a.b'\n", "has no `location`"),
        ("[[registry]]\nlocation='https://a.b'\n", "leave out the scheme"),
        ("[[registry]]\nlocation='a.b'\nblocked='yes'\n", "registry 1"),
        ("[[registry]]\nlocation='a.b'\n[[registry.mirror]]\nlocation='c'\npull-from-mirror='x'\n", "registry 1"),
        ("[aliases]\na = 5\n", "every alias has to be text"),
        ("\xff", "registries.conf is not valid"),
    ],
)
def test_a_file_that_is_not_valid_is_an_error(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "registries.conf"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(LongshoreError, match=problem) as refused:
        load({"CONTAINERS_REGISTRIES_CONF": str(file)})
    assert str(file) in str(refused.value)


def test_a_place_that_is_none_is_an_error_of_the_file(tmp_path: Path) -> None:
    found = loaded(tmp_path, "[[registry]]\nprefix='a.b'\nlocation='UPPER/CASE'\n")
    with pytest.raises(LongshoreError, match=r"registries\.conf: it leads from a\.b/x to UPPER/CASE/x"):
        places(found, "a.b/x")


def test_the_old_format_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert loaded(tmp_path, "[registries.search]\nregistries = ['x']\n") == Configuration()
    assert "format of before 2018" in caplog.text


def test_docker_hub_has_another_host_for_its_api() -> None:
    assert Endpoint(registry="docker.io", path="x").host == "registry-1.docker.io"
