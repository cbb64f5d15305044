"""The conformance suite: the contract of `candlegraph.provider`, as checks that a plugin's author can run.

``pytest --provider=<market>.<id>`` runs them over an installed plugin; `Conformance` is the base of a test class that
runs them over a provider of your own, with an upstream that can be made to fail. See docs/providers.md.
"""

from candlegraph.testing.harness import Harness
from candlegraph.testing.outcome import RuleBlocked, RuleNotApplicable, RuleViolation
from candlegraph.testing.rule import Rule
from candlegraph.testing.subject import RETRY_AFTER_S, Fault, Subject, SubjectFactory
from candlegraph.testing.suite import RULES, Conformance

__all__ = [
    "RETRY_AFTER_S",
    "RULES",
    "Conformance",
    "Fault",
    "Harness",
    "Rule",
    "RuleBlocked",
    "RuleNotApplicable",
    "RuleViolation",
    "Subject",
    "SubjectFactory",
]
