"""The payload of an event is made once for all listeners with the same selection, and equals what each would get alone."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter
from typing import Any

import orjson
import pytest
from graphql import parse, subscribe, validate
from hypothesis import given, settings
from hypothesis import strategies as st

from candlegraph.event import Event, EventKind
from candlegraph.viewer import Role, User, Viewer
from schema import broadcast as live
from schema.broadcast import OperationRefused
from schema.build import Schema, build_schema
from schema.executor import BulkExecutor
from tests.server.stage import FIRST, Stage, candle, context
from tests.waiting import HANG_S

SCHEMA: Schema = build_schema()
ROOT = 'candles(market: "m", provider: "p", symbol: "s", since: $since)'

_leaves = st.sampled_from(
    ["timestamp", "time", "open", "high", "low", "close", "volume", "closed", "synthetic", "__typename"]
)
_heads = st.sampled_from(["kind", "seq", "caughtUp", "resyncFrom", "__typename"])
_directive = st.sampled_from(
    ["", "", " @include(if: $yes)", " @skip(if: $yes)", " @include(if: $no)", " @skip(if: false)"]
)


def _fields(names: st.SearchStrategy[str], prefix: str) -> st.SearchStrategy[str]:
    one = st.tuples(st.sampled_from(["", "", f"{prefix}1: ", f"{prefix}2: "]), names, _directive)
    # An alias of its own for each field, so that no two of them collide.
    return st.lists(one, min_size=1, max_size=5).map(
        lambda chosen: " ".join(
            f"{alias[:-2]}_{name.strip('_')}: {name}{directive}" if alias else f"{name}{directive}"
            for alias, name, directive in chosen
        )
    )


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Subscriptions with aliases, fragments and directives; the same fields in more than one way."""
    candles = draw(_fields(_leaves, "c"))
    other = draw(_fields(_leaves, "d"))
    head = draw(_fields(_heads, "h"))
    spread = draw(st.booleans())
    rows = f"{candles} ...Row" if spread else candles
    fragment = f"fragment Row on Candle {{ {other} }}" if spread else ""
    inline = draw(st.sampled_from(["", "... on CandleEvent { seq }", "... @include(if: $no) { kind }"]))
    more = draw(st.sampled_from(["", f"again: nodes {{ {other} }}"]))
    root = draw(st.sampled_from(["", "live: "]))
    header = "($since: Timestamp, $yes: Boolean! = true, $no: Boolean!)"
    unused = "used: __typename @include(if: $yes) @skip(if: $no)"
    return f"subscription Live{header} {{ {root}{ROOT} {{ {unused} {head} {inline} nodes {{ {rows} }} {more} }} }} {fragment}"


_events = st.lists(
    st.builds(
        lambda kind, seq, number, close: Event(kind, seq, candle(number, close, closed=kind is not EventKind.UPDATE)),
        st.sampled_from([EventKind.UPDATE, EventKind.CLOSE, EventKind.CORRECTION, EventKind.HEARTBEAT]),
        st.integers(0, 2**31 - 1),
        st.integers(0, 10**6),
        st.floats(allow_infinity=True, allow_nan=True, width=64),
    ),
    min_size=1,
    max_size=3,
)
_values = st.fixed_dictionaries(
    {"no": st.booleans()}, optional={"yes": st.booleans(), "since": st.sampled_from([None, FIRST, FIRST + 60_000])}
)


async def alone(text: str, variables: dict[str, Any], events: list[Event]) -> list[object]:
    """What plain graphql-core says, event by event, without anything of ours but the executor."""

    async def source() -> Any:
        for event in events:
            yield event

    class Played:
        def subscribe(self, *_: object, **__: object) -> Any:
            return source()

    stage: Any = Played()
    answers = subscribe(
        SCHEMA._schema,
        parse(text),
        variable_values=variables,
        context_value=context(stage),
        executor_class=BulkExecutor,
    )
    answers = await answers if asyncio.iscoroutine(answers) else answers
    return [(answer.data, [(e.path, e.locations) for e in answer.errors or ()]) async for answer in answers]


def _plain(payload: str) -> object:
    received = orjson.loads(payload)
    return received["data"], [
        (e["path"], [(place["line"], place["column"]) for place in e["locations"]]) for e in received.get("errors", ())
    ]


