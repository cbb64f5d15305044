"""A rule of the contract, and how a breach of it is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from candlegraph.testing.bench import Bench

Check = Callable[["Bench"], Awaitable[None]]


class Breach(AssertionError):
    """A rule is broken; the message says how."""


class NotApplicable(Exception):
    """A rule speaks of something that this provider, or this upstream, does not have."""


class NotTried(Exception):
    """A rule rests on another one that is broken."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: ``text`` states it, ``where`` says where it is written, ``check`` raises `Breach` where it is broken.

    ``rests_on`` are the rules without which its check would only repeat their breach.
    """

    name: str
    text: str
    where: str
    check: Check
    rests_on: tuple[str, ...] = ()


def rule(where: str, *rests_on: Rule) -> Callable[[Check], Rule]:
    """Make a rule of a check: its name is the check's, its text the docstring."""

    def made(check: Check) -> Rule:
        name = getattr(check, "__name__", "").replace("_", " ")
        return Rule(name, " ".join((check.__doc__ or "").split()), where, check, tuple(r.name for r in rests_on))

    return made


def require(met: object, detail: str) -> None:
    """Breach with ``detail`` unless ``met``."""
    if not met:
        raise Breach(detail)
