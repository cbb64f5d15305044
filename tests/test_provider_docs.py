"""docs/providers.md shows the example's own code, states every rule, and names every field that a plugin's author sets."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from candlegraph import Budget, Capabilities, Listing, Page
from candlegraph import errors as errors_module
from candlegraph.errors import ProviderError
from candlegraph.testing import RULES, Fault, Subject

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "candlegraph-acme"
PAGE = (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)\n```", PAGE, re.DOTALL)


def test_the_code_of_the_page_is_that_of_the_example_from_its_first_line_to_its_last() -> None:
    *provider, test = _blocks("python")
    code = (EXAMPLE / "candlegraph_acme.py").read_text(encoding="utf-8")
    # The formatter takes the indentation from a block that shows a part of a class.
    assert re.sub(r"\n\s*", "\n", "\n".join(provider)) == re.sub(r"\n\s*", "\n", code.strip())
    assert test in (EXAMPLE / "tests" / "test_acme.py").read_text(encoding="utf-8")
    (project,) = _blocks("toml")
    assert project in (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")


def test_the_example_is_as_short_as_the_page_says() -> None:
    """Sixty lines, without those that import, explain or are blank."""
    code = (EXAMPLE / "candlegraph_acme.py").read_text(encoding="utf-8")
    lines = [line.strip() for line in code[code.index("MARKET = ") :].splitlines()]
    assert len([line for line in lines if line and not line.startswith(('"""', "#"))]) <= 60


def test_every_rule_is_stated_and_its_section_is_there() -> None:
    table = re.search(r"<!-- rules -->\n(.*?)\n<!-- /rules -->", PAGE, re.DOTALL)
    assert table
    assert table[1].splitlines()[2:] == [f"| {rule.name} | {rule.text} |" for rule in RULES]
    for rule in RULES:
        page, _, section = rule.reference.partition(", ")
        assert page == "docs/providers.md"
        assert f"\n## {section}\n" in PAGE


def test_every_field_and_error_that_an_author_meets_is_explained() -> None:
    names = {field.name for kind in (Capabilities, Budget, Page, Subject) for field in fields(kind)}
    names |= {field.name for field in fields(Listing)} - {"name"}
    names |= {
        name for name, each in vars(errors_module).items() if isinstance(each, type) and ProviderError in each.__bases__
    }
    assert {name for name in names if not re.search(rf"\b{name}\b", PAGE)} == set()
    assert len(Fault) == 6, "A new kind of failure needs a rule."
