"""Cluster files for ``ray up``: as Ray itself, and the interfaces of the clouds, want them; what `deploy.check` refuses."""

from __future__ import annotations

import copy
import json
import logging
import re
from typing import Any

import pytest
import yaml

from deploy import check
from tests.deploy.files import DEPLOY, texts

CLOUDS = {name: yaml.safe_load((DEPLOY / f"{name}.yaml").read_text()) for name in ("aws", "gcp")}


@pytest.fixture(autouse=True)
def _quiet_ray():
    # It says what it fills in.
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(params=sorted(CLOUDS))
def cluster(request) -> dict[str, Any]:
    return copy.deepcopy(CLOUDS[request.param])


def test_shipped_files_lack_nothing_but_what_is_to_be_filled_in():
    assert list(check.mistakes((DEPLOY / "aws.yaml").read_text())) == [
        "ACCOUNT is still to be filled in",
        "BUCKET is still to be filled in",
    ]
    assert list(check.mistakes((DEPLOY / "gcp.yaml").read_text())) == [
        "BUCKET is still to be filled in",
        "PROJECT is still to be filled in",
    ]


@pytest.mark.parametrize("name", sorted(CLOUDS))
def test_filled_in_as_its_first_lines_say_a_file_is_as_it_should_be(name, tmp_path, capsys):
    text = (DEPLOY / f"{name}.yaml").read_text()
    # The sed command that the file itself gives.
    for old, new in re.findall(r"-e s/(\w+)/([\w-]+)/", text):
        text = text.replace(old, new)
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    assert check.main([str(mine)]) == 0
    assert capsys.readouterr().out == f"{mine}: as it should be\n"


def test_mistakes_are_lines_and_the_exit_code_says_so(tmp_path, capsys):
    bad = tmp_path / "bad.yaml"
    bad.write_text((DEPLOY / "aws.yaml").read_text().replace("max_workers: 8", "max_workers: many", 1))
    assert check.main([str(bad)]) == 1
    assert "Ray refuses it" in capsys.readouterr().out


def broken(change: Any) -> Any:
    return pytest.param(change, id=change.__name__)


def no_setup_commands(config):
    del config["setup_commands"]
    return "setup_commands has to be []"


def no_head_setup_commands(config):
    del config["head_setup_commands"]
    return "head_setup_commands has to be []"


def pip_on_workers(config):
    config["worker_setup_commands"] = ["pip install ray"]
    return "worker_setup_commands has to be []"


def commands_of_a_type(config):
    config["available_node_types"]["gpu"]["worker_setup_commands"] = ["pip install ray"]
    return "gpu.worker_setup_commands has to be left out"


def no_start_commands(config):
    del config["worker_start_ray_commands"]
    return "worker_start_ray_commands is missing"


def latest(config):
    config["docker"]["image"] = "rayproject/ray:latest-gpu"
    return "docker.image is rayproject/ray:latest-gpu"


def no_tag(config):
    config["docker"]["image"] = "registry:5000/orchestrate"
    return "docker.image is registry:5000/orchestrate"


def image_of_a_type(config):
    config["available_node_types"]["cpu"]["docker"] = {"worker_image": "rayproject/ray:nightly"}
    return "cpu.docker.worker_image is rayproject/ray:nightly"


def no_image(config):
    del config["docker"]
    return "docker.image is missing"


def no_token(config):
    config["docker"]["run_options"] = [one for one in config["docker"]["run_options"] if "RAY_AUTH_MODE" not in one]
    return "--env RAY_AUTH_MODE=token"


def token_elsewhere(config):
    config["file_mounts"] = {"/elsewhere": "deploy/secrets/"}
    return "a file in one of file_mounts"


def workers_that_stay(config):
    config["available_node_types"]["cpu"]["min_workers"] = 1
    return "cpu: min_workers has to be 0"


def workers_on_demand(config):
    kind = config["available_node_types"]["gpu"]["node_config"]
    kind.pop("InstanceMarketOptions", None)
    kind.pop("scheduling", None)
    return "gpu: workers are to be spot machines"


def head_on_spot(config):
    config["available_node_types"]["head"]["node_config"] = config["available_node_types"]["cpu"]["node_config"]
    return "head: the head must not be a spot machine"


def unknown_key(config):
    config["idle_timeout"] = 5
    return "Ray refuses it"


