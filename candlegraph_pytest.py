"""The pytest plugin: ``pytest --provider=<market>.<id>`` runs Candlegraph's conformance suite over an installed provider.

It lies beside the package, so that a pytest which is not asked for it imports neither Candlegraph nor numpy.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_SUITE = "candlegraph.testing.installed"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Three options."""
    group = parser.getgroup("candlegraph", "Candlegraph providers")
    group.addoption("--provider", metavar="MARKET.ID", help="run the conformance suite over this installed provider")
    group.addoption("--provider-symbol", metavar="SYMBOL", help="a symbol of it that has candles; else one is chosen")
    group.addoption(
        "--provider-span",
        metavar="SINCE/UNTIL",
        help="where it has them, as 2024-05-01/2024-05-08; else it is found out",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Let the suite be collected: alone, or with what the command line names besides."""
    if config.getoption("--provider"):
        spec = find_spec(_SUITE)
        assert spec is not None and spec.origin is not None  # noqa: S101, PT018 - it lies in our own package
        named = config.args if config.args_source is config.ArgsSource.ARGS else []
        config.args = [*named, spec.origin]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A table for each provider: every rule, and whether it is kept."""
    tables: dict[str, list[tuple[str, str]]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, value in report.user_properties:
                    if name == "candlegraph":
                        provider, rule, outcome = value
                        tables.setdefault(provider, []).append((rule, outcome))
    for provider, rows in tables.items():
        terminalreporter.section(f"{provider}: the rules of docs/providers.md", sep="-")
        width = max(len(rule) for rule, _ in rows)
        for rule, outcome in rows:
            colours = {"green": outcome == "kept", "red": outcome == "broken"}
            terminalreporter.write_line(f"{rule:<{width}}  {outcome}", **colours)
