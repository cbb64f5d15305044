"""A rule of the contract, and the message of a violation."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from candlegraph.errors import CandlegraphError, ProviderError
from candlegraph.testing.harness import Harness
from candlegraph.testing.outcome import RuleBlocked, RuleNotApplicable, RuleViolation

Check = Callable[[Harness], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: ``text`` states it, ``reference`` is its section, ``check`` raises `RuleViolation` where it is broken.

    ``rests_on`` are the rules without which its check would only repeat their breach.
    """

    name: str
    text: str
    reference: str
    check: Check
    depends_on: tuple[str, ...] = ()

    def verify(self, bench: Harness) -> None:
        """Check it. RuleViolation, with the rule and its section; RuleNotApplicable, RuleBlocked."""
        if rests_on := sorted(bench.broken.intersection(self.depends_on)):
            bench.broken.add(self.name)  # for the rules that depend on this one
            raise RuleBlocked(f"rests on: {', '.join(rests_on)}")
        try:
            bench.run(self.check(bench))
        except RuleNotApplicable:
            raise
        except RuleViolation as breach:
            detail = str(breach)
        except ProviderError as error:
            detail = f"It raised {type(error).__name__} where it should have answered: {error.message}"
        except CandlegraphError as error:
            detail = f"It raised {type(error).__name__}, which is no ProviderError: {error.message}"
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            detail = f"It raised {type(error).__name__}, and may raise nothing but ProviderErrors: {error}"
        else:
            return
        bench.broken.add(self.name)
        raise RuleViolation(
            f"{bench.id} breaks a rule: {self.text}\n  {detail}\n  The rule is written in {self.reference}."
        )


def rule(where: str, *rests_on: Rule) -> Callable[[Check], Rule]:
    """Make a rule of a check: its name is the check's, its text the docstring."""

    def made(check: Check) -> Rule:
        name = getattr(check, "__name__", "").replace("_", " ")
        return Rule(name, " ".join((check.__doc__ or "").split()), where, check, tuple(r.name for r in rests_on))

    return made