def _json(answers: list[Any]) -> list[object]:
    return [
        (orjson.loads(orjson.dumps(data)), [(path, [tuple(place) for place in places]) for path, places in errors])
        for data, errors in answers
    ]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(documents(), _values), min_size=1, max_size=4), _events)
def test_a_shared_payload_equals_the_one_that_each_would_get_alone(
    listeners: list[tuple[str, dict[str, Any]]], events: list[Event]
) -> None:
    listeners = [(text, values) for text, values in listeners if not validate(SCHEMA._schema, parse(text))]

    async def compare() -> None:
        stage = Stage()
        streams = [
            await SCHEMA.open(text, values, None, context(stage)) for text, values in listeners for _ in range(2)
        ]
        for stream in streams:
            assert '"errors"' not in await anext(stream)
        for event in events:
            stage.tell(event)
        # An UPDATE that another of the same candle follows at once is replaced by that one.
        kept = [e for e, n in zip(events, [*events[1:], None], strict=True) if not _conflates(e, n)]
        received = [[_plain(await anext(stream)) for _ in kept] for stream in streams]
        for stream in streams:
            await stream.aclose()
        for at, (text, values) in enumerate(listeners):
            expected = _json(await alone(text, values, kept))
            assert received[2 * at] == expected
            assert received[2 * at + 1] == expected

    asyncio.run(compare())


def _conflates(event: Event, follower: Event | None) -> bool:
    if follower is None or {event.kind, follower.kind} != {EventKind.UPDATE}:
        return False
    return event.candles.timestamp[-1] == follower.candles.timestamp[-1]


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Counter[object]:
    """How often each event was executed."""
    counted: Counter[object] = Counter()
    execute = live.execute

    def counting(executor: Any, event: Any) -> Any:
        counted[event] += 1
        return execute(executor, event)

    monkeypatch.setattr(live, "execute", counting)
    return counted


LIVE = f"subscription L($since: Timestamp) {{ {ROOT} {{ kind seq nodes {{ timestamp close }} }} }}"


async def _caught_up(stage: Stage, text: str, values: dict[str, Any], **given: Any) -> Any:
    stream = await SCHEMA.open(text, values, None, context(stage, **given))
    while orjson.loads(await anext(stream))["data"]["candles"]["nodes"]:
        pass
    return stream


async def test_an_event_is_executed_once_for_a_thousand_listeners(executed: Counter[object]) -> None:
    """With any `since`, in a variable or in the text, any spacing, and any account."""
    stage = Stage()
    for _ in range(3):
        stage.close()
    literal = (
        LIVE.replace("$since: Timestamp", "$unused: Int").replace("$since", str(FIRST)).replace("($unused: Int)", "")
    )
    asked: list[tuple[str, dict[str, Any]]] = [
        (LIVE, {}),
        (LIVE, {"since": FIRST}),
        (LIVE, {"since": FIRST + 60_000}),
        (literal, {}),
        (LIVE.replace(" ", "\n  ").replace(" L(", " AnotherName("), {}),
    ]
    somebody = Viewer(User(1, "a", Role.VIEWER, False, 1), frozenset({Role.VIEWER}), 2e12)
    streams = [await _caught_up(stage, *asked[at % 5]) for at in range(999)]
    streams.append(await _caught_up(stage, LIVE, {}, viewer=somebody))
    received = [stage.close(), stage.tell(Event(EventKind.CORRECTION, 5, candle(1, 9.0))), stage.move()]
    payloads = [[await anext(stream) for _ in received] for stream in streams]
    assert [executed[event] for event in received] == [1, 1, 1]
    assert all(one == payloads[0] for one in payloads)
    assert all(one is other for one, other in zip(payloads[0], payloads[-1], strict=True))  # the very same text
    for stream in streams:
        await stream.aclose()
    assert not stage.listeners


