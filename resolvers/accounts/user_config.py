"""Saved configurations: a JSON object that every client reads back as it was written."""

from __future__ import annotations

import math
from collections.abc import Iterator

import orjson

from candlegraph.errors import BadUserInput

MAX_BYTES = 65_536
MAX_DEPTH = 16
MAX_KEYS = 1000
MAX_INTEGER = 2**53  # beyond, a client in JavaScript cannot tell one from the next


def encode_config(config: object) -> str:
    """The text to store. BadUserInput for anything that is no object, too large, or not the same to every client."""
    if not isinstance(config, dict):
        raise BadUserInput("`config` must be a JSON object.")
    keys = 0
    for value, depth in _nested_values(config):
        _check_value(value)
        if isinstance(value, dict | list) and depth > MAX_DEPTH:
            raise BadUserInput(f"`config` may be at most {MAX_DEPTH} levels deep.")
        keys += len(value) if isinstance(value, dict) else 0
        if keys > MAX_KEYS:
            raise BadUserInput(f"`config` may have at most {MAX_KEYS} keys in all.")
    text = orjson.dumps(config)
    if len(text) > MAX_BYTES:
        raise BadUserInput(f"`config` may be at most {MAX_BYTES} bytes long; this is {len(text)}.")
    return text.decode()


def _nested_values(config: object) -> Iterator[tuple[object, int]]:
    """Every value in it, and its depth; without recursion, because it may be deep."""
    rest: list[tuple[object, int]] = [(config, 1)]
    while rest:
        value, depth = rest.pop()
        yield value, depth
        if isinstance(value, dict):
            rest.extend((inner, depth + 1) for inner in value.values())
        elif isinstance(value, list):
            rest.extend((inner, depth + 1) for inner in value)


def _check_value(value: object) -> None:
    if isinstance(value, dict):
        for key in value:
            _check_text(key)
    elif isinstance(value, str):
        _check_text(value)
    elif isinstance(value, int | float):
        _check_number(value)


def _check_text(text: str) -> None:
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise BadUserInput("`config` may hold neither U+0000 nor half a surrogate pair.")


def _check_number(value: float) -> None:
    # The parser makes a float of an integer of more than 64 bits, so a float as large may have been one.
    if (isinstance(value, int) and abs(value) > MAX_INTEGER) or not math.isfinite(value) or abs(value) >= 2**64:
        raise BadUserInput("`config` may hold integers up to 2^53 and no number of 2^64 or more.")
