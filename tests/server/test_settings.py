"""A wrong setting stops the start at once, with one line that names it and gives no secret away."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import pytest

from candlegraph.errors import ConfigurationError
from server.settings import Settings, settings_table
from tests.server.running import ROOT, run, serving

CANARY = "canary-hunter2"
SECRETS = {
    "SECRET_KEY": f"{CANARY}-secret-key-of-more-than-thirty-two-bytes",
    "REDIS_URL": f"redis://:{CANARY}@127.0.0.1:1/0",
    "DB_CONNECTION_STRING": f"postgresql://user:{CANARY}@127.0.0.1:1/db",
    "ALPACA_API_KEY": f"{CANARY}-key",
    "ALPACA_API_SECRET": f"{CANARY}-secret",
}

WRONG = [
    ("PORT", "abc"),
    ("PORT", "70000"),
    ("PORT", "-1"),
    ("ENV", "prod"),
    ("DEFAULT_CHART_POINTS", "0"),
    ("DEFAULT_CHART_POINTS", "many"),
    ("DEFAULT_CHART_POINTS", "5001"),
    ("MAX_CHART_POINTS", "0"),
    ("MAX_CHART_POINTS", "50001"),
    ("LOG_LEVEL", "loud"),
    ("ALLOWED_ORIGINS", "*"),
    *(
        ("ROOT_PATH", path)
        for path in ("/", "api", "/api/", "//api", "/a b", "/ü", "/a?b", "/a/../b", "/./a", "/graphql")
    ),
    ("ALLOWED_ORIGINS", "https://*.example.com"),
    ("ALLOWED_ORIGINS", "example.com"),
    ("ALLOWED_ORIGINS", "https://good.example, https://example.com/path"),
    ("FORWARDED_ALLOW_IPS", "*"),
    ("FORWARDED_ALLOW_IPS", "10.0.0.1, proxy.example"),
    ("INTROSPECTION", "maybe"),
    ("MAX_COST_IN_FLIGHT", "0"),
    ("MAX_TOPICS_PER_ADDRESS", "0"),
    ("FILES_TIMEZONE", "Mars/Olympus"),
    ("DB_CONNECTION_STRING", CANARY),
    ("DB_CONNECTION_STRING", f"mysql://user:{CANARY}@localhost/db"),
    ("DB_CONNECTION_STRING", f"postgresql://user:{CANARY}@[::1/db"),
    ("DB_CONNECTION_STRING", f"postgresql://user:{CANARY}@localhost:port/db"),
    ("DB_CONNECTION_STRING", f"postgresql://user:{CANARY}@127.0.0.1:1/db"),
    ("DB_CONNECTION_STRING", f"postgresql://user:{CANARY}@no-such-host.invalid/db"),
    ("DB_CONNECTION_STRING", f"postgresql://user:{CANARY}@127.0.0.1:1/db?sslmode={CANARY}"),
]


def _is_one_line_about(name: str, result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("candlegraph: ")
    assert name in lines[0]
    assert CANARY not in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("name", "value"), [one for one in WRONG if one[0] != "DB_CONNECTION_STRING"])
def test_a_wrong_setting_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for secret, canary in SECRETS.items():
        monkeypatch.setenv(secret, canary)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as raised:
        Settings.read()
    assert name in raised.value.message
    assert "\n" not in raised.value.message
    assert CANARY not in raised.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "abc"),
        ("ENV", "prod"),
        ("CCXT_OPTIONS", f'{{"binance": "{CANARY}"'),
        *(one for one in WRONG if one[0] == "DB_CONNECTION_STRING"),
    ],
)
def test_it_stops_the_start_with_one_line_before_anything_is_made(name: str, value: str, tmp_path: Path) -> None:
    result = run("serve", **{**SECRETS, "PORT": "0", "DATA_DIR": str(tmp_path), name: value})
    _is_one_line_about(name, result)
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_does_not_answer_is_given_up_after_a_while() -> None:
    """It takes connections and says nothing, as behind a firewall."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        dsn = f"postgresql://user:{CANARY}@127.0.0.1:{silent.getsockname()[1]}/db"
        result = run("serve", PORT="0", DB_CONNECTION_STRING=dsn)
    _is_one_line_about("DB_CONNECTION_STRING", result)


@pytest.mark.parametrize("change", [{"path": "/canary-hunter2-db"}, {"netloc": f"nobody-here:{CANARY}@"}])
def test_a_database_that_refuses_us_is_one_line(postgres_dsn: str, change: dict[str, str]) -> None:
    result = run("serve", PORT="0", DB_CONNECTION_STRING=urlunsplit(urlsplit(postgres_dsn)._replace(**change)))
    _is_one_line_about("DB_CONNECTION_STRING", result)


