"""The production overlay lets in who belongs: certificates and their roles, TLS to the databases, roles in these."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc
from psycopg.conninfo import conninfo_to_dict

import router.settings
from likering.postgres.roles import Database, statements
from likering.security.certificates import Certificates
from likering.security.identity import CertificateIdentities
from likering.security.roles import Role
from likering.serving.channels import internal_channel_options
from tests.parts.cert_manager import CertManager
from tests.parts.manifests import (
    Manifest,
    container,
    containers,
    launch,
    named,
    of_kind,
    overlay,
    pod_of,
    production_with,
    workloads,
)

PRODUCTION = overlay("overlays/production")
OPERATOR = overlay("operator")
PREFIXES = {
    "router": "LIKERING_ROUTER_",
    "shard": "LIKERING_NODE_",
    "shard-waiting": "LIKERING_NODE_",
    "replica": "LIKERING_REPLICA_",
}
CONTAINERS = {"router": "router", "shard": "node", "shard-waiting": "node", "replica": "replica"}
CALLED = {
    # Whose certificate → by which names it is called: by callers, by operators, by routers and nodes.
    "router-certificates": (
        *("router", "router.likering", "router.likering.svc.cluster.local"),
        *("router-headless.likering", "router-admin"),
    ),
    "shard-certificates": ("shard", "shard-0.shard.likering.svc", "shard-waiting-12.shard.likering.svc"),
    "replica-certificates": ("replica-2.replica.likering.svc",),
}


@pytest.fixture
def cert_manager() -> CertManager:
    return CertManager(PRODUCTION)


def workload(name: str) -> Manifest:
    (found,) = (one for one in workloads(PRODUCTION) if one["metadata"]["name"] == name)
    return found


def volume_at(of: Manifest, name: str, path: str) -> Manifest:
    """The volume that the container has there."""
    (mount,) = (one for one in container(of, name)["volumeMounts"] if one["mountPath"] == path)
    assert mount.keys() == {"name", "mountPath", "readOnly"}, "a subPath would never be renewed"
    (volume,) = (one for one in pod_of(of)["spec"]["volumes"] if one["name"] == mount["name"])
    return dict(volume)


def roles_file(directory: Path) -> Path:
    """The roles of the overlay."""
    file = directory / "roles.toml"
    file.write_text(named(PRODUCTION, "ConfigMap", "access")["data"]["roles.toml"])
    return file


@pytest.mark.parametrize("name", PREFIXES)
def test_every_process_speaks_mutual_tls(name: str, tmp_path: Path, cert_manager: CertManager) -> None:
    """With files that its Secret has, which it alone may read, and which arrive anew when they are renewed."""
    found = workload(name)
    started = launch(PRODUCTION, found, CONTAINERS[name], pod=f"{name}-0")
    given = {
        argument.partition("=")[0].removeprefix("--").replace("-", "_"): argument.partition("=")[2]
        for argument in started.arguments
    } | {key.removeprefix(PREFIXES[name]).lower(): value for key, value in started.environment.items()}
    volume = volume_at(found, CONTAINERS[name], "/etc/likering-certificates")
    assert volume["secret"].keys() == {"secretName", "defaultMode"}
    assert volume["secret"]["defaultMode"] == 0o440
    assert pod_of(found)["spec"]["securityContext"]["fsGroup"] == 10001
    cert_manager.mount(volume["secret"]["secretName"], tmp_path)
    Certificates(
        *(
            tmp_path / given[setting].removeprefix("/etc/likering-certificates/")
            for setting in ("tls_certificate", "tls_key", "tls_ca")
        )
    )
    assert given["tls_roles"] == "/etc/likering-access/roles.toml"
    access = volume_at(found, CONTAINERS[name], "/etc/likering-access")
    assert access["configMap"] == {"name": "access"}  # without a hash: it changes under the pods that run


def test_processes_stand_for_nodes_and_operators_for_operators(
    tmp_path: Path, cert_manager: CertManager
) -> None:
    """Databases, and the authority itself, have no role."""
    identities = CertificateIdentities(roles_file(tmp_path))
    roles = {}
    for one in of_kind(PRODUCTION, "Certificate"):
        if one["spec"].get("isCA"):
            continue
        secret = one["spec"]["secretName"]
        pem = cert_manager.secret(secret)["tls.crt"]
        uris = [uri.encode() for uri in one["spec"].get("uris", ())]
        dns = [name.encode() for name in one["spec"].get("dnsNames", ())]
        identity = identities.of({"x509_pem_cert": [pem], "peer_uri": uris, "peer_dns": dns})
        roles[secret] = set(identity.roles) if identity is not None else set()
    databases = [f"{one['metadata']['name']}-server" for one in of_kind(PRODUCTION, "Cluster")]
    assert roles == {
        "router-certificates": {Role.NODE},
        "shard-certificates": {Role.NODE},
        "replica-certificates": {Role.NODE},
        "operator-certificates": {Role.OPERATOR},
        **{database: set() for database in databases},
    }


def test_only_this_namespace_can_have_certificates_made() -> None:
    """Whoever may name the Issuer could stand for a node."""
    assert not of_kind(PRODUCTION, "ClusterIssuer")
    issuers = {one["metadata"]["name"]: one["spec"] for one in of_kind(PRODUCTION, "Issuer")}
    for one in of_kind(PRODUCTION, "Certificate"):
        spec = one["spec"]
        assert spec["issuerRef"]["kind"] == "Issuer"
        if spec.get("isCA"):
            # Renewed with the same key: what it has signed stays good.
            assert spec["privateKey"]["rotationPolicy"] == "Never"
            assert issuers["likering"] == {"ca": {"secretName": spec["secretName"]}}
        else:
            assert spec["issuerRef"]["name"] == "likering"
            assert spec["privateKey"]["rotationPolicy"] == "Always"


@contextmanager
def served(directory: Path, *, callers: Path) -> Iterator[str]:
    """Health behind the certificate of a directory, for those who show one of the same authority."""
    files = Certificates(directory / "tls.crt", directory / "tls.key", callers)
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_secure_port("127.0.0.1:0", files.for_server())
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("secret", CALLED)
def test_certificates_are_of_the_names_that_are_called(
    secret: str, tmp_path: Path, cert_manager: CertManager
) -> None:
    """By gRPC's own rules for names, in a real handshake; any other name is refused."""
    own, caller = tmp_path / "own", tmp_path / "caller"
    cert_manager.mount(secret, own)
    cert_manager.mount("router-certificates", caller)
    shown = Certificates(caller / "tls.crt", caller / "tls.key", caller / "ca.crt")
    with served(own, callers=caller / "ca.crt") as address:
        for name in (*CALLED[secret], "elsewhere.example.org"):
            options = (*internal_channel_options(), ("grpc.ssl_target_name_override", name))
            with grpc.secure_channel(address, shown.for_channel(), options) as channel:
                check: Callable[..., bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
                if name in CALLED[secret]:
                    check(b"", timeout=20)
                else:
                    with pytest.raises(grpc.RpcError) as refused:
                        check(b"", timeout=20)
                    assert "hostname verification" in (refused.value.details() or "").lower()


def test_what_processes_call_is_among_those_names() -> None:
    """What they advertise, their seeds, and what the operator's pod asks."""
    names = set()
    for name, prefix in PREFIXES.items():
        started = launch(PRODUCTION, workload(name), CONTAINERS[name], pod=f"{name}-0")
        for argument in started.arguments:
            flag, _, value = argument.partition("=")
            if flag in ("--advertise", "--seeds"):
                names.add(value.rpartition(":")[0])
        assert f"{prefix}ADVERTISE" not in started.environment
    operator = launch(PRODUCTION + OPERATOR, named(OPERATOR, "Job", "operator"), "operator", pod="operator")
    names.add(operator.environment["LIKERING_ADMIN"].rpartition(":")[0])
    issued = [one["spec"].get("dnsNames", ()) for one in of_kind(PRODUCTION, "Certificate")]
    exact = {name for names_of in issued for name in names_of}
    assert names
    assert all(name in exact or f"*.{name.partition('.')[2]}" in exact for name in names)


def test_operators_show_a_certificate_of_their_own(tmp_path: Path, cert_manager: CertManager) -> None:
    job = named(OPERATOR, "Job", "operator")
    volume = volume_at(job, "operator", "/etc/likering-certificates")
    cert_manager.mount(volume["secret"]["secretName"], tmp_path)
    environment = launch(PRODUCTION + OPERATOR, job, "operator", pod="operator").environment
    for setting in ("CA", "CERTIFICATE", "KEY"):
        path = environment[f"LIKERING_TLS_{setting}"]
        assert (tmp_path / path.removeprefix("/etc/likering-certificates/")).exists()


def connection_strings() -> Iterator[tuple[str, Manifest, str, str]]:
    """Each that a container is given: its variable, workload and container, and the string."""
    for one in workloads(PRODUCTION):
        for found in containers(one):
            if found["name"] == "valkey":
                continue
            started = launch(PRODUCTION, one, found["name"], pod=f"{one['metadata']['name']}-1")
            for key, value in started.environment.items():
                if key.endswith(("_TOPOLOGY", "_POSTGRES", "_REPLICATION")):
                    yield key, one, found["name"], value


def test_databases_are_verified_by_name() -> None:
    """Of each host that is tried there is a certificate; the file with the authority is mounted."""
    names = {
        cluster["metadata"]["name"]: named(
            PRODUCTION, "Certificate", cluster["spec"]["certificates"]["serverTLSSecret"]
        )["spec"]["dnsNames"]
        for cluster in of_kind(PRODUCTION, "Cluster")
    }
    assert names == {cluster: [f"{cluster}-{kind}" for kind in ("rw", "r", "ro")] for cluster in names}
    seen = set()
    for key, one, name, value in connection_strings():
        seen.add(key)
        environment = launch(PRODUCTION, one, name, pod=f"{one['metadata']['name']}-1").environment
        given = {"sslmode": environment["PGSSLMODE"], "sslrootcert": environment["PGSSLROOTCERT"]}
        asked = {**given, **conninfo_to_dict(value)}
        assert asked["sslmode"] == "verify-full"
        directory, _, file = str(asked["sslrootcert"]).rpartition("/")
        secret = volume_at(one, name, directory)["secret"]
        assert secret.get("items", [{"key": "ca.crt", "path": file}]) == [{"key": "ca.crt", "path": file}]
        assert set(str(asked["host"]).split(",")) <= {host for hosts in names.values() for host in hosts}
    assert len(seen) == 7


def test_a_subscription_finds_the_authority_where_its_node_has_it() -> None:
    """Other nodes and their Postgres servers use the same connection string, without the variables of the pod."""
    (replication,) = {
        conninfo_to_dict(value)["sslrootcert"]
        for key, _, _, value in connection_strings()
        if key == "LIKERING_NODE_REPLICATION"
    }
    for cluster in of_kind(PRODUCTION, "Cluster"):
        (source,) = cluster["spec"]["projectedVolumeTemplate"]["sources"]
        assert source["secret"]["name"] == cluster["spec"]["certificates"]["serverTLSSecret"]
        assert [f"/projected/{item['path']}" for item in source["secret"]["items"]] == [replication]


def test_no_server_is_reached_without_tls() -> None:
    for cluster in of_kind(PRODUCTION, "Cluster"):
        assert cluster["spec"]["postgresql"]["pg_hba"] == ["hostnossl all all all reject"]
        template = named(PRODUCTION, "Certificate", cluster["spec"]["certificates"]["serverTLSSecret"])
        assert "cnpg.io/reload" in template["spec"]["secretTemplate"]["labels"]


@pytest.mark.parametrize("database", list(Database))
def test_databases_begin_with_the_roles_of_the_command(database: Database) -> None:
    """What `likering cluster roles` prints is what CloudNativePG runs at the first start."""
    assert named(PRODUCTION, "ConfigMap", "postgres-roles")["data"][f"{database}.sql"] == statements(database)
    kinds = set()
    for cluster in of_kind(PRODUCTION, "Cluster"):
        kind = "topology" if cluster["metadata"]["name"] == "topology-postgres" else "node"
        (reference,) = cluster["spec"]["bootstrap"]["initdb"]["postInitApplicationSQLRefs"]["configMapRefs"]
        assert reference == {"name": "postgres-roles", "key": f"{kind}.sql"}
        kinds.add(kind)
    assert kinds == set(Database)


def test_each_process_is_the_role_that_it_needs() -> None:
    """Tables are made by one role and used by another; nodes are known to each other by a third."""
    users = {
        (key, name): str(conninfo_to_dict(value)["user"]) for key, _, name, value in connection_strings()
    }
    assert users == {
        ("LIKERING_TOPOLOGY", "schema"): "likering_migration",
        ("LIKERING_TOPOLOGY", "first-owners"): "likering_app",
        ("LIKERING_TOPOLOGY", "node"): "likering_app",
        ("LIKERING_NODE_TOPOLOGY", "node"): "likering_app",
        ("LIKERING_ROUTER_TOPOLOGY", "router"): "likering_app",
        ("LIKERING_REPLICA_TOPOLOGY", "replica"): "likering_app",
        ("LIKERING_NODE_POSTGRES", "node"): "likering_node",
        ("LIKERING_REPLICA_POSTGRES", "replica"): "likering_node",
        ("LIKERING_NODE_REPLICATION", "node"): "likering_replication",
    }


def test_a_replica_reads_the_standbys_of_its_node_and_no_other_host() -> None:
    hosts = [
        conninfo_to_dict(value)["host"]
        for key, _, _, value in connection_strings()
        if key == "LIKERING_REPLICA_POSTGRES"
    ]
    assert hosts == ["shard-1-postgres-ro"]


def test_the_documented_secrets_are_of_those_roles() -> None:
    """The user names in the commands that make them."""
    told = " ".join((Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text().split())
    for cluster in of_kind(PRODUCTION, "Cluster"):
        for role in cluster["spec"]["managed"]["roles"]:
            if "passwordSecret" not in role:
                assert role["login"] is False
                continue
            secret = role["passwordSecret"]["name"]
            assert f"role {secret} {role['name']} " in told


def test_tokens_are_a_port_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the component. The keys are of a ConfigMap that is made by hand, and change under the router."""
    manifests = production_with("tokens", tmp_path / "k8s")
    deployment = named(manifests, "Deployment", "router")
    started = launch(manifests, deployment, "router", pod="router")
    for key, value in started.environment.items():
        monkeypatch.setenv(key, value)
    arguments = [argument for argument in started.arguments if not argument.startswith("--config")]
    read = router.settings.read(arguments)
    assert read.token_listen == "0.0.0.0:50054"
    assert read.token_audience is not None
    assert read.token_binds_user
    volume = volume_at(deployment, "router", "/etc/likering-tokens")
    made = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()
    name, file = volume["configMap"]["name"], str(read.token_keys).rpartition("/")[2]
    assert f"create configmap {name} --from-file={file}=" in made
    for service in ("router", "router-headless"):
        ports = {one["name"]: one for one in named(manifests, "Service", service)["spec"]["ports"]}
        assert ports["tokens"]["port"] == 50054
    ports = {one["name"]: one["containerPort"] for one in container(deployment, "router")["ports"]}
    assert ports["tokens"] == 50054


def test_secrets_are_in_no_manifest() -> None:
    """Those of production are made by hand or by cert-manager."""
    assert not of_kind(PRODUCTION, "Secret")
    for one in of_kind(overlay("overlays/dev"), "Secret"):
        assert base64.b64decode(one["data"]["password"]) == b"development"
