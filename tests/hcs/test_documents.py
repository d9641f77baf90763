"""Documents are encoded to the text that Go's encoding/json writes, and the service's answers are read."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.hcs.schema1 import documents, translate
from longshore.spec import Spec, WindowsOptions

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


def test_characters_that_matter_in_html_are_escaped_as_go_does() -> None:
    assert documents.encode_text("<a & b>\u2028\u2029") == r'"\u003ca \u0026 b\u003e\u2028\u2029"'


def test_control_characters_have_the_forms_that_go_gives_them() -> None:
    assert documents.encode_text("\b\f\n\r\t\x01\x1f\x7f") == '"\\u0008\\u000c\\n\\r\\t\\u0001\\u001f\x7f"'


def test_backslashes_before_letters_of_escapes_stay_backslashes() -> None:
    assert documents.encode_text("C:\\b\\f<\\u003c") == r'"C:\\b\\f\u003c\\u003c"'


@given(TEXT)
def test_any_text_survives(text: str) -> None:
    encoded = documents.encode_text(text)
    assert json.loads(encoded) == text
    assert not any(character in encoded for character in "<>&\u2028\u2029")


def test_other_characters_are_written_as_they_are() -> None:
    assert documents.encode_text("größe 漢字 😀") == '"größe 漢字 😀"'


def test_a_query_has_the_originals_blanks() -> None:
    assert documents.property_query("Statistics") == '{ "PropertyTypes" : ["Statistics"]}'


def test_what_is_shown_to_people_holds_no_secrets() -> None:
    spec = Spec.of(
        args=["x"],
        env={"TOKEN": "hush"},
        windows=WindowsOptions(layer_paths=["C:\\base"], credentials='{"hush":1}'),
    )
    host = translate.Host(cpus=1, name_to_guid=lambda name: name)
    shown = [
        documents.shown(translate.container_config("web", spec, host)),
        documents.shown(translate.process_config(spec)),
    ]
    assert "hush" not in str(shown)
    assert list(shown[1]["Environment"]) == ["TOKEN"]


def test_height_comes_before_width() -> None:
    text = documents.encode(documents.resize(26, 81))
    assert text == '{"Operation":"ConsoleSize","ConsoleSize":{"Height":26,"Width":81}}'


def test_a_query_for_systems_says_only_what_it_asks() -> None:
    assert documents.encode(documents.ComputeSystemQuery()) == "{}"
    assert documents.encode(documents.ComputeSystemQuery(owners=["longshore"])) == '{"Owners":["longshore"]}'


def test_answers_may_lack_anything_and_hold_what_nobody_knows() -> None:
    found = documents.decode(
        '{"Id":"x","New":{"a":[1]},"Statistics":{"Uptime100ns":18446744073709551615,"Network":null}}',
        documents.ContainerProperties,
    )
    assert found.statistics is not None
    assert found.statistics.uptime == 2**64 - 1
    assert found.statistics.memory is None
    assert documents.decode('{"Exited":true}', documents.ProcessStatus).exit_code == 0


@pytest.mark.parametrize("text", ["", "{", "garbage", '{"ExitCode":"one"}'])
def test_an_answer_that_is_no_document_is_an_error_to_catch(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        documents.decode(text, documents.ProcessStatus)
