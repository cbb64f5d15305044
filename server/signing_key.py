"""The key that access tokens are signed with: whether one is fit for it, and the one that is made where none is set."""

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

# What documentation and examples show as a key. Longer ones first, for what is left of a key without them counts.
_EXAMPLE_KEYS = (
    "astringsecretatleast256bitslong", "abcdefghijklmnopqrstuvwxyz", "yourverysecretkey", "your256bitsecret", "0123456789",
    "1234567890", "yoursecretkey", "supersecret", "candlegraph", "notasecret", "changethis", "changeit", "changeme",
    "replaceme", "password", "insecure", "abcdef", "123456", "default", "example", "django", "qwerty", "secret", "sample",
    "your", "very", "test", "key",
)  # fmt: skip


def weakness_of(key: str) -> str | None:
    """Why a key is not fit to sign with, or None; nothing of the key is in it."""
    if len(key.encode()) < MIN_BYTES:
        return f"it must be at least {MIN_BYTES} bytes long, such as of `openssl rand -hex 32`"
    rest = re.sub(r"[^a-z0-9]", "", key.lower()) if key.isascii() else key
    for sample in _EXAMPLE_KEYS:
        rest = rest.replace(sample, "")
    if len(rest) < _MIN_REST or len(set(rest)) < _MIN_CHARACTERS:
        return "it is a known sample or too regular; take random bytes, such as of `openssl rand -hex 32`"
    return None


def load_or_create_key(data_dir: Path) -> bytes:
    """The key of a server that was given none: made once and kept in its data directory, for its owner's eyes alone."""
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
        raise ConfigurationError(f"DATA_DIR: {path} is damaged: remove it, and everybody signs in again.")
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
