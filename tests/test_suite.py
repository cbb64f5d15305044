"""The suite passes on a busy machine: no test measures how long something took, or takes a pause for an event."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import waiting

FOLDER = Path(__file__).parent
_CLOCKS = {"monotonic", "perf_counter", "process_time", "thread_time", "time"}
_CLOCKS |= {f"{name}_ns" for name in _CLOCKS}
_TIMEOUTS = {"timeout": 0, "wait": 0, "join": 0, "communicate": 1, "wait_for": 1, "ClientTimeout": 0}  # the argument
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _called(node: ast.AST) -> str:
    """The last name of what a call calls."""
    function = node.func if isinstance(node, ast.Call) else None
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _number(node: ast.AST | None) -> float | None:
    """The value of an expression of nothing but numbers."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left, right = _number(node.left), _number(node.right)
        return None if left is None or right is None else left * right
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, int | float) else None


def _reads(node: ast.AST, readings: set[str]) -> bool:
    """Whether an expression holds a reading of a clock. The length of a list of readings is none."""
    if isinstance(node, ast.Call) and _called(node) == "len":
        return False
    if isinstance(node, ast.Call) and _called(node) in _CLOCKS and not node.args:
        return True
    if isinstance(node, ast.Name) and node.id in readings:
        return True
    return any(_reads(child, readings) for child in ast.iter_child_nodes(node))


def _kept(node: ast.AST) -> tuple[list[ast.expr], ast.expr] | None:
    """What is assigned to, or appended to, and what."""
    if isinstance(node, ast.Assign):
        return node.targets, node.value
    if isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value:
        return [node.target], node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _called(node) in {"append", "add"}:
        return [node.func.value], node.args[0]
    return None


def _pairs(targets: list[ast.expr], value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    for target in targets:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            yield from zip(target.elts, value.elts, strict=True)
        else:
            yield target, value


def _is_virtual(node: ast.AST) -> bool:
    """Whether a test runs in virtual time, which passes as the test says on any machine."""
    return isinstance(node, _FUNCTIONS) and any("virtual" in ast.unparse(one) for one in node.decorator_list)


def _readings(function: ast.AST) -> set[str]:
    """The names in a function that hold readings of a clock."""
    kept = [found for node in ast.walk(function) if (found := _kept(node))]
    pairs = [pair for targets, value in kept for pair in _pairs(targets, value)]
    found: set[str] = set()
    while True:
        more = {
            name.id
            for target, value in pairs
            if _reads(value, found) and not isinstance(target, ast.Attribute)
            for name in ast.walk(target)
            if isinstance(name, ast.Name)
        }
        if more <= found:
            return found
        found |= more


def measurements(tree: ast.Module) -> Iterator[ast.AST]:
    """Comparisons of what a clock says, and differences of it: how long something took."""
    for function in [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS) and not _is_virtual(node)]:
        readings = _readings(function)
        for node in ast.walk(function):
            if isinstance(node, ast.Compare) and _reads(node, readings):
                yield node
            if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Sub):
                continue
            if _reads(node.left, readings) and _reads(node.right, readings):
                yield node


def tight_timeouts(tree: ast.Module) -> Iterator[ast.AST]:
    """Timeouts that a busy machine may reach."""
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
        position = _TIMEOUTS.get(_called(call))
        given = [call.args[position]] if position is not None and len(call.args) > position else []
        given += [keyword.value for keyword in call.keywords if keyword.arg == "timeout"]
        yield from (one for one in given if (_number(one) or waiting.HANG_S) < waiting.HANG_S)


def pauses(tree: ast.Module) -> Iterator[ast.AST]:
    """Sleeps after which something is taken to have happened. In a loop it is a poll; virtual time costs nothing."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        if _is_virtual(node):
            return
        seconds = _number(node.args[0]) if isinstance(node, ast.Call) and _called(node) == "sleep" else None
        if seconds and seconds < waiting.HANG_S:
            yield node
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, _LOOPS):
                yield from walk(child)

    return walk(tree)


def deadlines(tree: ast.Module) -> Iterator[ast.AST]:
    """Deadlines of examples that hypothesis draws."""
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _called(node) == "settings"]:
        for keyword in call.keywords:
            if keyword.arg == "deadline" and ast.unparse(keyword.value) != "None":
                yield call


def _sources() -> Iterator[Path]:
    """What `make test` runs: programs that tests are not made of, such as `make chaos`, may measure."""
    for path in sorted(FOLDER.rglob("*.py")):
        if "node_modules" in path.parts or path == Path(waiting.__file__):
            continue
        if path.name != "__main__.py" and "__main__" not in "".join(
            path.read_text(encoding="utf-8").splitlines()[-2:][:1]
        ):
            yield path


@pytest.mark.parametrize("rule", [measurements, tight_timeouts, pauses, deadlines], ids=lambda rule: rule.__name__)
def test_no_test_depends_on_the_speed_of_the_machine(rule: object) -> None:
    found = [
        f"{path.relative_to(FOLDER)}:{node.lineno}: {ast.unparse(node)}"  # type: ignore[attr-defined]
        for path in _sources()
        for node in rule(ast.parse(path.read_text(encoding="utf-8")))  # type: ignore[operator]
    ]
    assert found == []


BAD = {
    measurements: [
        "assert time.monotonic() - began < 3",
        "began = time.perf_counter()\n work()\n took = time.perf_counter() - began\n assert took < 1",
        "began = loop.time()\n return code, loop.time() - began",
        "ends = time.time() + 3\n while time.time() < ends:\n  work()",
        "waits = []\n waits.append(time.perf_counter())\n assert max(waits) < 2",
        "seen, began = 0, time.monotonic()\n assert 1 < time.monotonic() - began",
    ],
    tight_timeouts: [
        "async with asyncio.timeout(5):\n  pass",
        "await asyncio.wait_for(task, 2.5)",
        "run('serve', timeout=3)",
        "process.wait(20)",
        "aiohttp.ClientTimeout(2 * 15)",
    ],
    pauses: ["await asyncio.sleep(0.1)", "time.sleep(1)"],
    deadlines: ["settings(deadline=200)"],
}
GOOD = {
    measurements: [
        "now = int(time.time())\n return {'exp': now + 60}",
        "spent = []\n spent.append(time.time())\n assert len(spent) < 3",
    ],
    tight_timeouts: ["await asyncio.wait_for(task, HANG_S)", "task.wait()", "asyncio.timeout(600)"],
    pauses: ["await asyncio.sleep(0)", "await asyncio.sleep(3600)", "while not done:\n  await asyncio.sleep(0.01)"],
    deadlines: ["settings(max_examples=5, deadline=None)"],
}


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in BAD.items() for text in texts])
def test_the_rules_find_what_they_are_to_find(rule: object, text: str) -> None:
    assert list(rule(ast.parse(f"async def test():\n {text}\n")))  # type: ignore[operator]


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in GOOD.items() for text in texts])
def test_the_rules_leave_the_rest_alone(rule: object, text: str) -> None:
    assert not list(rule(ast.parse(f"async def test():\n {text}\n")))  # type: ignore[operator]


def test_hypothesis_has_no_deadline_where_a_test_names_none() -> None:
    assert settings().deadline is None
