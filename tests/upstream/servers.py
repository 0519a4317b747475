"""One plain PostgreSQL 15 and `ostrakon` before it, on free loopback ports, gone when the run ends.

Knows nothing of the suites.
"""

import contextlib
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time

BIN = pathlib.Path(os.environ.get("OSTRAKON_PG_BIN", "/usr/lib/postgresql/15/bin"))

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "300",
    "max_prepared_transactions": "100",
    "log_connections": "on",
    "jit": "off",
}

# A session's pool has to have room for every client that a suite opens at once.
POOL_SIZE = {"transaction": 20, "session": 150}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def as_server():
    """Arguments for subprocess that make root the user `postgres`: PostgreSQL refuses to run as root."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


def end_with_parent(*command):
    """Nothing stays behind when the run itself is killed."""
    return ["setpriv", "--pdeathsig", "INT", *map(str, command)]


@contextlib.contextmanager
def directory():
    """A directory under /tmp that the server's user owns."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="ostrakon-upstream-", dir="/tmp"))
    path.chmod(0o755)
    if os.geteuid() == 0:
        postgres = pwd.getpwnam("postgres")
        os.chown(path, postgres.pw_uid, postgres.pw_gid)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def running(process, stop_signal):
    try:
        yield process
    finally:
        process.send_signal(stop_signal)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def psql(port, database, *statements):
    command = [BIN / "psql", "-XqAtw", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", database]
    for statement in statements:
        command += ["-c", statement]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def wait_until_served(process, port, database, log):
    end = time.monotonic() + 60
    while True:
        answer = psql(port, database, "SELECT 1")
        if answer.returncode == 0:
            return
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"nothing is served on port {port}: {answer.stderr}\n{log.read_text()[-4000:]}")
        time.sleep(0.1)


@contextlib.contextmanager
def postgres(home, programs, database):
    """A new server with one database of this name; gives its port."""
    port, data, log = free_port(), home / "data", home / "postgres.log"
    initdb = [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/tmp", **as_server())
    settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
    command = end_with_parent(programs / "postgres", "-D", data, "-p", port, *settings)
    if os.geteuid() == 0:
        # Changing the user clears the wish to end with the parent: setpriv has to do both.
        user = pwd.getpwnam("postgres")
        command[1:1] = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    with open(log, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd="/tmp")
    with running(process, signal.SIGQUIT):
        wait_until_served(process, port, "postgres", log)
        if database != "postgres":
            made = psql(port, "postgres", f'CREATE DATABASE "{database}" TEMPLATE template0')
            if made.returncode:
                raise RuntimeError(made.stderr)
        yield port


@contextlib.contextmanager
def proxy(home, binary, database, node_port, mode):
    """`ostrakon serve` with one shard, that server; gives its port."""
    port, log = free_port(), home / "ostrakon.log"
    config = home / "ostrakon.toml"
    (home / "proxy").mkdir()
    config.write_text(
        f'[proxy]\nlisten = "127.0.0.1:{port}"\ndata = "{home}/proxy"\ndatabase = "{database}"\nother_databases = true\n\n'
        f'[pool]\nmode = "{mode}"\nsize = {POOL_SIZE[mode]}\n\n'
        f'[control]\nuser = "postgres"\n\n[[users]]\nname = "postgres"\n\n'
        f'[[shards]]\nname = "s1"\n\n[[shards.nodes]]\nname = "s1a"\nhost = "127.0.0.1"\nport = {node_port}\n'
    )
    with open(log, "w") as output:
        environment = {**os.environ, "OSTRAKON_LOG": os.environ.get("OSTRAKON_LOG", "info")}
        command = end_with_parent(binary, "serve", "--config", config)
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    with running(process, signal.SIGTERM):
        wait_until_served(process, port, database, log)
        yield port
        if process.poll() is not None:
            raise RuntimeError(f"the proxy ended during the suite\n{log.read_text()[-4000:]}")
