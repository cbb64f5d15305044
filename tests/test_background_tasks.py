"""Every task is supervised: outside the supervisor, the function that starts one awaits or cancels it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("candlegraph", "storage", "history", "providers", "realtime", "resolvers", "schema", "server")
SUPERVISOR = "candlegraph/supervision.py"

# The others, each with the task or function that supervises it.
ALLOWED = {
    # Owned by an object whose `close` ends it
    "realtime/feed.py:Feed.__init__": "Feed.close cancels and awaits it; Feed._ended logs its failure, and the leader replaces it.",
    "realtime/feed.py:Feed._follow_provider": "The group is entered by Feed._run, which awaits it.",
    "realtime/leader.py:Leader._reconcile": "A provider is warmed up once; Leader.close cancels it.",
    "history/backfill/workers.py:BackfillWorkers._begin": "A part of a backfill; it records its failure; BackfillWorkers.close cancels and awaits it.",
    "providers/alpaca/streaming.py:_Socket.__init__": "It reports its end to all its followers; BarStream.close waits for it.",
    "providers/ccxt/streaming.py:CandleStreams._begin": "It reports its end to all its followers; CandleStreams.close awaits it.",
    "providers/guard/provider_clock.py:ProviderClock.keep": "One measurement, which logs its failure; ProviderClock.close awaits it.",
    "server/transport/graphql_ws.py:GraphQLSocket._initialise": "It closes its socket; the end of the socket cancels and awaits it.",
    "server/transport/graphql_ws.py:GraphQLSocket._subscribe": "An operation, which logs its failure; the end of its socket awaits it.",
    # A batch: it ends when nothing waits; the next call starts another
    "candlegraph/batcher.py:Batcher.submit": "It gives each call its result or error; Batcher.drain and Batcher.cancel await it.",
    # One piece of work that several callers share and await; a cancelled caller does not end it
    "providers/ccxt/markets.py:Markets._begin": "Every caller that needs the list awaits it; Markets.close cancels it.",
    "providers/registry.py:Registry.get": "The start of a provider; the callers await it, and Registry.close cancels it.",
    "resolvers/accounts/revocation.py:RevocationWatch.user": "Every caller that reads the account awaits it.",
    "history/fetcher.py:Fetcher.fetch": "The callers await it; Fetcher._retire logs its failure; Fetcher.close awaits it.",
    "history/revisions.py:Revisions.follow": "The callers await it; Revisions.close cancels and awaits it.",
    "history/revisions.py:Revisions._task": "The callers await it; it logs its failure, and Revisions.close cancels and awaits it.",
    "history/listings.py:Listings._reread": "Who asks for the list awaits it; Listings.close awaits it.",
    "history/listings.py:Listings._read_if_due": "Who asks for the list awaits it; Listings.close awaits it.",
    # No caller waits
    "providers/ccxt/exchange.py:_Instrumented.on_connected": "ccxt closes a client so; the result is of no interest.",
}


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function by its qualified name; those inside of a function belong to it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}{node.name}.")
        else:
            yield from _functions(node, prefix)


def _starts(node: ast.AST) -> str | None:
    """What a node starts tasks by: `create_task`, `ensure_future`, `TaskGroup`; None where it starts none."""
    if not isinstance(node, ast.Call):
        return None
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name if name in {"create_task", "ensure_future", "TaskGroup"} else None


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} - {"asyncio", "self"}


def _looked_after(function: ast.AST) -> set[str]:
    """The local names that a function awaits, cancels or enters."""
    found: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Await):
            found |= _names(node.value)
        elif isinstance(node, ast.AsyncWith):
            found |= {name for item in node.items if item.optional_vars for name in _names(item.optional_vars)}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cancel":
            found |= _names(node.func.value)
    return found


def unattended(source: str) -> set[str]:
    """The functions that start a task which they neither await nor cancel."""
    tree = ast.parse(source)
    found = {"<module>" for node in tree.body if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
             for part in ast.walk(node) if _starts(part)}  # fmt: skip
    for name, function in _functions(tree):
        kept = _looked_after(function)
        fine: set[ast.AST] = set()
        for node in ast.walk(function):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                # Only locals: what is kept in an object outlives the function.
                local = {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
                if all(isinstance(target, ast.Name | ast.Tuple) for target in targets) and local & kept:
                    fine |= set(ast.walk(node.value))
            elif isinstance(node, ast.AsyncWith):
                fine |= {part for item in node.items for part in ast.walk(item.context_expr)}
            elif isinstance(node, ast.Await) and _starts(node.value):
                fine.add(node.value)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _names(node.func.value) & kept:
                fine.add(node)  # a task of a group that the function entered
        if any(_starts(node) and node not in fine for node in ast.walk(function)):
            found.add(name)
    return found


def test_every_task_is_awaited_or_cancelled_where_it_is_started_or_has_an_owner_that_is_named_here() -> None:
    found = {
        f"{path.relative_to(ROOT).as_posix()}:{function}"
        for floor in FLOORS
        for path in (ROOT / floor).rglob("*.py")
        if path.relative_to(ROOT).as_posix() != SUPERVISOR
        for function in unattended(path.read_text(encoding="utf-8"))
    }
    assert found - ALLOWED.keys() == set(), "run it under the Supervisor, or name the function that supervises it"
    assert ALLOWED.keys() - found == set(), "gone from the code"


@pytest.mark.parametrize(
    "body",
    [
        "asyncio.create_task(work())",
        "task = asyncio.create_task(work())",
        "self.task = asyncio.create_task(work())",
        "self.tasks[1] = task = asyncio.create_task(work())",
        "asyncio.ensure_future(work())\n    await other()",
        "self.task = asyncio.create_task(work())\n    await asyncio.sleep(self.pause)",
        "stack.push(ended, asyncio.create_task(work()))",
        "group = asyncio.TaskGroup()",
        "def inner():\n        asyncio.get_running_loop().create_task(work())",
    ],
)
def test_an_unsupervised_task_is_found(body: str) -> None:
    assert unattended(f"class A:\n  async def f(self):\n    {body}\n") == {"A.f"}
    assert unattended(f"async def f(self):\n    {body}\n") == {"f"}


@pytest.mark.parametrize(
    "body",
    [
        "await asyncio.create_task(work())",
        "task = asyncio.create_task(work())\n    await asyncio.wait([task])",
        "task = asyncio.create_task(work())\n    task.cancel()",
        "tasks = [asyncio.create_task(one()) for one in works]\n    await asyncio.gather(*tasks)",
        "async with asyncio.TaskGroup() as group:\n        group.create_task(work())",
    ],
)
def test_a_task_that_its_function_awaits_or_cancels_is_fine(body: str) -> None:
    assert unattended(f"async def f(self):\n    {body}\n") == set()


def test_a_task_at_the_top_of_a_module_is_found() -> None:
    assert unattended("loop.create_task(work())\n") == {"<module>"}
