"""A class name means one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("candlegraph", "storage", "history", "providers", "realtime", "resolvers", "schema", "server")


def trees(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield folder, ast.parse(path.read_text())


def test_no_class_name_has_two_meanings() -> None:
    packages = defaultdict(set)
    for package, tree in trees(*(package for package in PACKAGES if package != "schema")):  # GraphQL types have theirs
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                packages[node.name].add(package)
    assert {name: sorted(found) for name, found in packages.items() if len(found) > 1} == {}
