"""The manifests as kustomize builds them: held to Kubernetes' schemas, to KubeRay's, and to what Ray's autoscaler reads in them."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.files import DEPLOY, OVERLAYS, ROOT, constraint
from tests.processes import run

KUBERNETES = "1.34"
"""The version of Kubernetes whose schemas count."""
RAY_KINDS = ("RayCluster", "RayJob")
CRDS = os.environ.get("KUBERAY_CRDS")
"""A folder with KubeRay's definitions, ray.io_rayclusters.yaml and ray.io_rayjobs.yaml, of the version that is to be looked at."""
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which builds overlays, is not installed")
pytestmark = needs_kubectl


@functools.cache
def built(overlay: str) -> list[dict[str, Any]]:
    """What an overlay comes to, with secrets made as the guide says, and the shortest shipped grid."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "kubernetes"
        shutil.copytree(DEPLOY / "kubernetes", folder, ignore=shutil.ignore_patterns("secrets", "grid.yaml"))
        assert run(["sh", str(DEPLOY / "secrets.sh"), str(folder / "base/secrets")]).returncode == 0
        shutil.copy(ROOT / "configs/quickstart.yaml", folder / "components/sweep/grid.yaml")
        done = run(["kubectl", "kustomize", str(folder / "overlays" / overlay)], env=os.environ | {"HOME": name})
        assert done.returncode == 0, done.stderr
        assert not done.stderr, "kustomize warns of what it will not do any more"
    return list(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, kind: str) -> list[dict[str, Any]]:
    return [one for one in built(overlay) if one["kind"] == kind]


def cluster(overlay: str) -> dict[str, Any]:
    """The spec of the Ray cluster of an overlay, be it by itself or in a job."""
    if jobs := of_kind(overlay, "RayJob"):
        return jobs[0]["spec"]["rayClusterSpec"]
    (found,) = of_kind(overlay, "RayCluster")
    return found["spec"]


def templates(overlay: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All that becomes pods, by name."""
    for one in built(overlay):
        if one["kind"] in ("Deployment", "StatefulSet"):
            yield one["metadata"]["name"], one["spec"]["template"]
        if one["kind"] == "RayJob":
            yield "submitter", one["spec"]["submitterPodTemplate"]
    spec = cluster(overlay)
    yield "head", spec["headGroupSpec"]["template"]
    for group in spec["workerGroupSpecs"]:
        yield group["groupName"], group["template"]


@functools.cache
def validate(document: str) -> None:
    """Hold a manifest to Kubernetes' schemas; once, as overlays have most of them in common."""
    pytest.importorskip("kubernetes_validate").validate(json.loads(document), KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_knows_every_field(overlay):
    for one in built(overlay):
        if one["kind"] not in RAY_KINDS:
            validate(json.dumps(one))
    for _, template in templates(overlay):
        # Where they are in a kind that is not Kubernetes' own, too.
        validate(json.dumps({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}))


def test_the_schemas_find_what_is_misspelled():
    with pytest.raises(Exception, match="runAsNonroot"):
        validate(json.dumps({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [], "securityContext": {"runAsNonroot": True}}}))


