"""The names of the code are the words of docs/glossary.md."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("candlegraph", "storage", "history", "providers", "realtime", "resolvers", "schema", "server")
STRICT = ("history", "storage", "realtime", "providers/guard")
PLAIN = frozenset(
    {
        "append",
        "bad",
        "channel",
        "clock",
        "committed",
        "conflict",
        "context",
        "counter",
        "database",
        "embedded",
        "failure",
        "filler",
        "flat",
        "followed",
        "hits",
        "log",
        "lookup",
        "lost",
        "migration",
        "misuse",
        "notifications",
        "offset",
        "os",
        "outcome",
        "piece",
        "postgres",
        "reader",
        "refresher",
        "result",
        "row",
        "store",
        "tally",
        "unreachable",
        "user",
        "verification",
        "workers",
    }
)
COINED = frozenset(
    {
        "arrivals",
        "doubts",
        "errand",
        "hear",
        "heard",
        "mend",
        "news",
        "nobody",
        "overhear",
        "peek",
        "roster",
        "shelf",
        "standing",
        "standings",
        "suspects",
        "tell",
        "tells",
        "together",
        "told",
        "turnstile",
        "whoever",
    }
)


def trees(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield folder, ast.parse(path.read_text())


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name


def test_no_class_name_has_two_meanings() -> None:
    packages = defaultdict(set)
    for package, tree in trees(*(package for package in PACKAGES if package != "schema")):  # GraphQL types have theirs
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                packages[node.name].add(package)
    assert {name: sorted(found) for name, found in packages.items() if len(found) > 1} == {}


def test_classes_are_named_by_the_glossary() -> None:
    glossary = words((ROOT / "docs/glossary.md").read_text())
    known = glossary | {word + "s" for word in glossary} | PLAIN
    assert len(PLAIN) <= 40
    assert {
        node.name: unknown
        for _, tree in trees(*STRICT)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and (unknown := words(node.name) - known)
    } == {}


def test_no_name_is_a_coined_word() -> None:
    found = {name for _, tree in trees(*PACKAGES) for name in names(tree) if words(name) & COINED}
    assert found == set()
