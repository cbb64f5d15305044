"""One bad plugin, and one bad provider, is shown with its reason and disturbs no other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from candlegraph import clock
from candlegraph.errors import ConfigurationError, ProviderError, ProviderRefused, ProviderStarting, ProviderUnavailable
from candlegraph.provider import ENTRY_POINT_GROUP, Market, Provider, UnconfiguredProvider
from candlegraph.series import Instrument
from candlegraph.span import Span
from candlegraph.timeframe import MINUTE
from candlegraph.upstream import CallFailure, ProviderState
from providers import registry as registry_module
from providers.guard.guard import Guard
from providers.registry import START_RETRY_MS, Registry
from tests.fakes.clocks import SteppingClock, set_clock
from tests.fakes.starting import ENVIRON, Point, Starting, of, registry
from tests.fakes.upstream import FakeUpstream, minutes, raising
from tests.waiting import eventually


def unwrapped(upstream: object) -> object:
    """The provider within its guard."""
    assert isinstance(upstream, Guard)
    return upstream._provider


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time, to be set."""
    time = [1_700_000_000_000]
    set_clock(monkeypatch, lambda: time[0])
    return time


async def test_a_factory_gets_the_environment_and_may_bring_many_providers() -> None:
    seen: list[Mapping[str, str]] = []

    def create(environ: Mapping[str, str]) -> Iterable[Provider]:
        seen.append(environ)
        for name in ("b", "a"):
            yield FakeUpstream(id=name)

    found = registry(Point("fake.many", create))
    assert seen == [{**ENVIRON, "PROVIDERS_DISABLED": ""}]
    assert [(status.market.id, status.id, status.state) for status in found.statuses()] == [
        ("fake", "a", ProviderState.READY), ("fake", "b", ProviderState.READY),
    ]  # fmt: skip
    one = await found.get("fake", "a")
    assert one is not None
    assert one.id == "a"
    assert await found.get("fake", "c") is None
    assert await found.get("mars", "a") is None


