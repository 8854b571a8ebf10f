"""A real Ray cluster for tests, its machines processes of this one. Fixtures belong in conftest.py."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import requests
from s3_server import free_ports


class RayCluster:
    """A head that takes no work, and two machines of one CPU.

    Args:
        cluster_utils: Ray's module of that name.
        environment: Of everything that runs there.
    """

    def __init__(self, cluster_utils: Any, environment: Mapping[str, str]) -> None:
        (port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{port}"
        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}
        # A job's `python` is this one.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {
            **environment,
            "PATH": path,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_JOB_STOP_WAIT_TIME_S": "30",
        }
        with patch.dict(os.environ, self._environment):
            self._cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        self.machines: list[Any] = []
        for _ in range(2):
            self.add_machine()

    def add_machine(self) -> None:
        """Only from the main thread: Ray sets signal handlers."""
        with patch.dict(os.environ, self._environment):
            self.machines.append(self._cluster.add_node(num_cpus=1))

    def machine_of(self, job: str) -> Any:
        """The machine on which a job's entry point runs."""
        runs_on = requests.get(f"{self.address}/api/jobs/{job}", timeout=30).json()["driver_node_id"]
        (machine,) = [m for m in self.machines if m.node_id == runs_on]
        return machine

    def machines_of_workers(self) -> list[Any]:
        """The machines on which Ray Train's workers run."""
        query = {"filter_keys": "state", "filter_predicates": "=", "filter_values": "ALIVE"}
        answer = requests.get(f"{self.address}/api/v0/actors", params=query, timeout=30).json()
        actors = answer["data"]["result"]["result"]
        run_on = [actor["node_id"] for actor in actors if actor["class_name"] == "RayTrainWorker"]
        return [machine for machine in self.machines if machine.node_id in run_on]

    def lose(self, machine: Any) -> None:
        """Kills a machine, with all that runs there."""
        self.machines.remove(machine)
        self._cluster.remove_node(machine, allow_graceful=False)

    def shutdown(self) -> None:
        self._cluster.shutdown()
