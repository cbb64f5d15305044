"""Negotiates the media type of an answer from `Accept`."""

from __future__ import annotations

from contextlib import suppress
from enum import Enum


class MediaType(Enum):
    """The media types of answers."""

    JSON = "application/json"
    GRAPHQL_RESPONSE = "application/graphql-response+json"
    EVENTS = "text/event-stream"
    MULTIPART = "multipart/mixed;subscriptionSpec=1.0"

    @property
    def is_stream(self) -> bool:
        """Whether it carries one answer after the other."""
        return self in (MediaType.EVENTS, MediaType.MULTIPART)


def negotiate(accept: str) -> MediaType | None:
    """The preferred media type of a client; None if it accepts none of ours.

    Without a header it is `application/json`. Events have to be preferred: urql and Apollo name them for queries too,
    beside JSON. `multipart/mixed` counts with `subscriptionSpec` alone, which Apollo sends for subscriptions, first in line.
    """
    if not accept.strip():
        return MediaType.JSON
    quality = _qualities(accept)
    anything = max(quality.get("application/*", 0), quality.get("*/*", 0))
    modern = quality.get(MediaType.GRAPHQL_RESPONSE.value, 0)  # for clients that name it
    legacy = quality.get(MediaType.JSON.value, anything)
    json = max(modern, legacy, anything)
    multipart = quality.get(MediaType.MULTIPART.value, 0)
    events = quality.get(MediaType.EVENTS.value, quality.get("text/*", 0))
    if multipart and multipart >= max(json, events):
        return MediaType.MULTIPART
    if events > json:
        return MediaType.EVENTS
    if not json:
        return None
    return MediaType.JSON if legacy and legacy > modern else MediaType.GRAPHQL_RESPONSE


def _qualities(accept: str) -> dict[str, float]:
    """The quality of each media type; of their parameters only `subscriptionSpec` counts."""
    found: dict[str, float] = {}
    for item in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in item.split(";"))
        given = {
            name.strip(): value.strip().strip('"') for name, _, value in (one.partition("=") for one in parameters)
        }
        if media_type == "multipart/mixed" and given.get("subscriptionspec") == "1.0":
            media_type = MediaType.MULTIPART.value
        with suppress(ValueError):
            found[media_type] = float(given.get("q", "1"))
    return found