def head_type_that_is_not_there(config):
    config["head_node_type"] = "haed"
    return "Ray refuses it"


BREAKS = [
    *(no_setup_commands, no_head_setup_commands, pip_on_workers, commands_of_a_type, no_start_commands, latest, no_tag, image_of_a_type),
    *(no_image, no_token, token_elsewhere, workers_that_stay, workers_on_demand, head_on_spot, unknown_key, head_type_that_is_not_there),
]


@pytest.mark.parametrize("change", [broken(change) for change in BREAKS])
def test_what_is_missing_or_not_pinned_is_a_mistake(cluster, change):
    expected = change(cluster)
    assert any(expected in mistake for mistake in check.mistakes_of(cluster)), list(check.mistakes_of(cluster))


def test_nothing_that_ray_would_run_on_a_node_installs_anything(cluster):
    from ray.autoscaler._private.util import prepare_config

    prepared = prepare_config(copy.deepcopy(cluster))
    commands = [c for key, value in prepared.items() if key.endswith("_commands") for c in value]
    assert commands
    assert not [c for c in commands if "pip" in c or "wheel" in c or "nightly" in c]


def test_the_head_listens_to_itself_alone_but_for_its_own_workers(cluster):
    start = cluster["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in start
    assert not [one for one in cluster["docker"]["head_run_options"] if "0.0.0.0" in one or "--publish" in one]


def test_the_files_tell_both_clouds_the_same(cluster):
    aws = CLOUDS["aws"]
    assert {n: k["resources"] for n, k in cluster["available_node_types"].items()} == {
        n: k["resources"] for n, k in aws["available_node_types"].items()
    }
    assert cluster["head_start_ray_commands"] == aws["head_start_ray_commands"]
    assert cluster["worker_start_ray_commands"] == aws["worker_start_ray_commands"]
    assert cluster["file_mounts"] == aws["file_mounts"]


@pytest.fixture
def ec2(monkeypatch, tmp_path):
    """AWS as moto plays it, on which Ray's own code for AWS runs."""
    moto = pytest.importorskip("moto")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    with moto.mock_aws():
        import boto3

        iam = boto3.client("iam")
        for role, policies in {"orchestrate-head": ("head", "worker"), "orchestrate-worker": ("worker",)}.items():
            # As roles.sh does; whoever reads policies refuses those that are malformed.
            iam.create_role(RoleName=role, AssumeRolePolicyDocument=(DEPLOY / "aws/trust.json").read_text())
            for policy in policies:
                document = (DEPLOY / f"aws/{policy}-policy.json").read_text().replace("ACCOUNT", "123456789012").replace("BUCKET", "sweeps")
                iam.put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=document)
            iam.create_instance_profile(InstanceProfileName=role)
            iam.add_role_to_instance_profile(InstanceProfileName=role, RoleName=role)
        yield boto3.resource("ec2", region_name="us-west-2")


@pytest.mark.slow
def test_ray_starts_machines_on_aws_with_it_spot_workers_and_nothing_open_but_ssh(ec2):
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(copy.deepcopy(CLOUDS["aws"]))
    # Some image that moto has: it does not look them up by parameters.
    image = next(iter(ec2.images.filter(Owners=["amazon"]))).id
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["ImageId"].startswith("resolve:ssm:/aws/service/deeplearning/ami/")
        kind["node_config"]["ImageId"] = image
    validate_config(config)
    config = bootstrap_aws(config)
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, kind in config["available_node_types"].items():
        # botocore refuses what the interface of EC2 does not know.
        tags = {"ray-node-type": "head" if name == "head" else "worker", "ray-user-node-type": name, "ray-launch-config": name}
        (node,) = provider.create_node(kind["node_config"], tags, 1)
        instance = ec2.Instance(node)
        assert instance.instance_type == CLOUDS["aws"]["available_node_types"][name]["node_config"]["InstanceType"]
        assert (instance.instance_lifecycle == "spot") == (name != "head")
        (group,) = instance.security_groups
        inbound = ec2.SecurityGroup(group["GroupId"]).ip_permissions
        open_to_all = [rule for rule in inbound if rule["IpRanges"]]
        assert [(rule["FromPort"], rule["ToPort"]) for rule in open_to_all] == [(22, 22)]
        assert all(pair["GroupId"] == group["GroupId"] for rule in inbound for pair in rule["UserIdGroupPairs"])


