"""Every manifest of k8s/ against the schema of its kind: Kubernetes' own, or those of the operators that are used."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.parts.manifests import K8S, OVERLAYS, Manifest, overlay, production_with

SCHEMAS = K8S.parent / "tests" / "parts" / "schemas"
OF_OPERATORS = {
    ("postgresql.cnpg.io/v1", "Cluster"),
    ("postgresql.cnpg.io/v1", "ScheduledBackup"),
    ("barmancloud.cnpg.io/v1", "ObjectStore"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("cert-manager.io/v1", "Certificate"),
    ("cert-manager.io/v1", "Issuer"),
}
KUBERNETES = ("1.33", "1.37")
"""The oldest that is meant to do, and the newest that there are schemas of."""


@functools.cache
def schema(kind: str) -> Any:
    return yaml.safe_load((SCHEMAS / f"{kind}.yaml").read_text())


def validate(manifest: Manifest, version: str) -> None:
    """Raises when a field is unknown or wrong, and when the kind has no schema."""
    if (manifest["apiVersion"], manifest["kind"]) in OF_OPERATORS:
        jsonschema.validate(manifest, schema(manifest["kind"]))
    else:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("folder", [*OVERLAYS, "operator", "shrink-guard"])
def test_manifests_are_valid(folder: str, version: str) -> None:
    """Strictly: no field that is not declared, and no kind that nobody knows."""
    for manifest in overlay(folder):
        validate(manifest, version)


@pytest.mark.parametrize("component", ["tokens", "tracing"])
def test_components_are_valid(component: str, tmp_path: Path) -> None:
    """With everything that they add to the production overlay."""
    plain = overlay("overlays/production")
    changed = [one for one in production_with(component, tmp_path / "k8s") if one not in plain]
    assert changed
    for manifest in changed:
        validate(manifest, KUBERNETES[-1])


def test_a_kind_without_a_schema_is_refused() -> None:
    """It is no warning here."""
    manifest = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Pooler",
        "metadata": {"name": "p"},
        "spec": {},
    }
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        validate(manifest, KUBERNETES[-1])


@pytest.mark.parametrize("kind", ["Cluster", "Deployment"])
def test_an_unknown_field_is_refused(kind: str) -> None:
    """Of the operators' kinds as of Kubernetes' own."""
    (manifest, *_) = (one for one in overlay("overlays/production") if one["kind"] == kind)
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate({**manifest, "spec": {**manifest["spec"], "instancess": 3}}, KUBERNETES[-1])
