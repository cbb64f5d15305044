"""The outcomes of a rule's check, besides success."""

from __future__ import annotations


class RuleViolation(AssertionError):
    """A rule is broken; the message says how."""


class RuleNotApplicable(Exception):
    """The provider, or its upstream, does not have the feature of the rule."""


class RuleBlocked(Exception):
    """The rule depends on another one that is broken."""


def require(met: object, detail: str) -> None:
    """Raise RuleViolation with ``detail`` unless ``met``."""
    if not met:
        raise RuleViolation(detail)