@pytest.mark.parametrize("name", ["head", "cpu", "gpu"])
def test_compute_engine_knows_every_key_of_its_machines(name):
    documents = pytest.importorskip("googleapiclient.discovery_cache.documents", reason="google-api-python-client is not installed")
    from importlib.resources import files

    schemas = json.loads((files(documents) / "compute.v1.json").read_text())["schemas"]

    def unknown(value: Any, schema: dict[str, Any], path: str) -> list[str]:
        schema = schemas[schema["$ref"]] if "$ref" in schema else schema
        if schema.get("type") == "object" and isinstance(value, dict) and "properties" in schema:
            bad = [f"{path}.{key}" for key in value if key not in schema["properties"]]
            known = [key for key in value if key in schema["properties"]]
            return bad + [line for key in known for line in unknown(value[key], schema["properties"][key], f"{path}.{key}")]
        if schema.get("type") == "array":
            return [line for one in value for line in unknown(one, schema["items"], f"{path}[]")] if isinstance(value, list) else [path]
        if "enum" in schema and value not in schema["enum"]:
            return [f"{path}: {value}"]
        kinds = {"string": (str, int), "boolean": bool, "integer": int}
        return [] if isinstance(value, kinds.get(schema.get("type", ""), object)) else [path]

    config = CLOUDS["gcp"]["available_node_types"][name]["node_config"]
    assert unknown(config, {"$ref": "Instance"}, name) == []
    assert unknown({**config, "machinType": "x"}, {"$ref": "Instance"}, name), "the check itself finds what is misspelled"


def statements() -> list[dict[str, Any]]:
    policies = [json.loads(text) for path, text in texts().items() if path.startswith("deploy/aws/") and path.endswith("-policy.json")]
    return [statement for policy in policies for statement in policy["Statement"]]


def actions(statement: dict[str, Any]) -> list[str]:
    value = statement["Action"]
    return [value] if isinstance(value, str) else value


def test_roles_on_aws_allow_nothing_by_a_wildcard_but_looking():
    found = statements()
    assert len(found) > 8
    for statement in found:
        assert statement["Effect"] == "Allow"
        assert not [action for action in actions(statement) if "*" in action]
        if statement["Resource"] == "*":
            assert all(re.match(r"ec2:Describe|ecr:GetAuthorizationToken$", action) for action in actions(statement))
    for statement in found:
        if {"ec2:TerminateInstances", "ec2:StopInstances"} & set(actions(statement)):
            assert statement["Condition"]["StringEquals"] == {"aws:ResourceTag/ray-cluster-name": CLOUDS["aws"]["cluster_name"]}


def test_actions_of_roles_on_aws_exist():
    boto3 = pytest.importorskip("boto3")
    for service in ("ec2", "ssm", "ecr"):
        known = set(boto3.client(service, region_name="us-west-2").meta.service_model.operation_names)
        named = {
            action.partition(":")[2] for statement in statements() for action in actions(statement) if action.startswith(f"{service}:")
        }
        assert named
        assert named <= known, named - known


def test_clusters_run_as_the_roles_that_are_made():
    made = {name: (DEPLOY / name / "roles.sh").read_text() for name in CLOUDS}
    for name, kind in CLOUDS["aws"]["available_node_types"].items():
        role = kind["node_config"]["IamInstanceProfile"]["Name"]
        assert role == ("orchestrate-head" if name == "head" else "orchestrate-worker")
        assert role in made["aws"]
    for name, kind in CLOUDS["gcp"]["available_node_types"].items():
        (account,) = kind["node_config"]["serviceAccounts"]
        assert account["email"].split("@")[0] == ("orchestrate-head" if name == "head" else "orchestrate-worker")
        assert account["email"].split("@")[0] in made["gcp"]


def test_the_role_of_a_head_on_gcp_starts_and_stops_machines_and_no_more():
    role = yaml.safe_load((DEPLOY / "gcp/head-role.yaml").read_text())
    assert all(re.fullmatch(r"compute\.\w+\.\w+", permission) for permission in role["includedPermissions"])
    assert not [p for p in role["includedPermissions"] if re.search(r"firewall|\.networks\.|setIamPolicy|projects", p)]
