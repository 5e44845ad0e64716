"""What stands in several files of a deployment is the same in all, and the versions are those that the tests pass with."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.deploy.files import DEPLOY, ROOT, constraint, project, texts

GUIDE = (ROOT / "docs/deploy.md").read_text()
ALL = {**texts(), "docs/deploy.md": GUIDE}


def found(pattern: str) -> dict[str, set[str]]:
    """What a pattern finds in all files, by file."""
    return {path: set(re.findall(pattern, text)) for path, text in ALL.items() if re.search(pattern, text)}


def test_the_image_is_of_the_version_of_the_program_everywhere():
    tags = found(r"orchestrate:(\d[\w.]*)-(?:cpu|cuda)\b") | found(r"newTag: (\d[\w.]*)-(?:cpu|cuda)\b")
    assert {"deploy/Dockerfile", "deploy/aws.yaml", "deploy/compose.yaml", "deploy/gcp.yaml", "docs/deploy.md"} < set(tags)
    assert set.union(*tags.values()) == {project()["version"]}


def test_kuberay_is_told_the_version_of_ray_that_is_installed():
    versions = found(r"rayVersion: (\S+)")
    assert set.union(*versions.values()) == {constraint("ray")}


def test_no_file_names_another_version_of_what_is_pinned():
    for package in ("ray", "torch", "mlflow"):
        named = found(rf"\b{package}(?:\[\w+\])?==(\d[\w.]*)")
        assert set().union(*named.values()) <= {constraint(package)}, named


def test_the_image_takes_every_version_from_the_constraints_and_a_python_that_the_program_takes():
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    installs = [line for line in dockerfile.replace("\\\n", " ").splitlines() if "pip install" in line]
    assert len(installs) == 4
    assert all("constraints.txt" in line or "--no-index" in line for line in installs), installs
    (python,) = re.findall(r"^ARG PYTHON=(\d+)\.(\d+)\.\d+$", dockerfile, re.MULTILINE)
    (least,) = re.findall(r">=(\d+)\.(\d+)", str(project()["requires-python"]))
    assert tuple(map(int, python)) >= tuple(map(int, least))


def test_images_of_others_are_pinned_and_the_same_everywhere():
    for image in ("postgres", "chrislusf/seaweedfs"):
        tags = found(rf"image: {image}:(\S+)")
        assert len(tags) == 2, "compose and Kubernetes"
        assert len(set.union(*tags.values())) == 1, tags
    for path, images in found(r"(?m)^\s*(?:- )?image: (\S+)").items():
        # "orchestrate" is what overlays put theirs in place of.
        assert all(image == "orchestrate" or re.search(r":(\S*:-\S+:)?v?\d+\.\d+", image) for image in images), path


@pytest.mark.parametrize("name", ["deploy", "s3", "gcs"])
def test_what_the_extras_want_is_pinned(name):
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = {re.split(r"[\[<>=;]", line)[0].lower() for line in project()["optional-dependencies"][name]}
    assert wanted <= pinned | {"orchestrate"}


def test_the_image_has_what_its_files_name():
    """Whatever a file of a deployment runs in the image is installed there."""
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    for script in ("mlflow-server", "make-bucket"):
        assert f"/usr/local/bin/{script}" in dockerfile
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for source in re.findall(r"^COPY (?!--from)(?:--\S+ )?(\S.*) \S+$", dockerfile, re.MULTILINE):
        for name in source.split():
            assert f"!{name}" in kept, f"{name} is copied, and not sent to the builder"
    assert kept[1] == "*", "nothing is sent that is not named: secrets lie beside it"


def test_what_is_generated_and_secret_is_not_committed():
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/deploy/secrets/", "/deploy/kubernetes/base/secrets/"} <= set(ignored)
    base = yaml.safe_load((DEPLOY / "kubernetes/base/kustomization.yaml").read_text())
    files = [entry.partition("=")[2] or entry for secret in base["secretGenerator"] for entry in secret["files"]]
    assert all(file.startswith("secrets/") for file in files)


@pytest.mark.parametrize("path", [path for path in texts() if path.endswith((".sh", ".py", "compose.yaml", "compose.gpu.yaml"))])
def test_the_guide_says_what_each_file_is_for(path):
    # The image's own, whose user is the image.
    assert path in GUIDE or path == "deploy/make_bucket.py"


def test_whatever_the_guide_names_is_there():
    for path in re.findall(r"deploy/[\w./-]*\w", GUIDE):
        made = path.startswith(("deploy/secrets/", "deploy/kubernetes/base/secrets", "deploy/kubernetes/components/sweep/grid.yaml"))
        assert made or path == "deploy/secrets" or (ROOT / path).exists() or (ROOT / "tests" / path).exists() or path == "tests/deploy", (
            path
        )
