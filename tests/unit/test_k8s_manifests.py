"""The manifests of k8s/: that they fit together, and that what they say of the processes is so."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict
from pydantic_settings import BaseSettings

import router.settings
import shard_node.replica.settings
import shard_node.settings
from likering.serving.health import LIVENESS
from router.settings import RouterSettings
from shard_node.settings import NodeSettings
from tests.parts.manifests import (
    K8S,
    OVERLAYS,
    Manifest,
    container,
    containers,
    launch,
    named,
    of_kind,
    overlay,
    pod_of,
    render,
    selects,
    workloads,
)

ROOT = K8S.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

WORKLOADS = {
    "router": ("Deployment", "router"),
    "node": ("StatefulSet", "shard"),
    "replica": ("StatefulSet", "replica"),
}
"""Process → what runs it; replicas only in production."""
READ = {
    "router": router.settings.read,
    "node": shard_node.settings.read,
    "replica": shard_node.replica.settings.read,
}

OPERATOR = overlay("operator")
"""Goes with the production overlay."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test sees each overlay, and where it asks for a process each one of the overlay."""
    if "process" in metafunc.fixturenames:
        each = [(name, process) for name in OVERLAYS for process in WORKLOADS]
        metafunc.parametrize(("name", "process"), [one for one in each if one != ("overlays/dev", "replica")])
    else:
        metafunc.parametrize("name", OVERLAYS)


def config_of(manifests: tuple[Manifest, ...], workload: Manifest, directory: Path) -> None:
    """Writes the files of the workload's ConfigMap, as the kubelet mounts them."""
    for volume in pod_of(workload)["spec"]["volumes"]:
        if volume["name"] == "config":
            data = named(manifests, "ConfigMap", volume["configMap"]["name"])["data"]
            for file, text in data.items():
                (directory / file).write_text(text)


def workload_of(name: str, process: str) -> Manifest:
    """What runs it."""
    return named(overlay(name), *WORKLOADS[process])


def settings_of(
    name: str, process: str, directory: Path, monkeypatch: pytest.MonkeyPatch, pod: str = "shard-2"
) -> Any:
    """What the real settings class makes of a container's arguments, environment and configuration file."""
    manifests = overlay(name)
    workload = workload_of(name, process)
    started = launch(manifests, workload, process, pod=pod)
    config_of(manifests, workload, directory)
    for key, value in started.environment.items():
        monkeypatch.setenv(key, value)
    arguments = [argument.replace("/etc/likering/", f"{directory}/") for argument in started.arguments]
    return READ[process](arguments)


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_images_name_a_version(name: str) -> None:
    """In production the one of this release."""
    for workload in workloads(overlay(name)):
        for one in containers(workload):
            image, _, tag = one["image"].rpartition(":")
            assert image
            assert tag not in ("", "latest")
            if name == "overlays/production" and image.endswith("/likering"):
                assert tag == PROJECT["version"]


