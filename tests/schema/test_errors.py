"""Every error has a code, says what to do about it, and disturbs nothing but its own field."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from graphql import GraphQLError

from candlegraph import CandlegraphError
from candlegraph.errors import Overloaded, Unavailable
from schema.errors import CodedErrors
from tests.fakes.laboratory import T0, ApiWorld

QUERY = """
query ($market: ID!, $provider: ID!, $symbol: String!, $timeframe: Timeframe! = "1m", $since: Timestamp,
       $until: Timestamp, $before: Timestamp, $limit: Int, $fill: Fill! = NONE, $timezone: String,
       $wait: Wait! = COMPLETE) {
  candles(market: $market, provider: $provider, symbol: $symbol, timeframe: $timeframe, since: $since, until: $until,
          before: $before, limit: $limit, fill: $fill, timezone: $timezone, wait: $wait) { nodes { timestamp } }
}
"""
GOOD = {"market": "lab", "provider": "bench", "symbol": "S0/USD"}
BAD_INPUT, NOT_FOUND = "BAD_USER_INPUT", "NOT_FOUND"

# Arguments beside the good ones, the code, and a part of the message.
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"since": 1_714_521_600}, BAD_INPUT, "looks like seconds: write 1714521600000"),
    ({"until": 1_714_521_600_000_000}, BAD_INPUT, "looks like microseconds: write 1714521600000"),
    ({"before": 1_714_521_600_000_000_000}, BAD_INPUT, "looks like nanoseconds: write 1714521600000"),
    ({"since": -2_208_988_800_001}, BAD_INPUT, "from -2208988800000 (1900) to 9999999999999 (2286)"),
    ({"since": "1899-12-31T23:59:59Z"}, BAD_INPUT, "from -2208988800000 (1900) to 9999999999999 (2286)"),
    ({"since": 1_000_000_001}, BAD_INPUT, "looks like seconds: write 1000000001000"),
    ({"since": 9_999_999_999}, BAD_INPUT, "looks like seconds: write 9999999999000"),
    ({"since": 10_000_000_000_000}, BAD_INPUT, "milliseconds"),
    ({"since": 1.5}, BAD_INPUT, "milliseconds"),
    ({"since": True}, BAD_INPUT, "milliseconds"),
    ({"since": "2024-05-01T00:00:00"}, BAD_INPUT, "has no offset"),
    ({"since": "2024-05-01"}, BAD_INPUT, "has no offset"),
    ({"since": "yesterday"}, BAD_INPUT, "2024-05-01T00:00:00Z"),
    ({"since": "1714521600000"}, BAD_INPUT, "milliseconds"),
    ({"since": "0001-01-01T00:00:00+14:00"}, BAD_INPUT, "milliseconds"),
    ({"since": "9999-12-31T23:59:59-14:00"}, BAD_INPUT, "milliseconds"),
    ({"until": T0, "before": T0}, BAD_INPUT, "give one of the two"),
    ({"since": T0 + 1, "until": T0}, BAD_INPUT, "swap them"),
    ({"since": T0 + 1, "before": T0}, BAD_INPUT, "swap them"),
    ({"limit": 0}, BAD_INPUT, "between 1 and 5000"),
    ({"limit": -1}, BAD_INPUT, "between 1 and 5000"),
    ({"limit": 5001}, BAD_INPUT, "between 1 and 5000"),
    ({"limit": 2**31}, BAD_INPUT, "32-bit"),
    ({"limit": 2**53}, BAD_INPUT, "32-bit"),
    ({"limit": "10"}, BAD_INPUT, "Int cannot represent"),
    ({"market": "nowhere"}, NOT_FOUND, "Unknown market 'nowhere'"),
    ({"market": "demo", "provider": "absent"}, NOT_FOUND, "no provider 'absent'"),
    ({"symbol": "NOPE"}, NOT_FOUND, "no symbol 'NOPE'"),
    ({"market": "demo", "provider": "synthetic", "symbol": "NOPE"}, NOT_FOUND, "no symbol 'NOPE'"),
    ({"timeframe": "1x"}, BAD_INPUT, "Unknown timeframe '1x'"),
    ({"timeframe": "11y"}, BAD_INPUT, "ten years"),
    ({"timeframe": ""}, BAD_INPUT, "Unknown timeframe"),
    ({"timeframe": 60}, BAD_INPUT, "Timeframe"),
    ({"timeframe": "99999999999999999999m"}, BAD_INPUT, "Unknown timeframe"),
    ({"timezone": "Mars/Olympus"}, BAD_INPUT, "Unknown time zone"),
    ({"timezone": "../../etc/passwd"}, BAD_INPUT, "Unknown time zone"),
    ({"timezone": ""}, BAD_INPUT, "Unknown time zone"),
    ({"timezone": "UTC\0"}, BAD_INPUT, "Unknown time zone"),
    ({"market": "a\0b"}, BAD_INPUT, "`market`"),
    ({"provider": "a\0b"}, BAD_INPUT, "`provider`"),
    ({"symbol": "a\0b"}, BAD_INPUT, "`symbol`"),
    ({"symbol": ""}, BAD_INPUT, "`symbol`"),
    ({"symbol": "x" * 129}, BAD_INPUT, "1 to 128 characters"),
    ({"market": "x" * 100_000}, BAD_INPUT, "1 to 128 characters"),
]
NAMES = [f"{max(wrong)}-{str(list(wrong.values())[-1])[:24]!r}" for wrong, _, _ in BAD]


def _literal(value: object) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\0", "\\u0000")
        return f'"{escaped}"'
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize(("wrong", "code", "hint"), BAD, ids=NAMES)
async def test_a_wrong_variable_is_a_coded_error_with_a_hint(
    lab: ApiWorld, wrong: dict[str, Any], code: str, hint: str
) -> None:
    answer = await lab.ask(QUERY, {**GOOD, **wrong})
    assert [error["extensions"]["code"] for error in answer["errors"]] == [code]
    assert hint in answer["errors"][0]["message"]


@pytest.mark.parametrize(("wrong", "code", "hint"), BAD, ids=NAMES)
async def test_a_wrong_literal_is_the_same_error(lab: ApiWorld, wrong: dict[str, Any], code: str, hint: str) -> None:
    arguments = ", ".join(f"{name}: {_literal(value)}" for name, value in {**GOOD, **wrong}.items())
    answer = await lab.ask(f"{{ candles({arguments}) {{ nodes {{ timestamp }} }} }}")
    assert [error["extensions"]["code"] for error in answer["errors"]] == [code]
    assert hint in answer["errors"][0]["message"]


@pytest.mark.parametrize("half", ["\ud800", "a\udfffb"])
async def test_half_a_surrogate_pair_is_no_name(lab: ApiWorld, half: str) -> None:
    """PostgreSQL takes none; JSON and GraphQL cannot carry one, but Python can."""
    for name in GOOD:
        answer = await lab.ask(QUERY, {**GOOD, name: half})
        assert answer["errors"][0]["extensions"]["code"] == BAD_INPUT
    answer = await lab.ask('{ candles(market: "\\ud800", provider: "p", symbol: "s") { complete } }')
    assert answer["errors"][0]["extensions"]["code"] == "GRAPHQL_PARSE_FAILED"


@pytest.mark.parametrize(
    "field",
    [
        'providers(market: "a\\u0000") { id }',
        'symbols(market: "a\\u0000", provider: "synthetic") { totalCount }',
        'symbols(market: "demo", provider: "a\\u0000") { totalCount }',
        'symbols(market: "demo", provider: "synthetic", search: "\\u0000") { totalCount }',
        'symbols(market: "demo", provider: "synthetic", after: "nonsense!") { totalCount }',
        'symbols(market: "demo", provider: "synthetic", after: "AAA=") { totalCount }',
        'symbols(market: "demo", provider: "synthetic", after: "é") { totalCount }',
        'symbols(market: "demo", provider: "synthetic", first: -1) { totalCount }',
        'symbols(market: "demo", provider: "synthetic", first: 1001) { totalCount }',
        'symbol(market: "demo", provider: "synthetic", symbol: "a\\u0000") { id }',
    ],
)
async def test_wrong_arguments_of_the_other_fields_are_bad_input(lab: ApiWorld, field: str) -> None:
    answer = await lab.ask(f"{{ {field} }}")
    assert [error["extensions"]["code"] for error in answer["errors"]] == [BAD_INPUT]


@pytest.mark.parametrize(
    "field",
    [
        'providers(market: "nowhere") { id }',
        'symbols(market: "nowhere", provider: "synthetic") { totalCount }',
        'symbols(market: "demo", provider: "absent") { totalCount }',
        'symbol(market: "demo", provider: "synthetic", symbol: "NOPE") { id }',
    ],
)
async def test_what_does_not_exist_is_not_found(lab: ApiWorld, field: str) -> None:
    answer = await lab.ask(f"{{ {field} }}")
    assert [error["extensions"]["code"] for error in answer["errors"]] == [NOT_FOUND]


@pytest.mark.parametrize(
    "text", ["", "{", "{ markets { id }", 'query { a(b: "\\ud800") }', "{ markets { id } } }", "fragment", "#"]
)
async def test_what_is_no_graphql_fails_to_parse(lab: ApiWorld, text: str) -> None:
    answer = await lab.ask(text or " ")
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["GRAPHQL_PARSE_FAILED"]


@pytest.mark.parametrize(
    "text",
    [
        "{ nope }",
        "{ markets }",
        "{ markets { id { id } } }",
        '{ candles(market: "lab") { complete } }',
        '{ candles(market: $m, provider: "p", symbol: "s") { complete } }',
        "{ ...F }",
        "query ($unused: Int) { markets { id } }",
        "query ($s: String) { providers(market: $s) { id } }",
        "{ markets { id } markets: __typename }",
    ],
)
async def test_what_breaks_the_schema_fails_to_validate(lab: ApiWorld, text: str) -> None:
    answer = await lab.ask(text)
    assert {error["extensions"]["code"] for error in answer["errors"]} == {"GRAPHQL_VALIDATION_FAILED"}


async def test_a_wrong_enum_is_bad_input(lab: ApiWorld) -> None:
    for answer in (
        await lab.ask(QUERY, {**GOOD, "fill": "SOME"}),
        await lab.ask('{ candles(market: "lab", provider: "bench", symbol: "S0/USD", fill: SOME) { complete } }'),
    ):
        assert [error["extensions"]["code"] for error in answer["errors"]] == [BAD_INPUT]


async def test_a_missing_variable_is_bad_input(lab: ApiWorld) -> None:
    answer = await lab.ask(QUERY, {"market": "lab"})
    assert {error["extensions"]["code"] for error in answer["errors"]} == {BAD_INPUT}


async def test_a_number_longer_than_python_reads_is_bad_input(lab: ApiWorld, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("limit", "since"):
        text = f'{{ candles(market: "m", provider: "p", symbol: "s", {name}: {"9" * 10_000}) {{ complete }} }}'
        answer = await lab.ask(text)
        assert [error["extensions"]["code"] for error in answer["errors"]] == [BAD_INPUT]
        assert len(answer["errors"][0]["message"]) < 600
    assert not caplog.records


async def test_several_operations_without_a_name_are_refused_and_with_one_answered(lab: ApiWorld) -> None:
    text = "query A { markets { id } } query B { __typename }"
    answer = await lab.ask(text)
    assert [error["extensions"]["code"] for error in answer["errors"]] == [BAD_INPUT]
    assert "operationName" in answer["errors"][0]["message"]
    assert (await lab.ask(text, name="B"))["data"] == {"__typename": "Query"}


async def test_of_ten_aliases_the_seven_good_ones_answer_and_the_three_bad_ones_say_where(lab: ApiWorld) -> None:
    bad = {2: ("limit: 0", BAD_INPUT), 5: ('timezone: "Mars"', BAD_INPUT), 7: ("", NOT_FOUND)}
    aliases = [
        f'a{i}: candles(market: "lab", provider: "bench", symbol: "{"NOPE" if i == 7 else f"S{i}/USD"}", '
        f"since: {T0}, until: {T0 + 60_000} {bad.get(i, ('', ''))[0]}) {{ nodes {{ timestamp open }} }}"
        for i in range(10)
    ]
    answer = await lab.ask("{ " + " ".join(aliases) + " }")
    good = {"nodes": [{"timestamp": T0, "open": 100.0}]}
    assert answer["data"] == {f"a{i}": None if i in bad else good for i in range(10)}
    found = {error["path"][0]: error["extensions"]["code"] for error in answer["errors"]}
    assert found == {f"a{i}": code for i, (_, code) in bad.items()}
    assert all(len(error["path"]) == 1 and error["locations"] for error in answer["errors"])


BATCH = "query ($series: [SeriesInput!]!) { markets { id } candlesBatch(series: $series, limit: 1) { symbol } }"


async def test_an_item_of_a_batch_that_fails_is_null_and_its_error_carries_its_path(lab: ApiWorld) -> None:
    names = ["S0/USD", "NOPE", "S1/USD", "a\0", "", "S2/USD"]
    answer = await lab.ask(BATCH, {"series": [{**GOOD, "symbol": name} for name in names]})
    assert [item and item["symbol"] for item in answer["data"]["candlesBatch"]] == [
        "S0/USD",
        None,
        "S1/USD",
        None,
        None,
        "S2/USD",
    ]
    found = [(error["path"], error["extensions"]["code"]) for error in answer["errors"]]
    assert sorted(found) == [
        (["candlesBatch", 1], NOT_FOUND),
        (["candlesBatch", 3], BAD_INPUT),
        (["candlesBatch", 4], BAD_INPUT),
    ]
    assert answer["data"]["markets"]


async def test_an_argument_that_is_wrong_for_all_of_a_batch_fails_every_item_alike(lab: ApiWorld) -> None:
    text = f"{{ candlesBatch(series: [{_series('S0/USD')}, {_series('S1/USD')}], limit: 0) {{ symbol }} }}"
    answer = await lab.ask(text)
    assert answer["data"] == {"candlesBatch": [None, None]}
    assert [error["extensions"]["code"] for error in answer["errors"]] == [BAD_INPUT] * 2


async def test_a_batch_is_at_most_a_hundred_series_long_and_may_be_empty(lab: ApiWorld) -> None:
    full = await lab.ask(BATCH, {"series": [GOOD] * 100})
    assert len(full["data"]["candlesBatch"]) == 100
    assert not full["errors"]
    over = await lab.ask(BATCH, {"series": [GOOD] * 101})
    assert [error["extensions"]["code"] for error in over["errors"]] == [BAD_INPUT]
    assert (await lab.ask(BATCH, {"series": []}))["data"]["candlesBatch"] == []


def _series(symbol: str) -> str:
    return f'{{ market: "lab", provider: "bench", symbol: "{symbol}" }}'


async def test_what_we_did_not_foresee_is_masked_and_logged_once(
    lab: ApiWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> list[Any]:
        raise RuntimeError("select secret from /etc/passwd at postgresql://user:hunter2@host/db")

    monkeypatch.setattr(lab.services.history.instruments, "stored_providers", fail)
    with caplog.at_level(logging.DEBUG):
        answer = await lab.ask('{ good: __typename  bad: providers(market: "demo") { id } }')
    assert answer["data"] == {"good": "Query", "bad": None}
    (error,) = answer["errors"]
    assert error["extensions"] == {"code": "INTERNAL", "requestId": "request-1"}
    assert error["path"] == ["bad"]
    assert not any(word in str(answer) for word in ("hunter2", "passwd", "RuntimeError", "select"))
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "request-1" in record.getMessage()
    assert record.exc_info
    assert "hunter2" in str(record.exc_info[1])


async def test_a_clients_mistake_is_not_logged(lab: ApiWorld, caplog: pytest.LogCaptureFixture) -> None:
    for text in ("{", "{ nope }", '{ candles(market: "a", provider: "b", symbol: "c", limit: 0) { complete } }'):
        await lab.ask(text)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(("error", "code"), [(Unavailable, "UNAVAILABLE"), (Overloaded, "OVERLOADED")])
async def test_a_database_that_is_away_is_said_with_a_hint_when_to_retry(
    lab: ApiWorld, monkeypatch: pytest.MonkeyPatch, error: type[CandlegraphError], code: str
) -> None:
    async def away(*_: object) -> Any:
        raise error(retry_after=1)

    monkeypatch.setattr(type(lab.database), "read", away)
    # Otherwise a symbol that was just looked up is still known.
    monkeypatch.setattr(lab.database, "timings", replace(lab.database.timings, record_ttl_s=0.0))
    arguments = 'market: "lab", provider: "bench", symbol: "S0/USD"'
    answer = await lab.ask(f"{{ __typename a: candles({arguments}) {{ complete }} b: symbol({arguments}) {{ id }} }}")
    assert answer["data"] == {"__typename": "Query", "a": None, "b": None}
    assert {e["extensions"]["code"] for e in answer["errors"]} == {code}
    assert {e["extensions"]["retryAfter"] for e in answer["errors"]} == {1}


def test_a_message_that_quotes_a_long_request_is_cut() -> None:
    extension: Any = CodedErrors()
    extension.execution_context = SimpleNamespace(context=None)
    coded = extension._coded(GraphQLError("x" * 100_000, extensions={"code": "ANY"}, path=["a"]))
    assert len(coded.message) < 600
