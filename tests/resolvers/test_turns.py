"""The operations of an address begin one after the other, and those of other addresses in between."""

from __future__ import annotations

import asyncio

import pytest

from candlegraph.errors import Overloaded
from resolvers.turns import MAX_WAITING_CHARS, MIN_TEXT_CHARS, Turn, Turns
from tests.waiting import HANG_S

TEXTS = MAX_WAITING_CHARS // MIN_TEXT_CHARS  # short ones that may wait


async def test_a_turn_waits_for_those_of_its_address_alone() -> None:
    turns, order = Turns(), list[str]()

    async def begin(address: str, text: str) -> None:
        turn = await turns.begin(address, text)
        order.append(text)
        turn.end()
        turn.end()  # a second time changes nothing

    first = await turns.begin("a", "first")
    waiting = [asyncio.create_task(begin("a", text)) for text in ("second", "third")]
    async with asyncio.timeout(HANG_S):
        await begin("b", "other")
        assert order == ["other"]
        first.end()
        await asyncio.gather(*waiting)
    assert order == ["other", "second", "third"]


async def test_between_two_operations_of_an_address_others_run() -> None:
    turns, passes, begun_in = Turns(), 0, list[int]()

    async def begin() -> None:
        turn = await turns.begin("a", None)
        begun_in.append(passes)
        turn.end()

    async def count() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await asyncio.gather(*(begin() for _ in range(50)))
    counting.cancel()
    assert len(set(begun_in)) == 50


async def test_the_new_texts_that_wait_are_bounded_by_their_length_for_each_address() -> None:
    turns = Turns()
    first = await turns.begin("a", "text")
    waiting = [asyncio.create_task(turns.begin("a", f"text {number}")) for number in range(TEXTS)]
    known = asyncio.create_task(turns.begin("a", None))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        await turns.begin("a", "one more")
    assert refused.value.retry_after
    (await turns.begin("b", "x" * MAX_WAITING_CHARS)).end()
    waiting[5].cancel()
    await asyncio.sleep(0)
    more = asyncio.create_task(turns.begin("a", "one more"))
    first.end()
    async with asyncio.timeout(HANG_S):
        for task in (*waiting[:5], *waiting[6:], known, more):
            (await task).end()


async def test_a_cancelled_operation_leaves_its_turn_to_the_next() -> None:
    turns = Turns()
    for step in range(4):  # before it waits, while it waits, when its turn comes, and just before it has it
        first = await turns.begin("a", None)
        waiting = asyncio.create_task(turns.begin("a", None))
        for _ in range(step):
            await asyncio.sleep(0)
        if step > 1:
            first.end()
            await asyncio.sleep(0)
        waiting.cancel()
        first.end()
        (found,) = await asyncio.gather(waiting, return_exceptions=True)
        if isinstance(found, Turn):
            found.end()
        async with asyncio.timeout(HANG_S):
            (await turns.begin("a", None)).end()