def test_a_data_dir_that_cannot_be_one_is_one_line(tmp_path: Path) -> None:
    a_file = tmp_path / "file"
    a_file.write_text("not a folder")
    for place in (a_file, a_file / "below", Path("/proc/candlegraph")):
        _is_one_line_about("DATA_DIR", run("serve", PORT="0", DATA_DIR=str(place)))


def test_a_folder_without_postgresql_is_one_line(tmp_path: Path) -> None:
    _is_one_line_about("POSTGRES_BIN", run("serve", PORT="0", DATA_DIR=str(tmp_path), POSTGRES_BIN=str(tmp_path)))


async def test_a_port_in_use_and_a_strange_host_are_one_line(new_database: Callable[..., object]) -> None:
    dsn = str(await new_database())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = run("serve", PORT=port, DB_CONNECTION_STRING=dsn, LOG_LEVEL="error")
    _is_one_line_about("PORT", result)
    assert port in result.stderr
    _is_one_line_about("HOST", run("serve", PORT="0", HOST="256.1.1.1", DB_CONNECTION_STRING=dsn, LOG_LEVEL="error"))


def test_an_empty_setting_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(name.upper(), "")
    assert Settings.read().port == 8000


def test_a_provider_s_secret_may_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugins get what the file holds as if it had been set; the server's own secrets are not handed on."""
    names = ("ALPACA_API_SECRET", "CCXT_OPTIONS", "SECRET_KEY")
    for name in names:
        monkeypatch.setenv(f"{name}_FILE", str(path := tmp_path / name))
        path.write_text(f"{name} {CANARY} of more than thirty-two bytes\n")
    environ = Settings.read().environ()
    for name in names[:2]:
        assert environ[name] == f"{name} {CANARY} of more than thirty-two bytes"
    assert "SECRET_KEY" not in environ


def test_a_provider_s_secret_in_a_file_reaches_its_plugin(tmp_path: Path) -> None:
    (tmp_path / "options").write_text(f'{{"binance": "{CANARY}"')
    result = run("serve", PORT="0", DATA_DIR=str(tmp_path), CCXT_OPTIONS_FILE=str(tmp_path / "options"))
    _is_one_line_about("CCXT_OPTIONS", result)


def test_what_the_command_line_says_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1234")
    assert Settings.read(port=4321).port == 4321
    assert Settings.read(port=None).port == 1234


def test_no_secret_is_shown_by_printing_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = Settings.read()
    assert CANARY not in repr(settings) + str(settings) + settings.model_dump_json()
    monkeypatch.setenv("PORT", "abc")
    with pytest.raises(ConfigurationError) as raised:
        Settings.read()
    assert CANARY not in str(raised.value)


async def test_a_running_server_never_writes_a_secret(server_dsn: str, tmp_path: Path) -> None:
    secret = {name: value for name, value in SECRETS.items() if name != "DB_CONNECTION_STRING"}
    scheme, netloc, *rest = urlsplit(server_dsn)
    dsn = urlunsplit((scheme, netloc.replace("@", f":{CANARY}@"), *rest))
    origin = "https://charts.example.com"
    with serving(
        tmp_path / "log", DB_CONNECTION_STRING=dsn, LOG_LEVEL="debug", ALLOWED_ORIGINS=origin, **secret
    ) as running:
        async with aiohttp.ClientSession(running.url) as http:
            for origin_sent, allowed in ((origin, origin), (origin + ".evil", None), ("null", None)):
                body = {"query": '{ markets { id } bad: providers(market: "x") { id } }'}
                async with http.post(
                    "/graphql?token=" + CANARY, json=body, headers={"origin": origin_sent}
                ) as response:
                    assert CANARY not in await response.text()
                    assert response.headers.get("access-control-allow-origin") == allowed
                    assert "access-control-allow-credentials" not in response.headers
        running.stop()
    assert CANARY not in running.log.read_text(encoding="utf-8")


@pytest.fixture
async def server_dsn(new_database: Callable[..., object], migrated_template: str) -> str:
    return str(await new_database(migrated_template))


def test_the_readme_shows_every_setting_as_the_code_has_it() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"<!-- settings -->\n{settings_table()}\n<!-- /settings -->" in readme, (
        "Renew it: python -c 'from server.settings import settings_table; print(settings_table())'"
    )


def test_no_setting_is_read_that_is_not_declared() -> None:
    """Providers read their own settings from the environment that they are given; nothing else reads it."""
    readers = [
        path
        for folder in ("storage", "resolvers", "schema", "realtime", "server", "candlegraph")
        for path in (ROOT / folder).rglob("*.py")
        if "environ" in path.read_text(encoding="utf-8")
    ]
    names = {path.relative_to(ROOT).as_posix() for path in readers}
    assert names <= {
        "server/settings.py",
        "server/wiring.py",  # hands it to the plugins
        "storage/embedded/os_user.py",
        "candlegraph/provider.py",
        "candlegraph/testing/installed.py",  # it stands in for the server
    }
