"""Amazon's API for one test session, its jobs processes of this machine: `aws_machines.py`. Fixtures: conftest.py."""

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

from s3_server import S3Server, free_ports

START_S = 60
SERVICES = ("SAGEMAKER", "ECS", "BEDROCK")


class AwsServer(NamedTuple):
    """A running server, and the folder of its machines."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """What leads the clients of its services there, and leaves S3 where it is."""
        return {f"AWS_ENDPOINT_URL_{service}": self.url for service in SERVICES} | {"AWS_DEFAULT_REGION": "us-east-1"}

    def pid(self, job: str) -> int:
        """The process that a job's container is."""
        return int((self.folder / f"{job}.pid").read_text())

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def start_aws(folder: Path, s3: S3Server) -> AwsServer:
    """Starts moto's server, whose machines reach the S3 server."""
    (port,) = free_ports(1)
    script = Path(__file__).parent / "aws_machines.py"
    command = [sys.executable, str(script), str(port), str(folder)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **s3.environment}, stdout=log, stderr=log)
    server = AwsServer(f"http://127.0.0.1:{port}", folder, process)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    limit = time.monotonic() + START_S
    while time.monotonic() < limit and process.poll() is None:
        try:
            direct.open(f"{server.url}/moto-api/data.json", timeout=5).close()
            return server
        except OSError:
            time.sleep(0.1)
    server.stop()
    raise RuntimeError(f"moto's server did not start:\n{(folder / 'server.log').read_text()[-3000:]}")
