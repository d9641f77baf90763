"""`WWW-Authenticate`: several challenges in one header, commas in quotes, and scopes that grow no further."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longshore.images.registry.challenges import Challenge, merged_scopes, parse_challenges
from longshore.images.registry.retries import retry_after

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", []),
        ("Basic", [("basic", {})]),
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        (
            HUB,
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        (
            'BASIC realm="a", Bearer realm=b , Service = "c,d"',
            [("basic", {"realm": "a"}), ("bearer", {"realm": "b", "service": "c,d"})],
        ),
        ('Basic realm="a \\" b, c"', [("basic", {"realm": 'a " b, c'})]),
        ('Negotiate YWJj==, Basic realm="x"', [("negotiate", {}), ("basic", {"realm": "x"})]),
        ('Negotiate, Basic realm="x"', [("negotiate", {}), ("basic", {"realm": "x"})]),
        ('realm="nobody\'s", Basic', [("basic", {})]),
        ('Bearer realm="a",realm="b"', [("bearer", {"realm": "a"})]),
        (' , ;;; Basic realm=""', [("basic", {"realm": ""})]),
    ],
)
def test_a_header_has_challenges(header: str, found: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(header) == [Challenge(*each) for each in found]


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.sampled_from([*'Basic ,="\\\t;', "Bearer ", "realm=", '"x"', "a/b", "=="]), max_size=40).map("".join)
)
def test_any_header_is_read(header: str) -> None:
    for each in parse_challenges(header):
        assert each.scheme == each.scheme.lower() != ""


def test_a_long_header_takes_no_time() -> None:
    for header in ('"' * 200_000, "a=" * 100_000, 'a="' + "\\" * 200_000, "a " * 100_000, "a" * 200_000):
        parse_challenges(header)


def test_scopes_are_merged_by_resource() -> None:
    assert merged_scopes("repository:a:pull", "repository:a:pull,push") == "repository:a:pull,push"
    assert merged_scopes("repository:b:pull repository:a:push", "") == "repository:a:push repository:b:pull"
    once = merged_scopes("repository:h:5/a:pull", "repository:h:5/a:pull", "registry:catalog:*")
    assert once == "registry:catalog:* repository:h:5/a:pull"
    assert merged_scopes(once, once) == once
    assert merged_scopes("nonsense", "") == ""


@pytest.mark.parametrize(
    ("header", "seconds"), [("5", 5.0), (" 0 ", 0.0), ("", None), ("soon", None), ("-1", None), ("\u0661", None)]
)
def test_a_pause_is_a_number(header: str, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_a_pause_may_be_a_date() -> None:
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    later = retry_after("Wed, 21 Oct 2099 07:28:00 GMT")
    assert later is not None
    assert later > 1e9
