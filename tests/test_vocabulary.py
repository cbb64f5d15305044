"""One word names one thing: class names follow the glossary, and prose is plain English."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("candlegraph", "storage", "history", "providers", "realtime", "resolvers", "schema", "server")
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)

# Words of class names beside the glossary's: plain English, and names of products and standard patterns.
PLAIN_WORDS = frozenset(
    [
        "anchor",
        "adjacent",
        "append",
        "bad",
        "channel",
        "committed",
        "conflict",
        "context",
        "database",
        "embedded",
        "failure",
        "flat",
        "filter",
        "free",
        "hits",
        "idle",
        "key",
        "log",
        "lost",
        "migration",
        "misuse",
        "notifications",
        "openings",
        "os",
        "outcome",
        "postgres",
        "publisher",
        "result",
        "space",
        "stages",
        "step",
        "superseded",
        "tally",
        "traits",
        "unreachable",
        "upgrade",
        "verification",
        "workers",
    ]
)

# Names that meant something to their author alone, each with the term that replaced it in docs/glossary.md or house style.
COINED = frozenset(
    [
        "together",
        "shelf",
        "arrivals",
        "walk",
        "turnstile",
        "standing",
        "recall",
        "errand",
        "peek",
        "overhear",
        "room",
        "ledger",
        "ledgers",
        "suspects",
        "doubt",
        "doubts",
        "tape",
        "sealed",
        "clocked",
        "probing",
        "roster",
        "bare",
        "bill",
        "hearer",
        "mend",
        "told",
        "heard",
        "happened",
        "keeping",
        "arrive",
        "shelves",
    ]
)

FOGGY = re.compile(r"\b(told|tells|whoever|nobody|such a|is asked for)\b", re.IGNORECASE)
# Where these words are deliberate: the text around them, with the reason.
ALLOWED = {
    "An OHLCV candle server that tells the truth": "the claim of the project",
    "`nobody`": "the name of an operating system's user",
}

# This file names the words, and the schemas of earlier versions stay as they were.
UNREAD = {Path(__file__), *(ROOT / "tests" / "storage" / "earlier").iterdir()}

VAGUE_CONSTANT = re.compile(
    r"_?(EVERY|LOOK|FEW|DENSE|MOST|LAG|GRAIN|AGAIN|LATE|PATIENCE|TURNS|RETRY|SAY|READ|CHECK|HOLD|KEEP|REST|WAIT)(_S|_MS)?"
)


def trees(*folders: str) -> Iterator[tuple[str, Path, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield folder, path, ast.parse(path.read_text(encoding="utf-8"))


def words(name: str) -> list[str]:
    """The words of a CamelCase or snake_case name, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def stem(word: str) -> str:
    """A word without its ending, so that fetch, fetches and fetcher are one."""
    return re.sub(r"(?<=\w{3})(ies|es|s|ers?|ed|y|e)$", "", word)


def sentences_in_code(path: Path) -> Iterator[str]:
    """The docstrings, messages (strings of three words and more) and comments of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".sql":
        yield from re.findall(r"--(.*)", text)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) > 2:
            yield node.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def prose_lines(page: str) -> Iterator[str]:
    """The lines of a Markdown page without code, tables and headings."""
    fenced = False
    for line in page.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith(("    ", "|", "#", "<")):
            yield line


def test_no_class_name_has_two_meanings() -> None:
    packages = defaultdict(set)
    for package, _, tree in trees(*(package for package in PACKAGES if package != "schema")):  # GraphQL has its own
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                packages[node.name].add(package)
    assert {name: sorted(found) for name, found in packages.items() if len(found) > 1} == {}


def test_class_names_are_made_of_the_glossarys_words_and_a_few_plain_ones() -> None:
    terms = {stem(word) for entry in re.findall(r"^- (.+)$", GLOSSARY, re.MULTILINE) for word in words(entry)}
    found = {}
    for _, _, tree in trees("history", "storage", "realtime", "providers/guard"):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found |= {stem(word): node.name for word in words(node.name) if stem(word) not in terms}
    plain = {stem(word) for word in PLAIN_WORDS}
    assert {word: name for word, name in found.items() if word not in plain} == {}, "a word for the glossary"
    assert plain - set(found) == set(), "a listed word that no class uses"
    assert len(PLAIN_WORDS) <= 40


def test_no_name_is_coined() -> None:
    coined = []
    for _, path, tree in trees(*PACKAGES):
        names = [path.stem if path.stem != "__init__" else path.parent.name]
        kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        names += [node.name for node in ast.walk(tree) if isinstance(node, kinds)]
        for node in tree.body:
            if isinstance(node, ast.Assign):
                names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        coined += [f"{path.relative_to(ROOT)}: {name}" for name in names if COINED & set(words(name))]
    assert coined == []


def test_the_glossary_is_short_and_its_paths_exist() -> None:
    entries = re.findall(r"^- \*\*(.+?)\*\*: .+ \(([\w/.]+)\)\.$", GLOSSARY, re.MULTILINE)
    assert len(entries) == GLOSSARY.count("\n- ") <= 60
    assert [path for _, path in entries if not (ROOT / path).is_file()] == []
    assert len({term for term, _ in entries}) == len(entries)


def test_prose_is_plain() -> None:
    packages = (*PACKAGES, "benchmarks", "examples", "tests")
    files = [path for package in packages for path in sorted((ROOT / package).rglob("*")) if path not in UNREAD]
    texts = {path: list(sentences_in_code(path)) for path in files if path.suffix in {".py", ".sql"}}
    texts |= {path: path.read_text(encoding="utf-8").splitlines() for path in [*PAGES, ROOT / "schema.graphql"]}
    foggy = [
        f"{path.relative_to(ROOT)}: {text[max(match.start() - 60, 0) : match.end() + 60]}"
        for path, found in texts.items()
        for text in found
        for match in FOGGY.finditer(text)
        if not any(allowed in text for allowed in ALLOWED)
    ]
    assert foggy == []
    everything = "\n".join(text for found in texts.values() for text in found)
    assert [allowed for allowed in ALLOWED if allowed not in everything] == [], "allowed and not there"


def test_markdown_has_one_sentence_a_line() -> None:
    double = [
        f"{path.name}: {line}"
        for path in PAGES
        for line in prose_lines(path.read_text(encoding="utf-8"))
        # A bold lead-in such as "**Sizes.**" may stand before its sentence.
        if re.search(r"[a-z0-9)`\"][.!?]\)? +(?=[A-Z])", re.sub(r"^(- )?\*\*.+?\*\*", "", line).replace("e.g. ", ""))
    ]
    assert double == []


def test_constants_say_what_they_count() -> None:
    vague = [
        f"{path.relative_to(ROOT)}: {target.id}"
        for _, path, tree in trees(*PACKAGES)
        for node in tree.body
        for target in (node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)])
        if isinstance(target, ast.Name) and VAGUE_CONSTANT.fullmatch(target.id)
    ]
    assert vague == []
