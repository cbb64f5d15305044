"""All rules, and the pytest class that tries them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import pytest

from candlegraph.testing.harness import Harness
from candlegraph.testing.outcome import RuleBlocked, RuleNotApplicable
from candlegraph.testing.rule import Rule
from candlegraph.testing.rules import claims, optional_methods, pages, questions, streams
from candlegraph.testing.rules import description as shape
from candlegraph.testing.rules import errors as failures
from candlegraph.testing.subject import SubjectFactory

RULES: tuple[Rule, ...] = tuple(
    found
    for module in (shape, pages, claims, questions, optional_methods, failures, streams)
    for found in vars(module).values()
    if isinstance(found, Rule)
)
# A rule comes after those that it rests on.
RULES = tuple(dict.fromkeys(RULES))


class Conformance:
    """A test for each rule and each subject: ``class TestAcme(Conformance): subjects = [acme]``.

    ``acme`` is a function with ``@asynccontextmanager`` that yields a `Subject`.
    """

    subjects: ClassVar[Sequence[SubjectFactory]] = ()

    @classmethod
    def pytest_generate_tests(cls, metafunc: pytest.Metafunc) -> None:
        """One bench for each subject; pytest calls this."""
        subjects = metafunc.cls.subjects if metafunc.cls else ()
        ids = [getattr(subject, "__name__", "subject") for subject in subjects]
        metafunc.parametrize("bench", subjects, indirect=True, scope="class", ids=ids)

    @pytest.fixture(scope="class")
    @classmethod
    def bench(cls, request: pytest.FixtureRequest) -> Iterator[Harness]:
        """The provider, started once for all rules."""
        with Harness(request.param) as bench:
            yield bench

    @pytest.mark.parametrize("rule", RULES, ids=[rule.name.replace(" ", "_") for rule in RULES])
    def test_conformance(self, bench: Harness, rule: Rule, record_property: Callable[[str, object], None]) -> None:
        """The provider keeps the rule."""
        __tracebackhide__ = True
        outcome = "broken"
        try:
            rule.verify(bench)
            outcome = "kept"
        except RuleNotApplicable as reason:
            outcome = f"not applicable: {reason}"
        except RuleBlocked as reason:
            outcome = f"not tried, {reason}"
            pytest.skip(outcome)
        finally:
            record_property("candlegraph", [bench.id, rule.name, outcome])
