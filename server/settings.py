"""Every setting, read from the environment into one typed object. A wrong one stops the start with one line that names it."""

from __future__ import annotations

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from candlegraph.errors import BadUserInput, ConfigurationError
from candlegraph.zone import zone
from resolvers.context import Introspection
from server.signing_key import weakness_of
from server.transport.proxies import parse_networks
from server.transport.root_path import check_root_path
from storage.aggregates.layout import AggregateLayout


class Env(StrEnum):
    """The purpose of a server."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"
    TESTING = "testing"


def _default_data_dir() -> Path:
    # Root's home is closed to the unprivileged user that PostgreSQL has to run as.
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/candlegraph")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "candlegraph"


# An origin as a browser sends it: nothing behind the port, and no pattern.
_ORIGIN = re.compile(r"https?://[^/*\s]+")
_USERINFO = re.compile(r"://[^/?#\s]*@")  # a password may hold another @
_QUERY_VALUE = re.compile(r"([?&#][^=&#\s]*=)[^&#\s]*")
_OUR_SECRETS = {
    "db_connection_string",
    "db_listen_connection_string",
    "redis_url",
    "secret_key",
    "secret_key_previous",
}  # no plugin needs them
_COMPUTED = {"data_dir": "`~/.local/share/candlegraph`, for root `/var/lib/candlegraph`"}


class Settings(BaseSettings):
    """The settings; each is the environment variable of its name in capitals."""

    model_config = SettingsConfigDict(env_ignore_empty=True, frozen=True, extra="ignore")

    env: Env = Field(Env.DEVELOPMENT, description="`development`, `production` or `testing`.")
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="The port to listen on; 0 picks a free one.")
    data_dir: Path = Field(
        default_factory=_default_data_dir,
        description="The folder of the embedded database and of the exchanges' symbol lists.",
    )
    db_connection_string: SecretStr | None = Field(
        None,
        description="A PostgreSQL 14 or newer to use instead of the embedded one: `postgresql://user:password@host/db`.",
    )
    db_listen_connection_string: SecretStr | None = Field(
        None,
        description="A direct connection to the same database, for LISTEN, when `DB_CONNECTION_STRING` names a pooler such as PgBouncer.",
    )
    postgres_bin: Path | None = Field(
        None,
        description="The folder of the PostgreSQL programs to embed; otherwise those of the wheel, then the system's.",
    )
    aggregates: AggregateLayout = Field(
        AggregateLayout.AUTO,
        description=(
            "How a new database keeps its aggregates: `tables`, or `continuous` with TimescaleDB; `auto` takes the latter where "
            "it is available."
        ),
    )
    retention_days: int | None = Field(
        None,
        ge=2,
        description="For how many days 1-minute candles are kept; their aggregates always are. Empty keeps every minute.",
    )
    redis_url: SecretStr | None = Field(
        None,
        description=(
            "A Redis or Valkey in which several processes count sign-ins and upstream calls together, share final candles and "
            "send each other live messages: `redis://host:6379/0`."
        ),
    )
    cache_mb: int = Field(
        64, ge=0, le=65_536, description="How many megabytes of final candles each process keeps in memory; 0 for none."
    )
    secret_key: SecretStr | None = Field(
        None,
        description=(
            "The key that access tokens are signed with, at least 32 bytes. `production` requires it; elsewhere the server creates one "
            "and keeps it in `DATA_DIR`."
        ),
    )
    secret_key_previous: SecretStr | None = Field(
        None, description="The previous key, still accepted during a change of keys."
    )
    feed_shards: int = Field(
        1, ge=1, le=64, description="The number of processes that may share the live series of one provider."
    )
    backfill_workers: int = Field(
        4,
        ge=1,
        le=64,
        description="The number of backfill parts that this process works on at once, for each provider.",
    )
    require_auth: bool = Field(False, description="`true` shows market data to signed-in users only.")
    default_chart_points: int = Field(500, ge=1, description="How many candles a query without `limit` returns.")
    max_chart_points: int = Field(5000, ge=1, le=50_000, description="The highest `limit`.")
    allowed_origins: str = Field(
        "", description="Comma-separated origins of other sites whose pages may use the API from a browser."
    )
    providers_disabled: str = Field(
        "", description="Comma-separated providers, such as `crypto.kraken`, or whole plugins not to use."
    )
    max_connections: int = Field(10_000, ge=1, description="The most WebSockets and event streams of a process.")
    max_connections_per_address: int = Field(
        100, ge=1, description="The most of them for one address (of IPv6, one /64 network)."
    )
    max_cost_in_flight: int = Field(
        12_000_000,
        ge=1,
        description="The cost limit of all running operations of a process, in candle values (estimated before they run).",
    )
    max_cost_in_flight_per_address: int = Field(
        6_000_000, ge=1, description="The cost limit of the running operations of one address."
    )
    max_topics: int = Field(5_000, ge=1, description="The most different live series of a process.")
    max_topics_per_address: int = Field(200, ge=1, description="The most live series that one address may open.")
    introspection: Introspection = Field(
        Introspection.ON,
        description=(
            "Access to the schema through the API: `on` for all clients, `signed-in` for clients with a valid token, `off` "
            "for none; `off` disables GraphiQL too."
        ),
    )
    forwarded_allow_ips: str = Field(
        "",
        description=(
            "Comma-separated addresses and networks of trusted reverse proxies: the server reads `X-Forwarded-For` and "
            "`X-Forwarded-Proto` only from these."
        ),
    )
    root_path: str = Field(
        "",
        description="The path prefix under which a reverse proxy publishes the server, such as `/api`; empty for none.",
    )
    max_operations_per_socket: int = Field(
        100, ge=1, le=10_000, description="The most simultaneous operations on a WebSocket."
    )
    fetch_rows_per_hour: int | None = Field(
        1_000_000,
        ge=0,
        description=(
            "The most candles an hour that the server fetches for one anonymous address (of IPv6, one /64 network). Stored "
            "candles do not count. Empty for no limit."
        ),
    )
    fetch_rows_per_hour_signed_in: int | None = Field(
        None, ge=0, description="The same limit for one account. Empty for no limit."
    )
    exports: int = Field(8, ge=0, description="The most exports of a process at once; 0 for none.")
    exports_per_address: int = Field(2, ge=1, description="The most exports of one address at once.")
    export_rows_per_day: int | None = Field(
        50_000_000,
        ge=0,
        description=(
            "The most candles a day that one anonymous address may export (of IPv6, one /64 network). Empty for no limit."
        ),
    )
    import_max_mb: int = Field(
        256,
        ge=0,
        le=4_096,
        description="The most megabytes of a file that operators upload, packed and unpacked; 0 for no uploads.",
    )
    min_free_disk_mb: int = Field(
        500,
        ge=0,
        description=(
            "The server stops fetching when the disk of an embedded or local database has fewer free megabytes; 0 for no limit."
        ),
    )
    files_dir: Path | None = Field(None, description="The folder that the `files` provider serves.")
    files_timezone: str | None = Field(None, description="The IANA zone in which the days of these files open.")
    ccxt_exchanges: str = Field(
        "binance,kraken,coinbase",
        description="The exchanges of the `crypto` market, by their ccxt ids; blank for none.",
    )
    ccxt_options: SecretStr | None = Field(
        None,
        description="JSON keyed by exchange, or the path of a file with it: passed unchanged to ccxt's constructors.",
    )
    alpaca_api_key: SecretStr | None = Field(
        None, description="The id of an API key of Alpaca's; with its secret it adds the `stocks` market."
    )
    alpaca_api_secret: SecretStr | None = Field(None, description="The secret of that key.")
    alpaca_feeds: str = Field(
        "iex",
        description="Alpaca's feeds, each with an optional adjustment: `iex,sip:split`. Each is a provider of its own.",
    )
    alpaca_data_url: str = Field("https://data.alpaca.markets", description="The URL of Alpaca's market data.")
    alpaca_trading_url: str = Field(
        "https://paper-api.alpaca.markets",
        description="The URL of its list of symbols; for the keys of a live account `https://api.alpaca.markets`.",
    )
    alpaca_stream_url: str = Field("wss://stream.data.alpaca.markets", description="The URL of its live candles.")
    log_level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="The lowest level of messages in the log."
    )

    @model_validator(mode="after")
    def _points_in_order(self) -> Self:
        if self.default_chart_points > self.max_chart_points:
            raise ValueError("DEFAULT_CHART_POINTS must not exceed MAX_CHART_POINTS")
        return self

    @model_validator(mode="after")
    def _key_in_production(self) -> Self:
        if self.env is Env.PRODUCTION and self.secret_key is None:
            raise ValueError("SECRET_KEY is required in production: 32 random bytes, such as of `openssl rand -hex 32`")
        return self

    @field_validator("secret_key", "secret_key_previous")
    @classmethod
    def _is_strong(cls, value: SecretStr | None) -> SecretStr | None:
        if value and (weakness := weakness_of(value.get_secret_value())):
            raise ValueError(weakness)
        return value

    @property
    def origins(self) -> list[str]:
        """The origins of `allowed_origins`."""
        return [origin.strip() for origin in self.allowed_origins.split(",") if origin.strip()]

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in filter(None, map(str.strip, value.split(","))):
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin[:64]!r} is no origin such as https://charts.example.com")
        return value

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        parse_networks(value)
        return value

    @field_validator("root_path")
    @classmethod
    def _is_path(cls, value: str) -> str:
        return check_root_path(value)

    @field_validator("files_timezone")
    @classmethod
    def _is_zone(cls, value: str | None) -> str | None:
        try:
            return zone(value).name if value else None
        except BadUserInput as error:
            raise ValueError(error.message.rstrip(".")) from None

    @classmethod
    def read(cls, **overrides: object) -> Self:
        """Read the environment; ``overrides`` (from the command line) win where they are not None."""
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls(**{**_secrets_in_files(cls.secrets() - given.keys()), **given})  # type: ignore[arg-type]
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = ".".join(map(str, first["loc"])).upper()
            message = first["msg"].removeprefix("Value error, ")
            raise ConfigurationError(f"{name}: {message}." if name else f"{message}.") from None

    def environ(self) -> dict[str, str]:
        """The environment for provider plugins: the content of a ``<SECRET>_FILE`` of theirs replaces its name."""
        held = {name: getattr(self, name) for name in self.secrets() - _OUR_SECRETS}
        return {
            **os.environ,
            "DATA_DIR": str(self.data_dir),
            **{name.upper(): value.get_secret_value() for name, value in held.items() if value},
        }

    @classmethod
    def secrets(cls) -> set[str]:
        """The names of the settings that must never be shown."""
        return {name for name, field in cls.model_fields.items() if field.annotation == SecretStr | None}


def _secrets_in_files(names: set[str]) -> dict[str, str]:
    """The contents of the files that ``<SECRET>_FILE`` names, as container platforms provide secrets."""
    found = {}
    for name in sorted(names):
        variable = name.upper() + "_FILE"
        path = os.environ.get(variable)
        if not path:
            continue
        if os.environ.get(name.upper()):
            raise ConfigurationError(f"{variable}: {name.upper()} is set as well; keep one of the two.")
        try:
            found[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ConfigurationError(f"{variable}: the file cannot be read ({reason}).") from None
        if not found[name]:
            raise ConfigurationError(f"{variable}: the file is empty.")
    return found


def settings_in_effect(settings: Settings) -> str:
    """Every setting and its value, a line each; of a secret only whether there is one."""
    lines = []
    for name, value in settings:
        shown = "" if value is None else "(hidden)" if name in Settings.secrets() else _without_secrets(_plain(value))
        lines.append(f"{name.upper()}={shown}")
    return "\n".join(lines)


def _without_secrets(text: str) -> str:
    """A text without what a URL in it may hide: the user and password before the host, and the values of its query."""
    text = _USERINFO.sub("://(hidden)@", text)
    return _QUERY_VALUE.sub(r"\1(hidden)", text) if "://" in text else text


def _plain(value: object) -> str:
    """A value as it is written in the environment."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def settings_table() -> str:
    """Every setting as a Markdown table, as the README shows it."""
    rows = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        plain = "" if field.default in {None, ""} else f"`{_plain(field.default)}`"
        rows.append(f"| `{name.upper()}` | {_COMPUTED.get(name, plain)} | {field.description} |")
    return "\n".join(rows)
