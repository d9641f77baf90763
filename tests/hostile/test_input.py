"""Whatever is given as a spec, an id, a document or a command line: it is done, or refused by a typed error.

TypeError is the answer where a command is one string, a spec is no `Spec`, or a keyword's value is no mapping or list
at all: as Python's own functions answer. Anything else that is raised is a defect. `scripts/fuzz input` runs 10,000.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longshore import cli
from longshore.cli import verbs
from longshore.compute.values import Place
from longshore.engine.engine import Engine
from longshore.errors import InvalidSpec, LongshoreError
from longshore.simulator import Simulator
from longshore.spec import Mount, ProcessSpec, Spec, parse_signal, parse_size

from .strategies import ANYTHING, DOCUMENT, GOOD_SPEC, JSON, PATH, SPEC, TEXT

EXAMPLES = int(os.environ.get("LONGSHORE_EXAMPLES", "100"))
usual = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="LONGSHORE_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    database=None,
)
few = settings(usual, max_examples=max(50, EXAMPLES // 3))


def done_or_refused(call: Callable[[], object]) -> object:
    """What a call gives, or None where it was refused as the rule says."""
    try:
        return call()
    except (LongshoreError, TypeError) as error:
        said = str(error)
    assert said
    assert "\x1b" not in said, "no terminal is to obey what stands in an error"
    return None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    run = tmp_path_factory.mktemp("store") / "run" / "containers" / "box"
    run.mkdir(parents=True)
    return Place(run=run, data=run)


def planned(place: Place, made: object) -> None:
    """Everything that is checked before something is made."""
    from longshore.oci.bundle import plan_bundle

    before = sorted(path for path in place.run.parents[2].rglob("*"))
    if isinstance(made, Spec):
        done_or_refused(lambda: plan_bundle(place, "box", made, cgroup_path="/longshore-test/box"))
    assert sorted(path for path in place.run.parents[2].rglob("*")) == before, "to plan is to make nothing"


@usual
@given(fields=SPEC)
def test_any_fields_of_any_type(place: Place, fields: dict[str, Any]) -> None:
    planned(place, done_or_refused(lambda: Spec.of(**fields)))


@usual
@given(fields=GOOD_SPEC)
def test_any_fields_of_the_right_types(place: Place, fields: dict[str, Any]) -> None:
    planned(place, done_or_refused(lambda: Spec.of(**fields)))


@usual
@given(document=DOCUMENT)
def test_any_document(place: Place, document: Any) -> None:
    planned(place, done_or_refused(lambda: Spec.from_oci(document)))


@few
@given(document=JSON)
def test_any_json_as_a_document(place: Place, document: Any) -> None:
    planned(place, done_or_refused(lambda: Spec.from_oci(document)))


@usual
@given(text=TEXT | PATH, other=ANYTHING)
def test_any_single_value(text: str, other: Any) -> None:
    for value in (text, other):
        done_or_refused(lambda value=value: Mount.parse(value) if isinstance(value, str) else None)  # type: ignore[misc]
        done_or_refused(lambda value=value: parse_signal(value))  # type: ignore[misc]
        done_or_refused(lambda value=value: parse_size(value, "memory"))  # type: ignore[misc]
        done_or_refused(lambda value=value: ProcessSpec(args=value))  # type: ignore[misc]
        done_or_refused(lambda value=value: ProcessSpec(args=["true"], env=value))  # type: ignore[misc]


@few
@given(id=TEXT, name=TEXT, labels=st.dictionaries(TEXT, TEXT, max_size=2), args=st.lists(TEXT, max_size=3))
def test_any_id_name_and_label(
    tmp_path_factory: pytest.TempPathFactory, id: str, name: str, labels: dict[str, str], args: list[str]
) -> None:
    """Nothing is made outside the state directory, and what was made can be listed and deleted."""
    base = tmp_path_factory.mktemp("ids")
    asyncio.run(_live(base / "state", id, name, labels, args))
    assert [path.name for path in base.iterdir()] in ([], ["state"])


async def _live(state: Path, id: str, name: str, labels: dict[str, str], args: list[str]) -> None:
    async with asyncio.timeout(300), Engine(Simulator(), state=state) as engine:
        for call in (
            lambda: engine.launch(id, args=["sleep", "forever"], labels=labels),
            lambda: engine.create(id, args=args),
            lambda: engine.run("host", ["true"], name=id, labels=labels),
            lambda: engine.get(id),
        ):
            with contextlib.suppress(LongshoreError, TypeError):
                await call()
        for info in await engine.list():
            box = await engine.get(info.id)
            with contextlib.suppress(LongshoreError):
                await (await box.exec(["true"], name=name)).wait()
            with contextlib.suppress(LongshoreError):
                await box.process(name)
            await box.inspect()
            await box.delete(force=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"env": {"\ud800": ""}},
        {"env": {"A": "\udc80"}},
        {"args": ["\ud800"]},
        {"labels": {"a": "\ud800"}},
        {"cwd": "/\ud800"},
        {"oci": {"x": "\ud800"}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_text_that_cannot_be_written_down_is_refused_by_its_field(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Spec.of(**({"args": ["true"]} | fields))
    assert caught.value.field.startswith(next(iter(fields)))


@pytest.mark.parametrize("name", ["\0", "../work", "a/b", "", "\ud800"])
async def test_the_name_of_a_process_is_no_path(tmp_path: Path, name: str) -> None:
    async with Engine(Simulator(), state=tmp_path) as engine:
        box = await engine.launch("box", args=["sleep", "forever"], owner="remove")
        with pytest.raises(InvalidSpec):
            await box.process(name)


VERBS = st.sampled_from([verb for verb in verbs.VERBS if verb not in ("run", "events", "doctor", "restore", "attach")])
OPTIONS = st.sampled_from(
    "-v -m -e -u -w -l --name --mount --cpus --memory-swap --env-file --label --user --cap-add --security-opt --show"
    " --layer --ulimit --userns --stop-signal --format --filter -a -q -f --tail --since --no-stream -- -x".split()
)


@few
@given(verb=VERBS, words=st.lists(OPTIONS | TEXT | PATH, max_size=6))
def test_any_command_line(tmp_path_factory: pytest.TempPathFactory, verb: str, words: list[str]) -> None:
    """An exit code, and words that no terminal obeys; never a traceback."""
    words = ["--no-stream" if verb == "stats" else "", *words]
    out, err = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
    before = os.environ.get("LONGSHORE_ROOT")
    os.environ["LONGSHORE_ROOT"] = str(tmp_path_factory.mktemp("cli"))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main([verb, *filter(None, words)])
    finally:
        if before is None:
            del os.environ["LONGSHORE_ROOT"]
        else:
            os.environ["LONGSHORE_ROOT"] = before
    assert code in (0, 1, 2, 125, 126, 127), (verb, words)
    for stream in (out, err):
        stream.flush()
        said = stream.buffer.getvalue()
        assert b"\x1b" not in said, said
        assert b"Traceback" not in said, said
