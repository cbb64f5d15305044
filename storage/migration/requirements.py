"""Checks the requirements of Candlegraph on a PostgreSQL; the error of each check is one line that says what to do."""

from __future__ import annotations

from typing import Any

from candlegraph.errors import ConfigurationError

MIN_POSTGRES_VERSION = 14
_SERVER = """
select pg_encoding_to_char(encoding) as encoding, pg_is_in_recovery() as standby,
       current_setting('transaction_read_only') = 'on' as read_only
from pg_database where datname = current_database()
"""
_SCHEMA = """
select current_user::text as role, current_schema()::text as name,
       coalesce(has_schema_privilege(current_schema(), 'create'), false) as may_create
"""
_REPEATED = """
select target_timeframe as timeframe, string_agg(view_name, ', ' order by view_name) as views
from preaggregation_configs group by 1 having count(*) > 1 order by 1
"""


async def check_server(connection: Any) -> None:
    """Raise ConfigurationError for an old server, a standby, a read-only database, or one whose text is not UTF-8."""
    if (version := connection.get_server_version()).major < MIN_POSTGRES_VERSION:
        raise _refused(f"it is PostgreSQL {version.major}: {MIN_POSTGRES_VERSION} or newer is needed.")
    found = await connection.fetchrow(_SERVER)
    if found["standby"]:
        raise _refused("it is a hot standby, which is read-only: name its primary.")
    if found["read_only"]:
        raise _refused("the database is read-only: switch default_transaction_read_only off for it or for the role.")
    if found["encoding"] != "UTF8":
        raise _refused(
            f"the encoding of the database is {found['encoding']}: make one by `create database ... encoding 'UTF8' template template0`."
        )


async def check_create(connection: Any) -> None:
    """Raise ConfigurationError if the role may not create tables."""
    schema = await connection.fetchrow(_SCHEMA)
    if schema["name"] is None:
        raise _refused(f"no schema in the search_path of role {schema['role']} exists: create one.")
    if not schema["may_create"]:
        raise _refused(
            f"role {schema['role']} may not create tables: run `grant create on schema {schema['name']} to {schema['role']}`."
        )


async def check_configs(connection: Any) -> None:
    """Raise ConfigurationError if two rows of ``preaggregation_configs`` have the same timeframe."""
    if repeated := await connection.fetch(_REPEATED):
        names = "; ".join(f"{row['timeframe']} by {row['views']}" for row in repeated)
        raise ConfigurationError(
            f"preaggregation_configs: each target_timeframe may have one row, but there are {names}: delete all but one."
        )


def _refused(reason: str) -> ConfigurationError:
    return ConfigurationError(f"DB_CONNECTION_STRING: {reason}")
