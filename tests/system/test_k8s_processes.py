"""The processes as the manifests of k8s/ start them: real ones, asked what Kubernetes' probes ask.

Only what is of the machine is replaced: addresses by free ones of the loopback interface, databases by the test's.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep

import grpc
import psycopg
import pytest
import redis
import yaml
from grpc_health.v1 import health_pb2
from psycopg import sql
from psycopg.conninfo import make_conninfo

from likering import Consistency, Exactness, LikeTracker
from likering.client.credentials import credentials_from_files
from likering.dev.binaries import find_valkey
from likering.dev.ports import free_port
from likering.dev.postgres import PostgresServer
from tests.parts.cert_manager import LOOPBACK, CertManager
from tests.parts.manifests import (
    K8S,
    OVERLAYS,
    Launch,
    Manifest,
    container,
    containers,
    launch,
    named,
    overlay,
    pod_of,
    workloads,
)
from tests.parts.standby import Standby

DEADLINE = 60.0
POD = "shard-0"
DOCS = (K8S.parent / "docs" / "kubernetes.md").read_text()
CERTIFICATES = "/etc/likering-certificates/"
ACCESS = "/etc/likering-access/"


def documented_caller() -> Manifest:
    """The Certificate that the documentation has a caller given."""
    (found,) = (
        block for block in re.findall(r"```yaml\n(.*?)```", DOCS, re.S) if "kind: Certificate" in block
    )
    manifest: Manifest = yaml.safe_load(found)
    return manifest


class Machine:
    """Stands for the pods' network, files and databases: one port for each of theirs, one directory for each pod."""

    def __init__(self, directory: Path, topology: str, postgres: str) -> None:
        self._directory = directory
        self._cert_manager: CertManager | None = None
        self._databases = {
            "LIKERING_TOPOLOGY": topology,
            "LIKERING_NODE_TOPOLOGY": topology,
            "LIKERING_ROUTER_TOPOLOGY": topology,
            "LIKERING_REPLICA_TOPOLOGY": topology,
            "LIKERING_NODE_POSTGRES": postgres,
            "LIKERING_NODE_REPLICATION": postgres,
            # There is no standby here; what a node does without one has a test of its own.
            "LIKERING_NODE_REQUIRE_SYNCHRONOUS_STANDBY": "false",
        }
        self._ports: dict[tuple[int, str], int] = {}
        self._running: list[subprocess.Popen[bytes]] = []

    def add_standby(self, dsn: str) -> None:
        """Of the server that has the node's database."""
        database = psycopg.conninfo.conninfo_to_dict(self._databases["LIKERING_NODE_POSTGRES"])["dbname"]
        self._databases["LIKERING_REPLICA_POSTGRES"] = make_conninfo(dsn, dbname=database)

    def port(self, number: int, pod: str) -> int:
        """Which one stands for the pod's port of that number."""
        if (number, pod) not in self._ports:
            self._ports[number, pod] = free_port()
        return self._ports[number, pod]

    def here(self, text: str, pod: str) -> str:
        """An argument, or a line of a configuration file, with what there is on this machine."""
        text = re.sub(r"^(--config=|)/etc/(likering|valkey)/", rf"\g<1>{self._directory}/", text)
        text = text.replace(CERTIFICATES, f"{self._directory}/{pod}/").replace(ACCESS, f"{self._directory}/")
        text = re.sub(
            r"^port (\d+)$", lambda found: f"port {self.port(int(found[1]), pod)}", text, flags=re.M
        )
        return re.sub(
            r"(0\.0\.0\.0|127\.0\.0\.1|[a-z0-9-]+\.(?:shard|replica)\.[a-z-]+\.svc):(\d+)",
            lambda found: f"127.0.0.1:{self.port(int(found[2]), pod)}",
            text,
        )

    def environment(self, started: Launch, pod: str) -> dict[str, str]:
        """Of the container, with the test's databases."""
        ours = {
            key: self._databases.get(key, self.here(value, pod)) for key, value in started.environment.items()
        }
        return {**ours, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def mount(self, manifests: tuple[Manifest, ...], workload: Manifest, pod: str) -> None:
        """The files of its ConfigMaps and certificates. The documented caller has the roles that the comment names."""
        for volume in pod_of(workload)["spec"].get("volumes", ()):
            if "configMap" in volume:
                data = named(manifests, "ConfigMap", volume["configMap"]["name"])["data"]
                for file, text in data.items():
                    text = re.sub(r'^# ("uri:)', r"\1", text, flags=re.M)
                    (self._directory / file).write_text(self.here(text, pod))
            elif volume["name"] == "certificates":
                self._issue(manifests, volume["secret"]["secretName"], pod)

    def _issue(self, manifests: tuple[Manifest, ...], secret: str, pod: str) -> None:
        if self._cert_manager is None:
            self._cert_manager = CertManager((*manifests, documented_caller()))
        self._cert_manager.mount(secret, self._directory / pod, *LOOPBACK)

    def caller(self) -> grpc.ChannelCredentials | None:
        """What callers show, where the processes ask for it."""
        if self._cert_manager is None:
            return None
        shown = self._directory / "caller"
        self._cert_manager.mount(documented_caller()["spec"]["secretName"], shown)
        return credentials_from_files(
            ca=shown / "ca.crt", certificate=shown / "tls.crt", key=shown / "tls.key"
        )

    def run(self, started: Launch, pod: str = "topology") -> subprocess.CompletedProcess[str]:
        """A command that ends by itself."""
        return subprocess.run(
            [started.program, *started.arguments],
            env=self.environment(started, pod),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )

    def start(self, manifests: tuple[Manifest, ...], workload: str, pod: str) -> subprocess.Popen[bytes]:
        """A pod: its processes, one after the other, each once its probes succeed. Gives the last one."""
        (found,) = (one for one in workloads(manifests) if one["metadata"]["name"] == workload)
        self.mount(manifests, found, pod)
        for one in containers(found):
            started = launch(manifests, found, one["name"], pod=pod)
            program = find_valkey() if started.program == "valkey-server" else started.program
            process = subprocess.Popen(
                [program, *(self.here(argument, pod) for argument in started.arguments)],
                env=self.environment(started, pod),
                cwd=self._directory,
            )
            self._running.append(process)
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if "grpc" in one.get(probe, {}):
                    self.until_answered(one[probe], pod)
        return process

    def end(self) -> None:
        """As Kubernetes ends pods; they have to end in order, with 0."""
        for process in reversed(self._running):
            process.send_signal(signal.SIGTERM)
        assert [process.wait(DEADLINE) for process in self._running] == [0] * len(self._running)

    def kill(self) -> None:
        """Whatever still runs."""
        for process in self._running:
            process.kill()
            process.wait()

    def answers(self, probe: Mapping[str, Mapping[str, object]], pod: str) -> bool:
        """What the kubelet makes of a gRPC probe: nothing but SERVING will do."""
        asked = probe["grpc"]
        with grpc.insecure_channel(f"127.0.0.1:{self.port(int(str(asked['port'])), pod)}") as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            try:
                answer = check(
                    health_pb2.HealthCheckRequest(service=str(asked.get("service", ""))), timeout=1
                )
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def until_answered(self, probe: Mapping[str, Mapping[str, object]], pod: str) -> None:
        deadline = monotonic() + DEADLINE
        while not self.answers(probe, pod):
            assert monotonic() < deadline, f"{probe} of {pod} fails"
            sleep(0.05)


@pytest.fixture
def machine(tmp_path: Path, database: str, postgres_server: PostgresServer) -> Iterator[Machine]:
    """With a database for the topology and one for the node."""
    name = f"{psycopg.conninfo.conninfo_to_dict(database)['dbname']}_node"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    machine = Machine(tmp_path, database, postgres_server.dsn_of(name))
    yield machine
    machine.kill()
    with psycopg.connect(postgres_server.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_first_deployment(name: str, machine: Machine) -> None:
    """The Job makes the topology, a node registers and is given the slots, a router serves; then all of it ends."""
    manifests = overlay(name)
    job = named(manifests, "Job", "topology")
    shard = named(manifests, "StatefulSet", "shard")
    schema = launch(manifests, job, "schema", pod="topology")
    owners = launch(manifests, job, "first-owners", pod="topology")
    # One node is enough, and as many slots as one has.
    few = {"SLOTS": "16", "NODES": "1"}
    schema = schema._replace(environment={**schema.environment, **few})
    owners = owners._replace(environment={**owners.environment, **few})
    node = launch(manifests, shard, "node", pod=POD)

    for _ in range(2):  # a Job may be repeated
        done = machine.run(schema)
        assert done.returncode == 0, done.stderr

    machine.start(manifests, "shard", POD)
    with redis.Redis(port=machine.port(6379, POD)) as valkey:
        assert valkey.ping()
    for _ in range(2):
        done = machine.run(owners)
        assert done.returncode == 0, done.stderr

    machine.start(manifests, "router", "router")
    address = f"127.0.0.1:{machine.port(50051, 'router')}"
    with LikeTracker(address, timeout=DEADLINE, credentials=machine.caller()) as likes:
        assert likes.like("u", "p")
        assert likes.like_count("p") == 1
    for pod, metric in ((POD, b"likering_writer_leads"), ("router", b"likering_router_batches")):
        with urllib.request.urlopen(f"http://127.0.0.1:{machine.port(9464, pod)}/metrics") as metrics:
            assert metric in metrics.read()

    # It owns all slots and is not draining: nothing is waited for.
    hook = container(shard, "node")["lifecycle"]["preStop"]["exec"]["command"]
    done = machine.run(Launch(hook[0], hook[1:], node.environment))
    assert (done.returncode, done.stderr) == (0, "")
    machine.end()


def test_the_process_that_waits_takes_over(machine: Machine) -> None:
    """In production. Kubernetes has it ready while it waits; when the first process is told to end, likes go on."""
    manifests = overlay("overlays/production")
    few = {"SLOTS": "16", "NODES": "1"}
    for step in ("schema", "first-owners"):
        if step == "first-owners":
            first = machine.start(manifests, "shard", "shard-0")
            machine.start(manifests, "shard-waiting", "shard-waiting-0")
        job = launch(manifests, named(manifests, "Job", "topology"), step, pod="topology")
        done = machine.run(job._replace(environment={**job.environment, **few}))
        assert done.returncode == 0, done.stderr
    machine.start(manifests, "router", "router")
    address = f"127.0.0.1:{machine.port(50051, 'router')}"
    with LikeTracker(address, timeout=DEADLINE, credentials=machine.caller()) as likes:
        assert likes.like("u1", "p")
        assert machine.answers({"grpc": {"port": 50053}}, "shard-0")
        assert not machine.answers({"grpc": {"port": 50053}}, "shard-waiting-0")
        first.send_signal(signal.SIGTERM)
        assert likes.like("u2", "p")
        assert likes.like_count("p") == 2
        machine.until_answered({"grpc": {"port": 50053}}, "shard-waiting-0")


def test_a_replica_answers_while_its_node_is_gone(
    machine: Machine, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """In production, from a standby of the node's Postgres, to those who would rather have an old count than none."""
    manifests = overlay("overlays/production")
    few = {"SLOTS": "16", "NODES": "1"}
    standby = Standby(postgres_server, tmp_path / "standby")
    try:
        standby.follow(synchronous=False)
        for step in ("schema", "first-owners"):
            if step == "first-owners":
                node = machine.start(manifests, "shard", POD)
            job = launch(manifests, named(manifests, "Job", "topology"), step, pod="topology")
            done = machine.run(job._replace(environment={**job.environment, **few}))
            assert done.returncode == 0, done.stderr
        machine.add_standby(standby.dsn)
        machine.start(manifests, "replica", "replica-0")
        machine.start(manifests, "router", "router")
        address = f"127.0.0.1:{machine.port(50051, 'router')}"
        with LikeTracker(address, timeout=DEADLINE, credentials=machine.caller()) as likes:
            assert likes.like("u", "p")
            node.kill()
            deadline = monotonic() + DEADLINE
            while (found := likes.get_like_count("p", consistency=Consistency.STALE_OK)).count != 1:
                assert monotonic() < deadline, found
            assert found.exactness is Exactness.STALE
    finally:
        machine.kill()
        standby.stop()


def test_operators_are_let_in_and_others_are_not(machine: Machine) -> None:
    """In production. The operator's pod has a certificate of its own for the port for operators; that of a caller is
    not let in there, nor is none at all."""
    manifests, operator = overlay("overlays/production"), overlay("operator")
    schema = launch(manifests, named(manifests, "Job", "topology"), "schema", pod="topology")
    done = machine.run(schema._replace(environment={**schema.environment, "SLOTS": "16"}))
    assert done.returncode == 0, done.stderr
    machine.start(manifests, "router", "router")
    job = named(operator, "Job", "operator")
    machine.mount(manifests, job, "operator")
    assert machine.caller() is not None
    admin = f"127.0.0.1:{machine.port(50052, 'router')}"
    environment = launch((*manifests, *operator), job, "operator", pod="operator").environment
    status = Launch("likering", ["ring", "status", "--admin", admin], environment)
    done = machine.run(status, "operator")
    assert done.returncode == 0, done.stderr
    refused = machine.run(status, "caller")
    assert refused.returncode != 0
    assert "operator" in refused.stderr
    plain = {key: value for key, value in environment.items() if "_TLS_" not in key}
    assert machine.run(status._replace(environment=plain), "operator").returncode != 0


def test_a_job_that_fails_says_so(machine: Machine) -> None:
    """Its script lets only those exit codes pass that mean that there is nothing to do."""
    manifests = overlay(OVERLAYS[0])
    schema = launch(manifests, named(manifests, "Job", "topology"), "schema", pod="topology")
    done = machine.run(schema._replace(environment={**schema.environment, "SLOTS": "63"}))
    assert done.returncode != 0
    assert "63" in done.stderr
