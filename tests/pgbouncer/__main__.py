"""A hundred and twenty questions to two servers behind a real PgBouncer; `python -m tests.pgbouncer` runs it by hand.

It needs `pgbouncer` on PATH (`apt-get install pgbouncer`). Its configuration is the default one, but for where it listens,
which database it serves and `pool_mode = transaction`. PGBOUNCER_POOL_SIZE may make the pool smaller than the default of 20.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp

from storage.embedded.postgres import EmbeddedPostgres, PostgresServer
from tests.fakes.remote import Remote, variables
from tests.fakes.upstream import minutes
from tests.server.questions import Questions
from tests.server.running import serving

ROUNDS, T0 = 12, 1_714_521_600_000
_CONFIGURATION = """
[databases]
{database} = host={host} port={port} user={user}
[pgbouncer]
pool_mode = transaction
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = trust
auth_file = {users}
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def pooling(server: PostgresServer, folder: Path) -> Iterator[tuple[str, Path]]:
    """Run PgBouncer before a server; its address and its log."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        sys.exit("pgbouncer must be on PATH: apt-get install pgbouncer")
    listen, users, log = _free_port(), folder / "users.txt", folder / "pgbouncer.log"
    users.write_text(f'"{server.user}" ""\n')
    text = _CONFIGURATION.format(
        database=server.database, host=server.socket_dir, port=server.port, user=server.user, listen=listen, users=users
    )
    if size := os.environ.get("PGBOUNCER_POOL_SIZE"):
        text += f"default_pool_size = {size}\n"
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(text)
    folder.chmod(0o755)
    owner = ["-u", pwd.getpwuid(server.socket_dir.stat().st_uid).pw_name] if os.geteuid() == 0 else []
    with log.open("wb") as out:
        process = subprocess.Popen([program, *owner, str(configuration)], stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", listen)):
                    break
            time.sleep(0.05)
        else:
            sys.exit(f"pgbouncer does not answer:\n{log.read_text(encoding='utf-8')}")
        yield f"postgresql://{server.user}@127.0.0.1:{listen}/{server.database}", log
    finally:
        process.terminate()
        process.wait(20)


async def main() -> None:
    """Run it and say what came of it."""
    folder = Path(tempfile.mkdtemp())
    truth = {f"S{i:02}": minutes(T0, 3_000, seed=i) for i in range(4 * ROUNDS)}
    postgres = EmbeddedPostgres(folder / "data")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(postgres.stop)
        dsn, pooler_log = stack.enter_context(pooling(await asyncio.to_thread(postgres.start), folder))
        async with Remote(truth) as remote:
            environ = {"DB_CONNECTION_STRING": dsn, "DATA_DIR": str(folder), **variables(remote, folder / "site")}
            logs = [folder / "one.log", folder / "two.log"]
            servers = [await asyncio.to_thread(stack.enter_context, serving(log, **environ)) for log in logs]
            async with aiohttp.ClientSession(servers[0].url) as one, aiohttp.ClientSession(servers[1].url) as two:
                both = [Questions(one, remote), Questions(two, remote)]
                rounds = await asyncio.gather(*(both[number % 2].all(number) for number in range(ROUNDS)))
            answers = [why for reasons in rounds for why in reasons]
        text = "".join(log.read_text(encoding="utf-8") for log in logs)
        print(f"{answers.count('')} of {len(answers)} answered; {text.count('Traceback')} tracebacks in the logs")
        for why in filter(None, answers):
            print(why)
        print(text)
        print("\n".join(pooler_log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]))
    sys.exit(answers.count("") < len(answers) or "Traceback" in text)


if __name__ == "__main__":
    asyncio.run(main())
