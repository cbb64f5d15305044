"""History: every form holds the same bits as the API, and says what is missing."""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from cable import Cable
from candlegraph_client import Candles, Client, errors
from conftest import MINUTE_MS, NUMBERS, T0, Row, Server

SERIES = "demo/synthetic/BTC/USD"
OLD = -315_619_200_000  # 1960-01-01


def walk(count: int, since: int = T0, scale: float = 1.0, seed: int = 5) -> list[Row]:
    """A random walk of 1m candles."""
    rng = np.random.default_rng(seed)
    opened = (100 + np.cumsum(rng.normal(0, 0.1, count))) * scale
    closed = opened + rng.normal(0, 0.1, count) * scale
    high, low = np.maximum(opened, closed) * 1.001, np.minimum(opened, closed) * 0.999
    columns = (since + np.arange(count) * MINUTE_MS, opened, high, low, closed, rng.random(count) * 10)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@pytest.fixture(scope="module")
def stored(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Row]]:
    """Series of one kind each."""
    rows = {
        "x/imp/A/B/C": walk(3_000),
        "x/imp/TINY": walk(200, scale=1e-12),
        "x/imp/OLD": walk(2_000, since=OLD),
        "x/imp/GAPS": [row for row in walk(3_000) if not 1_000 <= (row[0] - T0) // MINUTE_MS < 2_000],
        "x/imp/LONG": walk(30_000),
    }
    server.store(tmp_path_factory.mktemp("rows"), rows)
    return rows


def columns_of(nodes: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [node[name] for node in nodes] for name in ("timestamp", *NUMBERS)}


def all_forms(client: Client, series: str, timeframe: str, **options: Any) -> dict[str, dict[str, list[Any]]]:
    """The columns of each form as Python numbers."""
    frame = client.history(series, timeframe, **options)
    polars = client.history.polars(series, timeframe, **options)
    arrow = client.history.arrow(series, timeframe, **options)
    arrays = client.history.numpy(series, timeframe, **options)
    times = {
        "pandas": frame.index.as_unit("ms").asi8.tolist(),
        "polars": polars["timestamp"].dt.epoch("ms").to_list(),
        "arrow": arrow["timestamp"].cast(pa.int64()).to_pylist(),
        "numpy": arrays["timestamp"].astype(np.int64).tolist(),
    }
    found: dict[str, Any] = {"pandas": frame, "polars": polars, "arrow": arrow, "numpy": arrays}
    listed = {"pandas": "tolist", "polars": "to_list", "arrow": "to_pylist", "numpy": "tolist"}
    return {
        form: {"timestamp": times[form]} | {name: getattr(data[name], listed[form])() for name in NUMBERS}
        for form, data in found.items()
    }


@pytest.mark.parametrize("fetch", [True, False])
@pytest.mark.parametrize(
    ("series", "timeframe", "timezone"),
    [
        ("x/imp/A/B/C", "1m", None),
        ("x/imp/A/B/C", "7m", None),
        ("x/imp/A/B/C", "1d", "America/New_York"),
        ("x/imp/TINY", "1m", None),
        ("x/imp/OLD", "1h", None),
        ("x/imp/GAPS", "1m", None),
        ("x/imp/LONG", "1m", None),
    ],
)
def test_every_form_equals_the_api_bit_for_bit(
    server: Server,
    client: Client,
    stored: dict[str, list[Row]],
    series: str,
    timeframe: str,
    timezone: str | None,
    fetch: bool,
) -> None:
    since, until = stored[series][0][0], stored[series][-1][0] + MINUTE_MS
    zone = {"timezone": timezone} if timezone else {}
    expected = columns_of(server.query(series, timeframe, since=since, until=until, **zone)["nodes"])
    assert len(expected["timestamp"]) > 0
    for form, columns in all_forms(client, series, timeframe, since=since, until=until, fetch=fetch, **zone).items():
        assert columns == expected, form


def test_a_minute_of_an_import_is_what_was_imported(client: Client, stored: dict[str, list[Row]]) -> None:
    for series in ("x/imp/TINY", "x/imp/OLD"):
        rows = stored[series]
        columns = all_forms(client, series, "1m", since=rows[0][0], until=rows[-1][0] + 1)["pandas"]
        assert list(zip(*columns.values(), strict=True)) == rows


def test_a_frame_has_a_utc_index_and_says_what_it_is(server: Server, client: Client, stored: Any) -> None:
    frame = client.history("x/imp/GAPS", "1m", since=T0, until=T0 + 3_000 * MINUTE_MS)
    assert isinstance(frame.index, pd.DatetimeIndex)
    assert (frame.index.name, str(frame.index.tz), list(frame.columns)) == ("timestamp", "UTC", list(NUMBERS))
    assert {str(kind) for kind in frame.dtypes} == {"float64"}
    attrs = frame.attrs
    assert attrs["complete"] is False
    [gap] = attrs["gaps"]
    assert (gap["since"], gap["until"], gap["reason"]) == (
        "2024-05-01T16:40:00Z",
        "2024-05-02T09:20:00Z",
        "NOT_FETCHED",
    )
    assert {source["source"] for source in attrs["sources"]} <= {"STORE", "CACHE"}
    assert (attrs["series"], attrs["timeframe"], attrs["timezone"]) == ("x/imp/GAPS", "1m", "UTC")
    assert attrs["revision"] == "0"
    assert attrs["server_id"]
    assert json.loads(json.dumps(attrs)) == attrs  # pandas writes them into a Parquet file
    table = client.history.arrow("x/imp/GAPS", "1m", since=T0, until=T0 + 3_000 * MINUTE_MS)
    assert json.loads(table.schema.metadata[b"candlegraph"])["gaps"] == attrs["gaps"]


def test_every_form_is_one_call_from_what_is_known_of_the_candles(client: Client, stored: Any) -> None:
    """A polars frame and arrays have no place for it."""
    span = {"since": T0, "until": T0 + 3_000 * MINUTE_MS}
    candles = client.history.candles("x/imp/GAPS", "1m", **span)
    frame = client.history("x/imp/GAPS", "1m", **span)
    assert candles.attrs == frame.attrs == candles.pandas().attrs
    assert (candles.complete, candles.revision, candles.gaps[0]["since"]) == (False, "0", T0 + 1_000 * MINUTE_MS)
    assert {source["source"] for source in candles.sources} <= {"STORE", "CACHE"}
    assert candles.polars().equals(client.history.polars("x/imp/GAPS", "1m", **span))
    assert candles.arrow().equals(client.history.arrow("x/imp/GAPS", "1m", **span), check_metadata=True)
    assert candles.numpy()["close"].tolist() == frame["close"].tolist()
    assert repr(candles) == "<Candles x/imp/GAPS 1m: 2,000, incomplete, gaps: 1>"


def test_a_notebook_shows_the_series_its_gaps_and_its_ends(client: Client, stored: Any) -> None:
    shown = client.history.candles("x/imp/GAPS", "1m", since=T0, until=T0 + 3_000 * MINUTE_MS)._repr_html_()
    for text in ("x/imp/GAPS", "1m, UTC, candles: 2,000", "incomplete, gaps: 1", "2024-05-02T09:20:00Z: NOT_FETCHED"):
        assert text in shown
    first, last = stored["x/imp/GAPS"][0], stored["x/imp/GAPS"][-1]
    assert all(f"<td>{number!r}</td>" in shown for number in (*first[1:], *last[1:]))
    assert shown.count("<tr>") == 1 + 3 + 1 + 3
    few = client.history.candles("x/imp/TINY", "1m", since=T0, until=T0 + 2 * MINUTE_MS)._repr_html_()
    assert (few.count("<tr>"), "incomplete" in few) == (1 + 2, False)


def test_a_notebook_shows_names_as_text() -> None:
    columns = Candles.of({name: [] for name in ("timestamp", *NUMBERS)}).columns
    gap = {"since": 0, "until": 1, "reason": "OUTAGE", "detail": "<script>"}
    shown = Candles(columns, (gap,) * 8, series="m/p/<b>", timeframe="1m")._repr_html_()
    assert "<script>" not in shown
    assert "m/p/&lt;b&gt;" in shown
    assert "and 3 more" in shown


def test_the_server_fetches_what_is_missing(client: Client) -> None:
    span = {"since": "2023-01-01", "until": "2023-01-15"}
    with pytest.raises(errors.NotFound, match="Nothing is stored"):
        client.history("demo/synthetic/ETH/USD", "1m", fetch=False, **span)
    frame = client.history("demo/synthetic/ETH/USD", "1m", **span)
    assert len(frame) == 14 * 1_440
    assert frame.attrs["complete"] is True
    assert {source["source"] for source in frame.attrs["sources"]} >= {"PROVIDER"}
    stored = client.history("demo/synthetic/ETH/USD", "1m", fetch=False, **span)
    pd.testing.assert_frame_equal(frame, stored, check_exact=True)


def test_a_long_span_is_exported_and_only_its_gaps_are_queried(server: Server, cable: Cable) -> None:
    with Client(server.url) as direct:
        direct.history(SERIES, "1m", since="2022-02-01", until="2022-02-11")
        direct.history(SERIES, "1m", since="2022-02-12", until="2022-03-01")
    requests: list[str] = []
    with Client(cable.url) as client:
        client.session._http.event_hooks["request"] = [lambda request: requests.append(request.url.path)]
        frame = client.history(SERIES, "1m", since="2022-02-01", until="2022-03-01")
    assert requests == ["/export/candles.arrow", "/graphql"]
    assert (len(frame), frame.attrs["complete"]) == (28 * 1_440, True)


def test_the_newest_candles_are_closed_ones(client: Client) -> None:
    frame = client.history(SERIES, "1m", limit=3)
    assert len(frame) == 3
    assert frame.index[-1] <= pd.Timestamp.now("UTC").floor("min") - pd.Timedelta("1min")
    assert len(client.history(SERIES, "1m", limit=5_500, until="2024-05-05")) == 5_500
    assert len(client.history(SERIES, "1m", until="2024-05-05")) == 500


@pytest.mark.parametrize(
    "since",
    [
        "2024-05-01T00:00:00Z",
        "2024-05-01",
        "2024-05-01T02:00+02:00",
        date(2024, 5, 1),
        datetime(2024, 5, 1),  # noqa: DTZ001 - what names no time zone is UTC
        datetime(2024, 5, 1, tzinfo=UTC),
        pd.Timestamp("2024-05-01", tz="UTC"),
        np.datetime64("2024-05-01"),
        T0,
    ],
)
def test_an_instant_may_be_given_in_many_ways(client: Client, since: Any) -> None:
    frame = client.history(SERIES, "1h", since=since, until="2024-05-01T01:00Z")
    assert frame.index.tolist() == [pd.Timestamp("2024-05-01", tz="UTC")]


@pytest.mark.parametrize(
    ("series", "timeframe", "options", "kind", "sentence"),
    [
        ("binance", "1m", {}, errors.BadUserInput, "not market/provider/symbol"),
        (SERIES, "1 hour", {}, errors.BadUserInput, "not a timeframe"),
        (SERIES, "1h", {"since": "yesterday"}, errors.BadUserInput, "no instant"),
        (SERIES, "1h", {"since": "2024-02-01", "until": "2024-01-01"}, errors.BadUserInput, "swap them"),
        (SERIES, "1h", {"since": "2024-02-01", "limit": 3}, errors.BadUserInput, "`since` or `limit`"),
        (SERIES, "1h", {"limit": 0}, errors.BadUserInput, "at least 1"),
        (SERIES, "1h", {"cache": True}, errors.BadUserInput, "Give `since`"),
        (SERIES, "1h", {"since": "2024-02-01", "cache": True, "fetch": False}, errors.BadUserInput, "leave `cache`"),
        (SERIES, "1h", {"timezone": "Mars/Base"}, errors.BadUserInput, "time zone"),
        ("demo/synthetic/NOPE", "1h", {}, errors.NotFound, "no symbol"),
        ("demo/nope/BTC/USD", "1h", {}, errors.NotFound, "no provider"),
        ("x/imp/NEVER", "1h", {"fetch": False}, errors.NotFound, "Nothing is stored"),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_sentence(
    client: Client, series: str, timeframe: str, options: Any, kind: type[errors.CandlegraphError], sentence: str
) -> None:
    with pytest.raises(kind, match=sentence) as caught:
        client.history(series, timeframe, **options)
    assert caught.value.code == kind.code


@pytest.mark.parametrize("name", ["pandas", "polars", "pyarrow"])
def test_a_library_that_is_not_installed_is_named_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with Client("http://127.0.0.1:9") as nowhere:
        form = {"pandas": nowhere.history, "polars": nowhere.history.polars, "pyarrow": nowhere.history.arrow}[name]
        with pytest.raises(errors.MissingLibrary) as caught:
            form(SERIES, "1h", since="2024-01-01")
    assert str(caught.value) == f"{name} is not installed: run pip install 'candlegraph-client[{name}]'."


def test_without_pyarrow_everything_comes_by_the_query(
    client: Client, stored: dict[str, list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = client.history("x/imp/LONG", "1m", since=T0)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    frame = client.history("x/imp/LONG", "1m", since=T0)
    pd.testing.assert_frame_equal(frame, expected, check_exact=True)


def test_an_installed_package_is_typed() -> None:
    import candlegraph_client

    assert (Path(candlegraph_client.__file__).parent / "py.typed").is_file()