@pytest.mark.parametrize(
    "error",
    [ImportError("no module named x"), SyntaxError("what"), TypeError("create() takes 0"), SystemExit("no licence")],
)
async def test_a_plugin_that_cannot_be_loaded_is_shown_with_the_reason_and_disturbs_no_other(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(environ: Mapping[str, str]) -> Iterable[Provider]:
        raise error

    for culprit in (Point("mars.rover", error), Point("mars.rover", broken)):
        found = registry(culprit, of(good := FakeUpstream()))
        shown = {status.id: status for status in found.statuses()}
        assert (shown["rover"].market.id, shown["rover"].state) == ("mars", ProviderState.FAILED)
        assert str(error) in str(shown["rover"].reason)
        assert "package.module:create" in str(shown["rover"].reason)
        assert unwrapped(await found.get("fake", "upstream")) is good
        with pytest.raises(ProviderUnavailable, match=r"package\.module:create"):
            await found.get("mars", "rover")
        await found.close()
    assert "mars.rover" in caplog.text


def test_an_interrupt_during_the_import_of_a_plugin_ends_the_start() -> None:
    with pytest.raises(KeyboardInterrupt):
        registry(Point("mars.rover", KeyboardInterrupt()))


async def test_a_provider_that_exits_when_it_starts_has_failed_and_ends_nothing() -> None:
    class Exits(FakeUpstream):
        async def start(self) -> None:
            raise SystemExit("no licence")

    found = registry(of(Exits()))
    with pytest.raises(ProviderUnavailable, match="no licence"):
        await found.get("fake", "upstream")
    assert found.statuses()[0].state is ProviderState.FAILED


def test_a_wrong_setting_of_a_plugin_stops_the_start() -> None:
    with pytest.raises(ConfigurationError, match="FAKE_KEY"):
        registry(of(FakeUpstream()), Point("x.y", ConfigurationError("FAKE_KEY is wrong.")))


async def test_of_two_plugins_that_bring_the_same_name_neither_is_used() -> None:
    found = registry(of(FakeUpstream(), "fake.one"), of(FakeUpstream(), "fake.two"))
    (status,) = found.statuses()
    assert status.state is ProviderState.FAILED
    assert "fake/upstream" in str(status.reason)
    with pytest.raises(ProviderUnavailable, match="uninstall one"):
        await found.get("fake", "upstream")


@pytest.mark.parametrize("name", ["a b", "a/b", "a:b", "é", "x" * 65])
async def test_a_provider_whose_name_an_id_would_have_to_encode_is_not_used(name: str) -> None:
    found = registry(of(FakeUpstream(id=name)), of(FakeUpstream(), "fake.good"))
    shown = {status.id: status for status in found.statuses()}
    assert shown[name].state is ProviderState.FAILED
    assert "64 letters" in str(shown[name].reason)
    with pytest.raises(ProviderUnavailable, match="64 letters"):
        await found.get("fake", name)
    assert found.running("fake", "upstream") is None
    good = await found.get("fake", "upstream")
    assert found.running("fake", "upstream") is good


async def test_a_provider_is_started_at_its_first_use_and_once_for_all_callers() -> None:
    provider = Starting()
    found = registry(of(provider))
    found.statuses()
    assert provider.starts == 0
    guards = await asyncio.gather(*(found.get("fake", "upstream") for _ in range(20)))
    assert {unwrapped(guard) is provider for guard in guards} == {True}
    assert provider.starts == 1


@pytest.mark.parametrize(
    ("error", "state", "code", "said"),
    [
        (ConfigurationError("Set FAKE_KEY."), ProviderState.NOT_CONFIGURED, "PROVIDER_UNAVAILABLE", "Set FAKE_KEY."),
        (ProviderUnavailable("It is down."), ProviderState.FAILED, "PROVIDER_UNAVAILABLE", "It is down."),
        (ProviderRefused("No."), ProviderState.FAILED, "PROVIDER_REFUSED", "No."),
        (OSError("no route"), ProviderState.FAILED, "PROVIDER_UNAVAILABLE", "no route"),
    ],
)
async def test_a_provider_that_does_not_start_is_tried_again_after_a_while(
    error: Exception, state: ProviderState, code: str, said: str, now: list[int]
) -> None:
    provider, other = Starting(), FakeUpstream(id="other")
    provider.failing = error
    found = registry(of(provider), of(other, "fake.other"))
    with pytest.raises(ProviderError, match=said) as caught:
        await found.get("fake", "upstream")
    assert caught.value.code == code
    status = {status.id: status for status in found.statuses()}["upstream"]
    assert (status.state, status.retry_at) == (state, now[0] + START_RETRY_MS)
    assert said in str(status.reason)
    assert unwrapped(await found.get("fake", "other")) is other

    now[0] += START_RETRY_MS - 1_000
    with pytest.raises(ProviderUnavailable, match=said) as again:
        await found.get("fake", "upstream")
    assert again.value.retry_after == 1
    assert provider.starts == 1
    now[0] += 1_000
    provider.failing = None
    assert unwrapped(await found.get("fake", "upstream")) is provider
    status = {status.id: status for status in found.statuses()}["upstream"]
    assert (status.state, status.reason, status.retry_at) == (ProviderState.READY, None, None)


async def test_a_step_of_the_wall_clock_delays_no_second_start(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = SteppingClock(monkeypatch, 10**12)
    provider = Starting()
    provider.failing = ProviderUnavailable("It is down.")
    found = registry(of(provider))
    with pytest.raises(ProviderUnavailable):
        await found.get("fake", "upstream")
    machine.step_ms = -3_600_000
    (status,) = found.statuses()
    assert status.retry_at == clock.now_ms() + START_RETRY_MS
    machine.now += START_RETRY_MS
    provider.failing = None
    assert unwrapped(await found.get("fake", "upstream")) is provider


async def test_an_asker_that_leaves_during_the_start_leaves_the_provider_startable() -> None:
    provider = Starting()
    provider.slow = asyncio.Event()
    found = registry(of(provider))
    asker = asyncio.create_task(found.get("fake", "upstream"))
    await eventually(lambda: provider.starts)
    asker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asker
    provider.slow.set()
    assert unwrapped(await found.get("fake", "upstream")) is provider


async def test_a_long_start_is_begun_once_and_succeeds_although_all_who_asked_have_left() -> None:
    provider = Starting(slow=asyncio.Event())
    found = registry(of(provider))
    for _ in range(4):
        for left in await asyncio.gather(
            *(found.get("fake", "upstream", timeout_s=0) for _ in range(2)), return_exceptions=True
        ):
            assert isinstance(left, ProviderStarting)
            assert (left.code, left.retry_after) == ("PROVIDER_UNAVAILABLE", 5)
    (status,) = found.statuses()
    assert (status.state, status.reason) == (ProviderState.DEGRADED, "Upstream is starting.")
    waiting = [asyncio.create_task(found.get("fake", "upstream")) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    provider.slow.set()
    assert unwrapped(await waiting[1]) is provider
    assert (provider.starts, provider.ended) == (1, ["started"])
    (status,) = found.statuses()
    assert (status.state, status.reason) == (ProviderState.READY, None)


async def test_all_waiting_callers_get_the_error_of_a_long_start_and_it_is_tried_again_later(now: list[int]) -> None:
    provider = Starting(slow=asyncio.Event())
    provider.failing = ProviderRefused("No.")
    found = registry(of(provider))
    waiting = [asyncio.create_task(found.get("fake", "upstream")) for _ in range(3)]
    await asyncio.sleep(0)
    now[0] += 60_000
    provider.slow.set()
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert {(type(error), str(error)) for error in errors} == {(ProviderRefused, "No.")}
    with pytest.raises(ProviderUnavailable) as early:
        await found.get("fake", "upstream")
    assert early.value.retry_after == START_RETRY_MS / 1000, "counted from when it failed"
    now[0] += START_RETRY_MS
    provider.failing = None
    assert unwrapped(await found.get("fake", "upstream")) is provider
    assert provider.starts == 2


async def test_closing_cancels_a_start_and_waits_for_it() -> None:
    provider = Starting(slow=asyncio.Event())
    found = registry(of(provider))
    waiting = asyncio.create_task(found.get("fake", "upstream"))
    while not provider.starts:
        await asyncio.sleep(0)
    await found.close()
    assert (provider.ended, provider.closes) == (["cancelled"], 1), "it ended before the provider was closed"
    with pytest.raises(ProviderUnavailable):
        await waiting


async def test_a_start_that_cancels_itself_has_failed() -> None:
    provider = Starting()
    provider.failing = asyncio.CancelledError()
    found = registry(of(provider))
    with pytest.raises(ProviderUnavailable, match="CancelledError"):
        await found.get("fake", "upstream")
    assert found.statuses()[0].state is ProviderState.FAILED


async def test_closing_closes_everything_although_one_fails(caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Starting(id="bad"), Starting(id="good")
    bad.failing_close = RuntimeError("stuck")
    found = registry(of(bad, "fake.bad"), of(good, "fake.good"))
    with caplog.at_level(logging.WARNING, "providers.registry"):
        await found.close()
    assert (bad.closes, good.closes) == (1, 1)
    assert "stuck" in caplog.text


async def test_a_provider_that_lacks_a_setting_is_listed_with_the_reason_and_never_called() -> None:
    market = Market("stocks", "Stocks", "")
    lacking = UnconfiguredProvider(market, "broker", "Broker", "Shares.", "2", "Set BROKER_KEY.")
    found = registry(of(lacking, "stocks.broker"), of(FakeUpstream()))
    status = found.statuses()[1]
    assert (status.market, status.id, status.name, status.version) == (market, "broker", "Broker", "2")
    assert (status.state, status.reason, status.budget) == (ProviderState.NOT_CONFIGURED, "Set BROKER_KEY.", None)
    for _ in range(2):
        with pytest.raises(ProviderUnavailable, match=r"Set BROKER_KEY\."):
            await found.get("stocks", "broker")
    assert await found.get("fake", "upstream")
    await found.close()


@pytest.mark.parametrize(("speaks", "words"), [(2, "version 2"), (0, "version 0"), (None, "no version")])
async def test_a_provider_of_another_interface_is_shown_with_both_versions_and_never_used(
    speaks: int | None, words: str
) -> None:
    provider = Starting(api_version=speaks)  # type: ignore[arg-type]
    found = registry(of(provider), of(FakeUpstream(id="other"), "fake.other"))
    status = {status.id: status for status in found.statuses()}["upstream"]
    assert status.state is ProviderState.FAILED
    assert words in str(status.reason)
    assert "server speaks version 1" in str(status.reason)
    with pytest.raises(ProviderUnavailable, match=words):
        await found.get("fake", "upstream")
    assert (provider.starts, len(provider.calls)) == (0, 0)
    assert await found.get("fake", "other")


async def test_what_is_disabled_is_as_if_it_were_not_installed() -> None:
    loaded = []

    def create(environ: Mapping[str, str]) -> Iterable[Provider]:
        loaded.append(environ)
        return [FakeUpstream(id="a"), FakeUpstream(id="b")]

    found = registry(Point("fake.many", create), disabled=" fake.a, ")
    assert [status.id for status in found.statuses()] == ["b"]
    assert await found.get("fake", "a") is None
    assert await found.get("fake", "b")
    found = registry(Point("fake.many", create), of(FakeUpstream()), disabled="fake.many")
    assert [status.id for status in found.statuses()] == ["upstream"]
    assert len(loaded) == 1, "its code was not even imported"


def test_disabling_what_there_is_not_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(
        ConfigurationError, match=r"PROVIDERS_DISABLED: there is no 'fake\.x'; known are fake\.upstream"
    ):
        registry(of(FakeUpstream()), disabled="fake.x")
    # Who knows what a plugin would have brought that could not be loaded?
    registry(of(FakeUpstream()), Point("mars.rover", ImportError("x")), disabled="fake.x")


async def test_one_that_fails_while_it_runs_says_so(now: list[int]) -> None:
    provider = FakeUpstream({"X": minutes(0, 3)})
    found = registry(of(provider))
    guard = await found.get("fake", "upstream")
    assert guard is not None
    provider.always = raising(ProviderRefused("The key is not accepted."))
    with pytest.raises(ProviderRefused):
        await guard.fetch(Instrument("fake", "upstream", "X"), MINUTE, Span(0, 60_000))
    (status,) = found.statuses()
    assert (status.state, status.reason) == (ProviderState.DEGRADED, "The key is not accepted.")
    assert status.last_failure == CallFailure("The key is not accepted.", now[0])
    assert status.counters.calls == 2, "its clock was read at the start"


async def test_a_status_shows_what_the_provider_can_do() -> None:
    provider = FakeUpstream()
    (status,) = registry(of(provider)).statuses()
    assert (status.name, status.description, status.version) == ("Upstream", "Not real.", "1")
    assert status.capabilities is provider.capabilities


def test_the_providers_of_this_package_are_found_by_their_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_ours(group: str) -> Any:
        assert group == ENTRY_POINT_GROUP
        return [EntryPoint("demo.synthetic", "providers.demo:create", group)]

    monkeypatch.setattr(registry_module, "entry_points", only_ours)
    assert [(s.market.id, s.id) for s in Registry({}).statuses()] == [("demo", "synthetic")]
