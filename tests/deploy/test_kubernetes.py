"""The manifests: built by kustomize, checked by kubeconform, and true to `smg-proto serve`."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from programs import KUBECONFORM, KUSTOMIZE, go_tool, wheel
from support import ROOT

from smg_proto.cli import main

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]
FOLDER = ROOT / "deploy" / "kubernetes"
KUBERNETES = ("v1.31.0", "v1.37.0")  # the oldest with users, and the newest with schemas


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example overlay, as `kubectl apply -k` would send it."""
    out = tmp_path_factory.mktemp("kustomize") / "all.yaml"
    command = [str(go_tool(KUSTOMIZE)), "build", str(FOLDER / "overlays" / "example")]
    out.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return out


@pytest.fixture(scope="module")
def objects(built: Path) -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all(built.read_text(encoding="utf-8"))}


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each version of Kubernetes: its schemas, as files that name one another."""
    shipped = wheel("kubernetes-validate", "1.37.0") / "kubernetes_validate/kubernetes-json-schema"
    out = tmp_path_factory.mktemp("schemas")
    for version in KUBERNETES:
        (out / version).mkdir()
        for path in (shipped / f"{version}-local-strict").glob("*.json"):
            schema = json.loads(path.read_text(encoding="utf-8"))
            schema.pop("$id", None)  # addresses on the web, which nobody asks
            text = json.dumps(schema).replace('"/api/_definitions.json', '"_definitions.json')
            (out / version / path.name).write_text(text, encoding="utf-8")
    return out


def validate(file: Path, schemas: Path) -> "subprocess.CompletedProcess[str]":
    where = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    command = [str(go_tool(KUBECONFORM)), "-strict", "-summary"]
    command += ["-schema-location", where, str(file)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_is_valid(built: Path, schemas: Path, version: str) -> None:
    done = validate(built, schemas / version)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Valid: 7, Invalid: 0, Errors: 0, Skipped: 0" in done.stdout


def test_an_unknown_field_is_found(built: Path, schemas: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    text = built.read_text(encoding="utf-8")
    assert "maxUnavailable: 1" in text
    wrong.write_text(text.replace("maxUnavailable: 1", "maxUnavailabel: 1"), encoding="utf-8")
    done = validate(wrong, schemas / KUBERNETES[-1])
    assert done.returncode == 1 and "maxUnavailabel" in done.stdout


def test_all_promised_objects_exist(objects: dict[str, Any]) -> None:
    assert objects.keys() == {
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    }
    assert objects["Service"]["spec"]["clusterIP"] == "None"
    (metric,) = objects["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "smg_proto_active_requests"
    pod = objects["Deployment"]["spec"]["template"]
    for kind, way in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        selected = objects[kind]["spec"][way]["matchLabels"]
        assert selected and selected.items() <= pod["metadata"]["labels"].items()
    selected = objects["Service"]["spec"]["selector"]
    assert selected and selected.items() <= pod["metadata"]["labels"].items()


def test_the_network_policy_admits_clients_and_reaches_workers_by_their_own_labels(
    objects: dict[str, Any],
) -> None:
    spec = objects["NetworkPolicy"]["spec"]
    clients, monitoring = spec["ingress"]
    assert clients["from"] == [{"podSelector": {"matchLabels": {"front-door-client": "true"}}}]
    assert [port["port"] for port in clients["ports"]] == [50051]
    assert [port["port"] for port in monitoring["ports"]] == [9464]
    dns, workers = spec["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    label = {"app.kubernetes.io/component": "inference-worker"}
    assert workers["to"] == [{"podSelector": {"matchLabels": label}}]


def front_door(objects: dict[str, Any]) -> dict[str, Any]:
    containers = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    (found,) = (each for each in containers if each["name"] == "front-door")
    return dict(found)


def test_the_front_door_accepts_its_arguments(
    objects: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    # All are read, and then the certificate is not found.
    assert main(front_door(objects)["args"]) == 2
    assert "/tls/tls.crt" in capsys.readouterr().err


def test_ports_probes_and_certificate_fit_together(objects: dict[str, Any]) -> None:
    container = front_door(objects)
    flags = dict(arg[2:].split("=", 1) for arg in container["args"] if arg.startswith("--"))
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    for name, flag in (("grpc", "listen"), ("probes", "probes"), ("metrics", "metrics")):
        assert flags[flag] == f"0.0.0.0:{ports[name]}"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["grpc"]["port"] == ports["probes"]
        assert container[probe]["grpc"]["service"] in ("liveness", "readiness")
    (mount,) = container["volumeMounts"]
    assert flags["tls-cert"].startswith(mount["mountPath"])
    spec = objects["Deployment"]["spec"]["template"]["spec"]
    (volume,) = spec["volumes"]
    assert volume["secret"]["secretName"] == "front-door-tls"
    wait = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    gateway = next(each for each in spec["containers"] if each["name"] == "gateway")
    stays = int(gateway["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert wait + int(flags["drain"]) < stays < spec["terminationGracePeriodSeconds"]