def test_pods_keep_the_restricted_standard(name: str) -> None:
    """As the namespace enforces it (Pod Security Standards, restricted), and nothing is written to their own disk."""
    (namespace,) = of_kind(overlay(name), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for workload in workloads((*overlay(name), *OPERATOR)):
        pod = pod_of(workload)["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        kinds = {kind for volume in pod.get("volumes", ()) for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "secret", "emptyDir"}
        for one in containers(workload):
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_containers_say_what_they_need(name: str) -> None:
    for workload in workloads((*overlay(name), *OPERATOR)):
        for one in containers(workload):
            assert one["resources"]["requests"].keys() == {"cpu", "memory"}, one["name"]
            assert "memory" in one["resources"]["limits"]


def test_processes_take_their_arguments_and_environment(
    name: str, process: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no variable is misspelt, which the settings would overlook."""
    settings = settings_of(name, process, tmp_path, monkeypatch)
    fields: type[BaseSettings] = type(settings)
    prefix = fields.model_config["env_prefix"]
    workload = workload_of(name, process)
    given = [one["name"] for one in container(workload, process)["env"]]
    ours = [variable for variable in given if variable.startswith(prefix)]
    assert ours
    assert {variable.removeprefix(prefix).lower() for variable in ours} <= fields.model_fields.keys()
    of_libpq = {option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar}
    assert {variable for variable in given if variable.startswith("PG")} <= of_libpq
    assert container(workload, process)["command"][0] in PROJECT["scripts"]


def test_probes_ask_for_health_where_it_is_served(
    name: str, process: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the port without TLS. Readiness is that of the server, where no other process may lead; the others, and a
    node's that may have to wait, ask for the name that only hanging ends."""
    settings = settings_of(name, process, tmp_path, monkeypatch)
    workload = workload_of(name, process)
    found = container(workload, process)
    served = port(settings.health_listen)
    may_wait = process == "node" and name == "overlays/production"
    assert found["readinessProbe"]["grpc"] == {"port": served} | ({"service": LIVENESS} if may_wait else {})
    for probe in ("startupProbe", "livenessProbe"):
        assert found[probe]["grpc"] == {"port": served, "service": LIVENESS}
    declared = {one["containerPort"] for one in found["ports"]}
    listens = [getattr(settings, field) for field in type(settings).model_fields if field.endswith("listen")]
    assert declared == {port(address) for address in listens if address}
    starting = found["startupProbe"]
    # A replica does not wait for its database, but ends and is started again.
    wait = 0 if process == "replica" else settings.start_timeout
    assert starting["periodSeconds"] * starting["failureThreshold"] > wait


def test_pods_have_the_time_to_drain(
    name: str, process: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The preStop hook, the wait in which callers turn away, and the calls in progress, which have the grace twice."""
    settings = settings_of(name, process, tmp_path, monkeypatch)
    workload = workload_of(name, process)
    hook = (
        container(workload, process)
        .get("lifecycle", {})
        .get("preStop", {})
        .get("exec", {})
        .get("command", [])
    )
    held = sum(float(one.removeprefix("--timeout=")) for one in hook if one.startswith("--timeout="))
    needed = held + settings.drain_delay + 2 * settings.drain_grace
    assert pod_of(workload)["spec"]["terminationGracePeriodSeconds"] > needed


def test_a_pod_is_the_node_of_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the others reach by its name in the headless Service, on the port it listens on."""
    settings: NodeSettings = settings_of(name, "node", tmp_path, monkeypatch, pod="shard-2")
    shard = named(overlay(name), "StatefulSet", "shard")
    service = named(overlay(name), "Service", shard["spec"]["serviceName"])
    assert settings.name == "shard-2"
    namespace = service["metadata"]["namespace"]
    assert (
        settings.advertise == f"shard-2.{service['metadata']['name']}.{namespace}.svc:{port(settings.listen)}"
    )
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert shard["spec"]["podManagementPolicy"] == "Parallel"


def test_routers_that_start_ask_the_nodes_for_the_topology(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: RouterSettings = settings_of(name, "router", tmp_path, monkeypatch)
    (seed,) = settings.seeds
    service = named(overlay(name), "Service", seed.rpartition(":")[0])
    assert port(seed) in {one["port"] for one in service["spec"]["ports"]}


def hosts_there_are(manifests: tuple[Manifest, ...]) -> set[str]:
    """Names of the DNS: of Services, of StatefulSets' pods, and of the Services that CloudNativePG makes."""
    names = {one["metadata"]["name"] for one in of_kind(manifests, "Service")}
    for one in of_kind(manifests, "StatefulSet"):
        pods = range(one["spec"]["replicas"])
        names |= {f"{one['metadata']['name']}-{number}.{one['spec']['serviceName']}" for number in pods}
    for one in of_kind(manifests, "Cluster"):
        names |= {f"{one['metadata']['name']}-{kind}" for kind in ("rw", "ro", "r")}
    return names


def test_each_node_has_a_database_of_its_own(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all of them one topology; passwords with a space arrive whole."""
    manifests = overlay(name)
    own: set[str] = set()
    for number in range(named(manifests, "StatefulSet", "shard")["spec"]["replicas"]):
        settings: NodeSettings = settings_of(name, "node", tmp_path, monkeypatch, pod=f"shard-{number}")
        postgres = conninfo_to_dict(settings.postgres.get_secret_value())
        topology = conninfo_to_dict(settings.topology.get_secret_value())
        assert postgres["password"] == topology["password"] == "pass word"
        hosts = str(postgres["host"]).split(",")
        assert {*hosts, *str(topology["host"]).split(",")} <= hosts_there_are(manifests)
        assert own.isdisjoint(hosts)
        own |= set(hosts)
        assert settings.replication is not None
        assert conninfo_to_dict(settings.replication.get_secret_value())["host"] == postgres["host"]


def test_configuration_is_part_of_the_pods(name: str, tmp_path: Path) -> None:
    """By the hash in its name, which the annotation shows: a change replaces them."""
    copy = tmp_path / "k8s"
    shutil.copytree(K8S, copy)
    for file in ("router.toml", "valkey.conf"):
        with (copy / "base" / file).open("a") as appended:
            appended.write("# changed\n")
    changed = render(copy / name)
    for kind, workload in (("Deployment", "router"), ("StatefulSet", "shard")):
        shown = []
        for manifests in (overlay(name), changed):
            pod = pod_of(named(manifests, kind, workload))
            (volume,) = (one for one in pod["spec"]["volumes"] if one["name"] == "config")
            assert pod["metadata"]["annotations"]["likering.dev/config"] == volume["configMap"]["name"]
            assert named(manifests, "ConfigMap", volume["configMap"]["name"])
            shown.append(volume["configMap"]["name"])
        assert re.fullmatch(rf"{workload}-[a-z0-9]{{10}}", shown[0])
        assert shown[0] != shown[1]


def test_services_lead_to_ports_that_are_served(name: str) -> None:
    manifests = overlay(name)
    pods = [pod_of(workload) for workload in workloads(manifests)]
    for service in of_kind(manifests, "Service"):
        selected = [
            pod
            for pod in pods
            if selects({"matchLabels": service["spec"]["selector"]}, pod["metadata"]["labels"])
        ]
        assert selected, service["metadata"]["name"]
        for pod in selected:
            served = {one["name"] for found in pod["spec"]["containers"] for one in found["ports"]}
            assert {one["targetPort"] for one in service["spec"]["ports"]} <= served


def test_callers_find_a_plain_and_a_headless_service_and_operators_another(name: str) -> None:
    manifests = overlay(name)
    ports = {
        service: [one["targetPort"] for one in named(manifests, "Service", service)["spec"]["ports"]]
        for service in ("router", "router-headless", "router-admin")
    }
    assert ports == {"router": ["grpc"], "router-headless": ["grpc", "metrics"], "router-admin": ["admin"]}
    assert named(manifests, "Service", "router-headless")["spec"]["clusterIP"] == "None"


def test_budgets_and_the_autoscaler_are_of_what_there_is(name: str) -> None:
    """A budget keeps all but one; the autoscaler alone says how many routers there are."""
    manifests = overlay(name)
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        selected = [
            workload
            for workload in workloads(manifests)
            if selects(budget["spec"]["selector"], pod_of(workload)["metadata"]["labels"])
        ]
        names = [one["metadata"]["name"] for one in selected]
        assert names[0] == budget["metadata"]["name"]
        assert names[1:] == ["shard-waiting"] * (len(names) - 1)
        assert budget["spec"]["maxUnavailable"] == 1
    evictable = {one["metadata"]["name"] for one in workloads(manifests) if one["kind"] != "Job"}
    assert {one["metadata"]["name"] for one in of_kind(manifests, "PodDisruptionBudget")} == {
        one for one in evictable if one != "shard-waiting" and not one.endswith("-postgres")
    }
    (scaler,) = of_kind(manifests, "HorizontalPodAutoscaler")
    target = scaler["spec"]["scaleTargetRef"]
    scaled = named(manifests, target["kind"], target["name"])
    assert scaled["apiVersion"] == target["apiVersion"]
    assert "replicas" not in scaled["spec"]
    assert all("cpu" in one["resources"]["requests"] for one in containers(scaled))
    assert scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]


def test_valkey_is_a_native_sidecar_that_only_its_node_reaches(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts before the node and ends after it; its readiness is not the pod's."""
    shard = named(overlay(name), "StatefulSet", "shard")
    valkey = container(shard, "valkey")
    assert valkey["restartPolicy"] == "Always"
    assert valkey in pod_of(shard)["spec"]["initContainers"]
    assert "readinessProbe" not in valkey
    settings: NodeSettings = settings_of(name, "node", tmp_path, monkeypatch)
    lines = (tmp_path / "valkey.conf").read_text().splitlines()
    assert {"bind 127.0.0.1", "port 6379", 'save ""'} <= set(lines)
    assert settings.cache.get_secret_value() == "redis://127.0.0.1:6379/0"


def test_the_job_gives_the_slots_to_the_nodes_that_there_are(name: str) -> None:
    """At the first start: 32 to 64 slots for each of the nodes that are foreseen, a power of two."""
    job = named(overlay(name), "Job", "topology")
    nodes = named(overlay(name), "StatefulSet", "shard")["spec"]["replicas"]
    environments = [
        launch(overlay(name), job, one["name"], pod="topology").environment for one in containers(job)
    ]
    assert [one["NODES"] for one in environments] == [str(nodes)] * 2
    slots = int(environments[0]["SLOTS"])
    assert slots.bit_count() == 1
    assert slots >= 16 * nodes


def test_what_is_secret_is_made_before(name: str) -> None:
    """Every Secret that a pod cannot start without is in the overlay, or of its Certificates, or made as documented."""
    manifests = overlay(name)
    told = (ROOT / "docs" / "kubernetes.md").read_text()
    made = {one["metadata"]["name"] for one in of_kind(manifests, "Secret")}
    issued = {one["spec"]["secretName"] for one in of_kind(manifests, "Certificate")}
    for workload in workloads((*manifests, *(OPERATOR if issued else ()))):
        for volume in pod_of(workload)["spec"].get("volumes", ()):
            if "secret" in volume:
                assert volume["secret"]["secretName"] in issued
                assert "optional" not in volume["secret"]
            if "configMap" in volume:
                assert named(manifests, "ConfigMap", volume["configMap"]["name"])
        for one in containers(workload):
            for variable in one.get("env", ()):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference is not None:
                    assert reference["name"] in made or f"role {reference['name']} " in told
                    assert reference["key"] in ("username", "password")
