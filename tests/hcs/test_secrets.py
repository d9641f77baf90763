"""What the service says of a document that it refuses is told, but for the secrets that it may quote from it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from longshore.hcs.dll.hresults import HcsError

from .world import ALL, script, windows, world

REFUSED = 0xC037010D
CREDENTIALS = '{"CmsPlugins":["ActiveDirectory"],"DomainJoinConfig":{"Sid":"S-1-5-21-2126449477"}}'
TOKEN = 'a "quoted" \\ token of mine'


def answer(message: str) -> dict[str, Any]:
    return {"hr": REFUSED, "result": {"Error": 1, "ErrorMessage": message, "ErrorEvents": [{"Message": message}]}}


def in_json(text: str, times: int = 1) -> str:
    for _ in range(times):
        text = json.dumps(text)
    return text


MESSAGES = {
    "as they are": f"bad: {CREDENTIALS} and {TOKEN}",
    "one of them": f"no account S-1-5-21-2126449477 in {TOKEN}",
    "as JSON": f"bad: {in_json(CREDENTIALS)}, {in_json(TOKEN)}",
    "as JSON within JSON": f"bad: {in_json(CREDENTIALS, 2)}, {in_json(TOKEN, 2)}",
    "the members": '{"Credentials":' + in_json(CREDENTIALS) + ',"Environment":{"TOKEN":' + in_json(TOKEN) + "}}",
    "the members, cut off": '"Environment":{"TOKEN":' + in_json(TOKEN)[:-3],
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
@pytest.mark.parametrize("step", ["HcsCreateComputeSystem", "HcsCreateProcess"])
async def test_no_error_tells_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, step: str, message: str
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = {"HcsCreateComputeSystem": "S-1-5-21", "HcsCreateProcess": "token of"}
    async with world(tmp_path, script(**{step: [answer(message)]})) as it:
        spec = it.spec(env={"TOKEN": TOKEN}, windows=windows(credentials=CREDENTIALS))
        with pytest.raises(HcsError, match=r"INVALID_JSON.*the service says") as told:
            await it.service.launch("box", spec, ALL, it.place())
        error = told.value
        for shown in (str(error), repr(error.events), error.document, repr(error.__cause__), caplog.text):
            assert secrets[step] not in (shown or "")


async def test_what_is_no_secret_is_told_word_for_word(tmp_path: Path) -> None:
    message = "the folder C:\\layers\\base is damaged: true"
    async with world(tmp_path, script(HcsCreateComputeSystem=[answer(message)])) as it:
        spec = it.spec(env={"VERBOSE": "true"}, windows=windows(credentials=CREDENTIALS))
        with pytest.raises(HcsError) as told:
            await it.service.create("box", spec, ALL, it.place())
        assert message in str(told.value)
        assert told.value.events == [message]
