"""The key that signs access tokens: checks of a given one, and the key that the server creates otherwise."""

from __future__ import annotations

import logging
import os
import re
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from candlegraph.errors import ConfigurationError

log = logging.getLogger(__name__)

MIN_BYTES = 32
_MIN_CHARACTERS, _MIN_REST = 8, 16

# Sample keys of documentation and examples. Longer ones first, because the rest of a key without them counts.
_EXAMPLE_KEYS = (
    "astringsecretatleast256bitslong", "abcdefghijklmnopqrstuvwxyz", "yourverysecretkey", "your256bitsecret", "0123456789",
    "1234567890", "yoursecretkey", "supersecret", "candlegraph", "notasecret", "changethis", "changeit", "changeme",
    "replaceme", "password", "insecure", "abcdef", "123456", "default", "example", "django", "qwerty", "secret", "sample",
    "your", "very", "test", "key",
)  # fmt: skip


def weakness_of(key: str) -> str | None:
    """Why a key is too weak to sign with, or None; the text holds nothing of the key."""
    if len(key.encode()) < MIN_BYTES:
        return f"it must be at least {MIN_BYTES} bytes long, such as of `openssl rand -hex 32`"
    rest = re.sub(r"[^a-z0-9]", "", key.lower()) if key.isascii() else key
    for sample in _EXAMPLE_KEYS:
        rest = rest.replace(sample, "")
    if len(rest) < _MIN_REST or len(set(rest)) < _MIN_CHARACTERS:
        return "it is a known sample or too regular; take random bytes, such as of `openssl rand -hex 32`"
    return None


def load_or_create_key(data_dir: Path) -> bytes:
    """The key of a server without the setting: created once and kept in its data directory, readable by its owner only."""
    path = data_dir / "secret_key"
    try:
        if not path.exists():
            data_dir.mkdir(parents=True, exist_ok=True)
            _write(path, secrets.token_hex(32))
        key = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        log.warning(
            "SECRET_KEY is not set and none can be kept in %s (%s): sign-ins end with this process",
            data_dir,
            error.strerror,
        )
        return secrets.token_hex(32).encode()
    if weakness_of(key):
        raise ConfigurationError(f"DATA_DIR: {path} is damaged: remove it, and all users sign in again.")
    return key.encode()


def _write(path: Path, text: str) -> None:
    """Put a whole file in place, unless another process was faster."""
    number, draft = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(number, "w", encoding="ascii") as file:
            file.write(text)
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        Path(draft).unlink()
