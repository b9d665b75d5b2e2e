"""The manifests of k8s/ as kubectl renders them, and how the kubelet would start their containers."""

from __future__ import annotations

import base64
import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = ("overlays/dev", "overlays/production")

Manifest = dict[str, Any]

_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


def render(folder: Path) -> tuple[Manifest, ...]:
    """What ``kubectl apply -k`` would send. Raises when kubectl refuses the folder."""
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run([kubectl, "kustomize", folder], check=True, capture_output=True, text=True)
    assert not done.stderr, done.stderr  # it warns of what is about to go
    return tuple(yaml.safe_load_all(done.stdout))


@functools.cache
def overlay(name: str) -> tuple[Manifest, ...]:
    """An overlay, or another folder of k8s/, rendered."""
    return render(K8S / name)


def production_with(component: str, copy: Path) -> tuple[Manifest, ...]:
    """The production overlay with one of its components, as its comment says; ``copy``: where it may be edited."""
    shutil.copytree(K8S, copy)
    kustomization = copy / "overlays" / "production" / "kustomization.yaml"
    text = kustomization.read_text()
    for line in ("components:", f"  - {component}"):
        assert text.count(f"# {line}\n") == 1, line
        text = text.replace(f"# {line}\n", f"{line}\n")
    kustomization.write_text(text)
    return render(kustomization.parent)


def of_kind(manifests: Sequence[Manifest], kind: str) -> list[Manifest]:
    """All of a kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def named(manifests: Sequence[Manifest], kind: str, name: str) -> Manifest:
    """The one of that kind and name."""
    (found,) = (one for one in of_kind(manifests, kind) if one["metadata"]["name"] == name)
    return found


def workloads(manifests: Sequence[Manifest]) -> list[Manifest]:
    """Whatever makes pods, but for those that an operator makes."""
    return [one for one in manifests if one["kind"] in ("Deployment", "StatefulSet", "Job")]


def pod_of(workload: Manifest) -> Manifest:
    """The template of its pods."""
    template: Manifest = workload["spec"]["template"]
    return template


def containers(workload: Manifest) -> Iterator[Manifest]:
    """Those of its pods, init containers and sidecars too."""
    spec = pod_of(workload)["spec"]
    yield from spec.get("initContainers", ())
    yield from spec["containers"]


def container(workload: Manifest, name: str) -> Manifest:
    """The one of that name."""
    (found,) = (one for one in containers(workload) if one["name"] == name)
    return found


class Launch(NamedTuple):
    """How a container's process is started."""

    program: str
    arguments: Sequence[str]
    environment: Mapping[str, str]


def launch(
    manifests: Sequence[Manifest], workload: Manifest, name: str, *, pod: str, secret: str = "pass word"
) -> Launch:
    """Of a container of that name in the pod, as the kubelet would.

    Values refer to those before them only. Every password is ``secret``.
    """
    found = container(workload, name)
    environment: dict[str, str] = {}
    for variable in found.get("env", ()):
        if "value" in variable:
            value = _expanded(variable["value"], environment)
        else:
            value = _looked_up(variable["valueFrom"], manifests, pod, secret)
        environment[variable["name"]] = value
    for source in found.get("envFrom", ()):
        environment |= named(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    program, *rest = found["command"]
    arguments = [_expanded(argument, environment) for argument in (*rest, *found.get("args", ()))]
    return Launch(program, arguments, environment)


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    # The kubelet leaves what it does not know as it is; for us that is a mistake.
    return _VARIABLE.sub(lambda match: environment[match[1]], text)


def _looked_up(source: Mapping[str, Any], manifests: Sequence[Manifest], pod: str, secret: str) -> str:
    match source:
        case {"fieldRef": {"fieldPath": "metadata.name"}}:
            return pod
        case {"fieldRef": {"fieldPath": "metadata.namespace"}}:
            (namespace,) = of_kind(manifests, "Namespace")
            return str(namespace["metadata"]["name"])
        case {"fieldRef": {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}}:
            return pod.rpartition("-")[2]
        case {"configMapKeyRef": {"name": name, "key": key}}:
            return str(named(manifests, "ConfigMap", name)["data"][key])
        case {"secretKeyRef": {"name": name, "key": "username"}}:
            return user_of(manifests, name)
        case {"secretKeyRef": {"key": "password"}}:
            return secret
    raise AssertionError(f"not known here: {source}")


def user_of(manifests: Sequence[Manifest], secret: str) -> str:
    """The Postgres role whose password is in the Secret: as it says, or the Cluster that takes the password from it."""
    for one in of_kind(manifests, "Secret"):
        if one["metadata"]["name"] == secret:
            return base64.b64decode(one["data"]["username"]).decode()
    (name,) = {
        str(role["name"])
        for cluster in of_kind(manifests, "Cluster")
        for role in cluster["spec"]["managed"]["roles"]
        if role.get("passwordSecret") == {"name": secret}
    }
    return name


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector, an empty one too, has these labels. Knows matchLabels, and In of matchExpressions."""
    assert selector.keys() <= {"matchLabels", "matchExpressions"}, selector
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