async def test_those_who_ask_otherwise_or_may_see_otherwise_have_an_execution_of_their_own(
    executed: Counter[object],
) -> None:
    stage = Stage()
    admin = Viewer(User(1, "a", Role.ADMIN, False, 1), frozenset(Role), 2e12)
    streams = [
        await _caught_up(stage, LIVE, {}),
        await _caught_up(stage, LIVE, {}, viewer=admin),
        await _caught_up(stage, LIVE.replace("close }", "close open }"), {}),
        await _caught_up(stage, LIVE.replace("seq", "number: seq"), {}),
        await _caught_up(
            stage,
            LIVE.replace("$since: Timestamp", "$since: Timestamp, $x: Boolean! = true").replace(
                "seq", "seq @skip(if: $x)"
            ),
            {},
        ),
        await _caught_up(
            stage,
            LIVE.replace("$since: Timestamp", "$since: Timestamp, $x: Boolean! = true").replace(
                "seq", "seq @skip(if: $x)"
            ),
            {"x": False},
        ),
    ]
    event = stage.close()
    payloads = [await anext(stream) for stream in streams]
    assert executed[event] == 6
    assert len(set(payloads)) == 4  # the admin gets the same, and so does a client without the skip
    for stream in streams:
        await stream.aclose()


async def test_an_event_is_executed_without_an_account() -> None:
    stage = Stage()
    seen = []
    somebody = Viewer(User(1, "a", Role.VIEWER, False, 1), frozenset({Role.VIEWER}), 2e12)
    stream = await _caught_up(stage, LIVE, {}, viewer=somebody, connection_params={"Authorization": "Bearer x"})
    (audience,) = {one for one in live._shared_executions.values() if one._executor.context_value.services.hub is stage}
    seen.append(audience._executor.context_value)
    await stream.aclose()
    assert seen[0].viewer == Viewer(roles=frozenset({Role.VIEWER}))
    assert seen[0].connection_params is None


async def test_a_caller_without_permission_does_not_join(executed: Counter[object]) -> None:
    """Somebody allowed is listening already."""
    stage = Stage()
    stream = await _caught_up(stage, LIVE, {})
    with pytest.raises(OperationRefused) as refused:
        await SCHEMA.open(LIVE, {}, None, context(stage, viewer=Viewer(roles=frozenset())))
    assert [error.extensions["code"] for error in refused.value.errors] == ["UNAUTHENTICATED"]
    assert len(stage.listeners) == 1
    await stream.aclose()


async def test_nothing_is_kept_of_an_audience_that_has_gone() -> None:
    stage = Stage()
    stream = await _caught_up(stage, LIVE, {})
    event = weakref.ref(stage.close())
    await anext(stream)
    await stream.aclose()
    gc.collect()
    stage.published.clear()
    assert event() is None
    assert not [one for one in live._shared_executions.values() if one._executor.context_value.services.hub is stage]


async def test_no_event_is_missing_or_repeated_where_the_history_ends() -> None:
    """A burst falls into the middle of the snapshots of some, and others come in the middle of the burst."""
    stage = Stage(page=10)
    for _ in range(35):
        stage.close()
    stage.gate.clear()

    async def listen(since: int, until: int) -> list[int]:
        stream = await SCHEMA.open(LIVE, {"since": since}, None, context(stage))
        stamps: list[int] = []
        async for payload in stream:
            stamps += [node["timestamp"] for node in orjson.loads(payload)["data"]["candles"]["nodes"]]
            if stamps and stamps[-1] >= until:
                await stream.aclose()
                return stamps
        return stamps

    last = FIRST + 234 * 60_000
    listening = [asyncio.create_task(listen(FIRST + at * 60_000, last)) for at in (0, 7, 20, 34)]
    await asyncio.sleep(0)
    for number in range(200):
        stage.close()
        if number == 60:
            stage.gate.set()
        if number % 50 == 0:
            listening.append(asyncio.create_task(listen(FIRST, last)))
        await asyncio.sleep(0)
    received = await asyncio.wait_for(asyncio.gather(*listening), HANG_S)
    for stamps, first in zip(received, [0, 7, 20, 34, 0, 0, 0, 0], strict=True):
        assert stamps == list(range(FIRST + first * 60_000, last + 1, 60_000))
    assert not stage.listeners


async def test_an_error_in_an_event_points_into_the_document_of_each_listener() -> None:
    """A result without errors is shared; for an invalid price each client gets the position in its own text."""
    stage = Stage()
    texts = [LIVE, "\n\n" + LIVE]
    streams = [await _caught_up(stage, text, {}) for text in texts]
    stage.close(float("nan"))
    errors = [orjson.loads(await anext(stream))["errors"][0] for stream in streams]
    assert [error["locations"][0]["line"] for error in errors] == [1, 3]
    assert {error["extensions"]["code"] for error in errors} == {"INTERNAL"}
    stage.close()
    assert await anext(streams[0]) is await anext(streams[1])
    for stream in streams:
        await stream.aclose()