CLUSTER = {
    "rayVersion": str,
    "authOptions": {"mode": str, "secretName": str},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {"version": str, "idleTimeoutSeconds": int, "resources": dict, "securityContext": dict},
    "headGroupSpec": {"rayStartParams": dict, "template": dict},
    "workerGroupSpecs": [
        {"groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "rayStartParams": dict, "template": dict}
    ],
}
"""The fields of ``ray.io/v1`` that are used, of what is there, and their types: https://docs.ray.io/en/latest/cluster/kubernetes/references/api.html."""
JOB = {
    "entrypoint": str,
    "runtimeEnvYAML": str,
    "backoffLimit": int,
    "submissionMode": str,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "submitterPodTemplate": dict,
    "rayClusterSpec": CLUSTER,
}


def misplaced(value: Any, fields: Any, path: str) -> list[str]:
    """What is in a value that is in no field, or of another type."""
    if isinstance(fields, dict):
        unknown = [f"{path}.{key}" for key in value if key not in fields]
        return unknown + [line for key in value if key in fields for line in misplaced(value[key], fields[key], f"{path}.{key}")]
    if isinstance(fields, list):
        return [line for one in value for line in misplaced(one, fields[0], f"{path}[]")]
    return [] if type(value) is fields else [path]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kuberay_knows_every_field(overlay):
    for one in built(overlay):
        if one["kind"] in RAY_KINDS:
            assert one["apiVersion"] == "ray.io/v1"
            assert misplaced(one["spec"], JOB if one["kind"] == "RayJob" else CLUSTER, one["kind"]) == []
    assert cluster(overlay)["authOptions"]["mode"] == "token"
    # All are strings to KubeRay, numbers too.
    for group in (cluster(overlay)["headGroupSpec"], *cluster(overlay)["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def closed(schema: Any) -> Any:
    """A schema of Kubernetes' as JSON Schema that takes no field it does not name: Kubernetes drops those without a word."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
    return result


@pytest.mark.skipif(CRDS is None, reason="KUBERAY_CRDS names no folder with KubeRay's definitions")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kuberays_own_definitions_take_it(overlay):
    for one in built(overlay):
        if one["kind"] in RAY_KINDS:
            definition = yaml.load((Path(str(CRDS)) / f"ray.io_{one['kind'].lower()}s.yaml").read_text(), yaml.CSafeLoader)
            (version,) = (v for v in definition["spec"]["versions"] if v["name"] == "v1")
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {}
            jsonschema.validate(one, schema)
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({**one, "spec": {**one["spec"], "rayVersoin": "2"}}, schema)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rays_autoscaler_reads_workers_from_zero_with_and_without_gpus(overlay):
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    # What runs beside a head on Kubernetes; it validates what it has read, too.
    config = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "x", "namespace": "orchestrate"}, "spec": cluster(overlay)})
    kinds = config["available_node_types"]
    assert {"headgroup", "cpu"} | ({"gpu"} if "gpu" in overlay else set()) == set(kinds)
    assert kinds["headgroup"]["resources"]["CPU"] == 0
    for name, kind in kinds.items():
        assert kind["min_workers"] == 0
        assert kind["resources"].get("GPU", 0) == (1 if name == "gpu" else 0)
    assert config["idle_timeout_minutes"] == 5
    assert cluster(overlay)["enableInTreeAutoscaling"] is True


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_one_that_a_restricted_namespace_takes(overlay):
    (namespace,) = of_kind(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    found = dict(templates(overlay))
    assert {"postgres", "objects", "mlflow", "head", "cpu"} <= set(found)
    containers = [cluster(overlay)["autoscalerOptions"]]
    for template in found.values():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not [v for v in spec.get("volumes", []) if not {"secret", "emptyDir", "configMap"} & set(v)]
        containers += [*spec["containers"], *spec.get("initContainers", [])]
    for container in containers:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert {"requests", "limits"} <= set(container["resources"])
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_head_may_ask_kubernetes_for_anything(overlay):
    for name, template in templates(overlay):
        assert ("automountServiceAccountToken" in template["spec"]) == (name != "head"), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_asked_for_is_there(overlay):
    """Secrets with their keys, and the grid: a pod waits for ever for one that is not."""
    there = {one["metadata"]["name"]: set(one["data"]) for one in built(overlay) if one["kind"] in ("Secret", "ConfigMap")}
    for name, template in templates(overlay):
        for volume in template["spec"].get("volumes", []):
            if "emptyDir" in volume:
                continue
            assert (volume.get("secret", {}).get("secretName") or volume["configMap"]["name"]) in there, name
        mounted = {mount["name"] for c in template["spec"]["containers"] for mount in c.get("volumeMounts", [])}
        claimed = {"data"} if name in ("postgres", "objects") else set()
        assert mounted == {volume["name"] for volume in template["spec"].get("volumes", [])} | claimed
    assert there[cluster(overlay)["authOptions"]["secretName"]] == {"auth_token"}, "the key that KubeRay reads"
    assert there["mlflow-client"] == {"credentials"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_is_allowed_but_what_is_named(overlay):
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(overlay, "NetworkPolicy")}
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        for rule in spec.get("ingress", []):
            assert rule["from"], f"{name} lets everybody in"
        for rule in spec.get("egress", []):
            assert rule.get("to") or (name == "head" and {p["port"] for p in rule["ports"]} == {443, 6443}), f"{name} goes anywhere"


def test_whoever_is_let_in_somewhere_is_let_out_to_there():
    """Both ends of a connection have to allow it."""
    policies = [one["spec"] for one in of_kind("sweep-gpu", "NetworkPolicy")]

    def key(selector: dict[str, Any]) -> str:
        return json.dumps(selector["matchLabels"], sort_keys=True)

    out, into = set(), set()
    for spec in policies:
        if not spec["podSelector"]:
            continue
        here = key(spec["podSelector"])
        for rule in spec.get("egress", []):
            ports = [p["port"] for p in rule.get("ports", [{"port": 0}])]
            out |= {(here, key(to["podSelector"]), port) for to in rule.get("to", []) if "podSelector" in to for port in ports}
        for rule in spec.get("ingress", []):
            ports = [p["port"] for p in rule.get("ports", [{"port": 0}])]
            into |= {(key(who["podSelector"]), here, port) for who in rule["from"] if "podSelector" in who for port in ports}
    assert out == into


def test_every_port_that_is_let_in_is_one_that_somebody_serves():
    served = {name: {p["containerPort"] for c in t["spec"]["containers"] for p in c.get("ports", [])} for name, t in templates("sweep-cpu")}
    for policy in of_kind("sweep-cpu", "NetworkPolicy"):
        ports = {p["port"] for rule in policy["spec"].get("ingress", []) for p in rule.get("ports", [])}
        if ports:
            assert ports <= served[policy["metadata"]["name"]]


@pytest.mark.parametrize("overlay", ["sweep-cpu", "sweep-gpu"])
def test_a_sweep_has_a_cluster_of_its_own_that_goes_with_it(overlay):
    assert not of_kind(overlay, "RayCluster")
    (job,) = of_kind(overlay, "RayJob")
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    (grid,) = of_kind(overlay, "ConfigMap")
    assert grid["data"]["grid.yaml"] == (ROOT / "configs/quickstart.yaml").read_text()
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    (mount,) = [mount["mountPath"] for mount in head["volumeMounts"] if mount["name"] == "grid"]
    assert f" {mount}/grid.yaml " in job["spec"]["entrypoint"]


def test_the_sweep_is_a_command_that_the_program_takes():
    from click.testing import CliRunner

    from orchestrator.cli.main import cli

    (job,) = of_kind("sweep-cpu", "RayJob")
    program, *arguments = job["spec"]["entrypoint"].split()
    assert program == "orchestrate"
    arguments[1] = str(ROOT / "configs/quickstart.yaml")
    done = CliRunner().invoke(cli, [*arguments, "--dry-run"])
    assert done.exit_code == 0, done.output


def test_a_cluster_and_the_cluster_of_a_sweep_are_the_same_but_for_the_grid():
    for variant in ("cpu", "gpu"):
        alone, inside = json.loads(json.dumps([cluster(variant), cluster(f"sweep-{variant}")]))
        pod = inside["headGroupSpec"]["template"]["spec"]
        pod["volumes"] = [v for v in pod["volumes"] if v["name"] != "grid"]
        pod["containers"][0]["volumeMounts"] = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] != "grid"]
        assert alone == inside


def test_every_image_of_ours_is_the_one_of_the_overlay():
    for overlay in OVERLAYS:
        images = {c["image"] for _, t in templates(overlay) for c in [*t["spec"]["containers"], *t["spec"].get("initContainers", [])]}
        ours = {image for image in images if "orchestrate" in image}
        assert len(ours) == 1, "Ray refuses a cluster of several versions"
        assert re.search(r"-cuda$" if "gpu" in overlay else r"-cpu$", ours.pop())
        assert cluster(overlay)["rayVersion"] == constraint("ray")
