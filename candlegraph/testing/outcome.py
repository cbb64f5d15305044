"""What can come of checking a rule, besides that it is kept."""

from __future__ import annotations


class RuleViolation(AssertionError):
    """A rule is broken; the message says how."""


class RuleNotApplicable(Exception):
    """A rule speaks of something that this provider, or this upstream, does not have."""


class RuleBlocked(Exception):
    """A rule rests on another one that is broken."""


def require(met: object, detail: str) -> None:
    """Breach with ``detail`` unless ``met``."""
    if not met:
        raise RuleViolation(detail)
