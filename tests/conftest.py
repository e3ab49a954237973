"""What several test files share: a real S3 server, and a Ctrl-C that works."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".s3" / "bin" / "python"
KEYS = {
    "AWS_ACCESS_KEY_ID": "test:tester",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}

# a shell starts its background jobs with SIGINT ignored; what tests interrupt would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)


class S3Server:
    """OpenStack Swift on loopback; `stop` kills it as -9 does, `start` goes on with its data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _four_free_ports()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        script = Path(__file__).with_name("swift_server.py")
        log = (self.folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [PYTHON, script, self.folder / "swift", str(self.port)], stdout=log, stderr=log
            )
        for _ in range(600):
            if all(_listens(self.port + number) for number in range(4)):
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"Swift does not start: {(self.folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        """Kills it; its children die with it."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running server, one for all tests; skipped where `scripts/services` has not been run."""
    if not PYTHON.exists():
        pytest.skip("no S3 server: run scripts/services first")
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bucket(s3_server: S3Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """`s3://bucket` of an empty bucket of this test's own, with AWS_* set to reach it."""
    import boto3

    before = {name: os.environ.get(name) for name in (*KEYS, "AWS_ENDPOINT_URL")}
    os.environ |= {**KEYS, "AWS_ENDPOINT_URL": s3_server.endpoint}
    name = f"b{abs(hash(request.node.nodeid)):x}"
    client = boto3.client("s3")
    client.create_bucket(Bucket=name)
    yield f"s3://{name}"
    client.close()
    for key, value in before.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _four_free_ports() -> int:
    """The first of four neighbouring ports that nobody listens on."""
    for port in range(19600 + os.getpid() % 1000 * 4, 60000, 4):
        if not any(_listens(port + number) for number in range(4)):
            return port
    raise RuntimeError("no four free ports")
