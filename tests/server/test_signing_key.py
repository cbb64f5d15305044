"""The key that tokens are signed with, other secrets, and where they come from."""

from __future__ import annotations

import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from candlegraph.errors import ConfigurationError
from server.settings import Settings
from server.signing_key import load_or_create_key, weakness_of
from tests.server.running import run

GOOD = "canary-5d0f1c8e7ab24963b1f2"  # 27 bytes
STRONG = GOOD + "-9a8b7c"
WEAK = [
    "short",
    GOOD,
    "your_very_secret_key",
    "your_very_secret_key" * 2,
    "your_very_secret_key_your_very_secret_key_1",
    "YOUR-VERY-SECRET-KEY-CHANGE-ME-PLEASE",
    "a-string-secret-at-least-256-bits-long",
    "your-256-bit-secret-your-256-bit-secret",
    "changeme" * 8,
    "change-this-secret-key-in-production"[:20] * 2,
    "supersecretkeysupersecretkeysupersecretkey",
    "django-insecure-secret-key-password-test",
    "password" * 5,
    "a" * 64,
    "ab" * 32,
    "0" * 64,
    "0123456789" * 4,
    "abcdefghijklmnopqrstuvwxyz0123456789",
    "candlegraph-candlegraph-candlegraph-secret",
    " " * 40,
    "é" * 20,
]


@pytest.mark.parametrize("key", WEAK)
def test_a_weak_key_is_refused_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET_KEY", "SECRET_KEY_PREVIOUS"):
        with monkeypatch.context() as patch:
            patch.setenv("SECRET_KEY", STRONG)
            patch.setenv(name, key)
            with pytest.raises(ConfigurationError) as raised:
                Settings.read()
        assert raised.value.message.startswith(f"{name}: ")
        assert "\n" not in raised.value.message
        assert key not in raised.value.message or key == "short"


@pytest.mark.parametrize(
    "key",
    [
        STRONG,
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "Zk3!" * 2 + "wq8LpX0vTn5RyUc2JdHs7GmB",
    ],
)
def test_a_random_key_is_taken(key: str) -> None:
    assert weakness_of(key) is None


def _stops(name: str, **variables: str) -> None:
    result: subprocess.CompletedProcess[str] = run("serve", PORT="0", **variables)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("candlegraph: ")
    assert name in line
    assert "canary" not in line


def test_production_does_not_start_without_a_key_of_its_own(tmp_path: Path) -> None:
    _stops("SECRET_KEY", ENV="production", DATA_DIR=str(tmp_path))
    _stops("SECRET_KEY", ENV="production", DATA_DIR=str(tmp_path), SECRET_KEY="your_very_secret_key" * 2)
    _stops("REDIS_URL", SECRET_KEY=STRONG, DB_CONNECTION_STRING="", REDIS_URL="http://canary", DATA_DIR=str(tmp_path))
    _stops("REQUIRE_AUTH", REQUIRE_AUTH="canary", DATA_DIR=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_secret_may_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in map(str.upper, Settings.secrets()):
        path = tmp_path / name
        path.write_text(STRONG + "\n")
        monkeypatch.setenv(name + "_FILE", str(path))
    settings = Settings.read()
    for name in Settings.secrets():
        assert getattr(settings, name).get_secret_value() == STRONG
    assert Settings.secrets() == {
        "secret_key",
        "secret_key_previous",
        "db_connection_string",
        "db_listen_connection_string",
        "redis_url",
        "ccxt_options",
        "alpaca_api_key",
        "alpaca_api_secret",
    }
    monkeypatch.setenv("SECRET_KEY", STRONG)
    with pytest.raises(ConfigurationError, match=r"SECRET_KEY_FILE.*SECRET_KEY is set as well"):
        Settings.read()


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe", b"canary-too-short"])
def test_a_file_that_holds_no_secret_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("SECRET_KEY_FILE", str(path))
    with pytest.raises(ConfigurationError) as raised:
        Settings.read()
    assert "SECRET_KEY" in raised.value.message
    assert "canary" not in raised.value.message


def test_the_settings_in_effect_are_printed_without_the_secrets(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(STRONG)
    result = run(
        "config",
        "--data-dir",
        str(tmp_path),
        SECRET_KEY_FILE=str(tmp_path / "key"),
        DB_CONNECTION_STRING="postgresql://user:canary@localhost/db",
        REDIS_URL="redis://:canary@localhost:6379/0",
        CCXT_OPTIONS='{"binance": {"apiKey": "canary"}}',
        REQUIRE_AUTH="1",
        PORT="8123",
        ALPACA_DATA_URL="https://user:can@ary-canary@proxy.example:8443/data?feed=x&token=canary",
        ALPACA_TRADING_URL="https://canary@proxy.example/v2",
        ALPACA_STREAM_URL="wss://stream.example/v2?key=canary#access_token=canary",
        ALLOWED_ORIGINS="https://a.example,https://user:canary@b.example",
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "canary" not in result.stdout
    assert "ary" not in result.stdout.replace("binary", "")
    shown = dict(line.split("=", 1) for line in result.stdout.splitlines())
    assert shown.keys() == {name.upper() for name in Settings.model_fields}
    assert (shown["PORT"], shown["REQUIRE_AUTH"], shown["DATA_DIR"]) == ("8123", "true", str(tmp_path))
    assert shown["ALPACA_DATA_URL"] == "https://(hidden)@proxy.example:8443/data?feed=(hidden)&token=(hidden)"
    assert shown["ALPACA_TRADING_URL"] == "https://(hidden)@proxy.example/v2"
    assert shown["ALPACA_STREAM_URL"] == "wss://stream.example/v2?key=(hidden)#access_token=(hidden)"
    assert shown["ALLOWED_ORIGINS"] == "https://a.example,https://(hidden)@b.example"
    assert (shown["SECRET_KEY"], shown["DB_CONNECTION_STRING"], shown["SECRET_KEY_PREVIOUS"]) == (
        "(hidden)",
        "(hidden)",
        "",
    )


def test_a_key_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(load_or_create_key, [tmp_path / "data"] * 16))
    (key,) = keys
    assert weakness_of(key.decode()) is None
    (path,) = (tmp_path / "data").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_key(tmp_path / "data") == key


@pytest.mark.parametrize("content", ["", "short", "your_very_secret_key" * 2])
def test_a_damaged_key_is_not_signed_with(tmp_path: Path, content: str) -> None:
    (tmp_path / "secret_key").write_text(content)
    with pytest.raises(ConfigurationError, match="DATA_DIR"):
        load_or_create_key(tmp_path)


def test_a_data_directory_that_cannot_keep_one_is_said_and_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    one, other = (load_or_create_key(tmp_path / "file") for _ in range(2))
    assert one != other
    assert "SECRET_KEY is not set" in caplog.text
    assert one.decode() not in caplog.text
