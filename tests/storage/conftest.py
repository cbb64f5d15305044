"""What the tests of this floor share with those of the history above it."""

from tests.history.conftest import _every_symbol_is_a_new_one  # noqa: F401 - a fixture
