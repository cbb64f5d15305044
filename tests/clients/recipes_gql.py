"""python recipes_gql.py http://127.0.0.1:8000 BEGIN: the Python recipes, as recipes.mjs runs the others."""

import asyncio
import json
import sys

from follow import follow
from frame import candles

SERIES = {"market": "demo", "provider": "synthetic", "symbol": "BTC/USD", "timeframe": "1m"}


def say(line: object) -> None:
    print(json.dumps(line), flush=True)


async def listen(url: str, since: int, got: list[list[float]]) -> None:
    """Note each final candle."""
    async for kind, candle in follow(url, since, **SERIES):
        timestamp, close = candle["timestamp"], candle["close"]
        if kind == "CORRECTION":
            got[:] = [[at, close if at == timestamp else before] for at, before in got]
            say({"recipe": "gql", "corrected": timestamp, "close": close})
        else:
            got.append([timestamp, close])
            say({"recipe": "gql", "timestamp": timestamp})


async def main(address: str, since: int) -> None:
    """Run both recipes until the input ends."""
    frame = await asyncio.to_thread(candles, f"{address}/graphql", **{**SERIES, "timeframe": "1h", "limit": 24})
    got: list[list[float]] = []
    task = asyncio.create_task(listen(f"{address.replace('http', 'ws', 1)}/graphql", since, got))
    end = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait([task, end], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        say({"fault": repr(task.exception())})
    described = {
        "rows": len(frame),
        "zone": str(frame.index.tz),
        "columns": list(frame.columns),
        "first": str(frame.index[0]),
    }
    say({"finals": {"gql": got}, "frame": described})


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
