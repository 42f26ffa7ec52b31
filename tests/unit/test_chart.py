"""The Helm chart through a real Helm and the Kubernetes schemas: lints, renders, validates, refuses wrong values."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from alerts.rules import load
from health import scorecards
from health.catalogue import SIGNALS
from service.settings import Settings

if os.environ.get("CI") != "true":
    pytest.importorskip("helm_python", reason="the chart extra is not installed")
    pytest.importorskip("kubernetes_validate", reason="the chart extra is not installed")

import helm_python as helm
import kubernetes_validate

pytestmark = pytest.mark.chart

CHART = Path(__file__).resolve().parents[2] / "helm" / "kizashi"
RULES = CHART.parents[1] / "rules"
ROLES = ("api", "consumer", "evaluator", "sender")
OPERATOR_KINDS = {"ServiceMonitor", "PodMonitor"}  # custom resources: no published schema to hold them against
Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CHART / "ci" / "values.yaml").read_text(encoding="utf-8"))
    return loaded


def render(values: dict[str, Any]) -> list[Manifest]:
    """Every manifest of the chart, in the order of its files."""
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name="demo", namespace="cs")
    return [
        document
        for path, content in sorted(files.items())
        if path.endswith(".yaml")
        for document in yaml.safe_load_all(content)
        if document
    ]


@pytest.fixture(scope="module")
def manifests(values: dict[str, Any]) -> list[Manifest]:
    return render(values)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def deployment(manifests: list[Manifest], role: str) -> Manifest:
    found = [d for d in of_kind(manifests, "Deployment") if d["metadata"]["name"] == f"demo-kizashi-{role}"]
    assert len(found) == 1
    return found[0]


def pod_specs(manifests: list[Manifest]) -> list[dict[str, Any]]:
    return [m["spec"]["template"]["spec"] for m in manifests if m["kind"] in {"Deployment", "Job"}]


def changed(values: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    result = copy.deepcopy(values)
    *parents, last = path.split(".")
    place = result
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return result


def test_lints_without_a_warning(values: dict[str, Any]) -> None:
    report = helm.lint(CHART, values, strict=True)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] >= 2] == []


def test_every_manifest_is_valid_kubernetes(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if manifest["kind"] not in OPERATOR_KINDS:
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    assert {manifest["kind"] for manifest in manifests} == OPERATOR_KINDS | {
        "ConfigMap", "Deployment", "Ingress", "Job", "PodDisruptionBudget", "Service",
    }  # fmt: skip


def test_the_validator_would_notice_a_typo(manifests: list[Manifest]) -> None:
    broken = copy.deepcopy(deployment(manifests, "api"))
    broken["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("metricsPort", "9100", "metricsPort"),
        ("roles.api.replicas", "2", "replicas"),
        ("roles.evaluator.replicas", 0, "evaluator"),
        ("roles.janitor", {"replicas": 1, "resources": {}}, "janitor"),
        ("roles.api.replica", 3, "replica"),
        ("secretKey", "in plain sight", "secretKey"),
        ("kafka.topics", [], "topics"),
        ("image.digest", "latest", "digest"),
        ("rules.files", {"../outside.yaml": ""}, "outside"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], path: str, value: object, named: str) -> None:
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmValuesError, match=named):
        chart.validate_schema(changed(values, path, value))


def test_a_parent_charts_globals_are_allowed(values: dict[str, Any]) -> None:
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(changed(values, "global", {"anything": 1}))


@pytest.mark.parametrize(
    ("path", "named"), [("existingSecret", "existingSecret"), ("kafka.bootstrap", "kafka.bootstrap")]
)
def test_what_must_be_given_is_asked_for(values: dict[str, Any], path: str, named: str) -> None:
    with pytest.raises(helm.HelmRenderError, match=named):
        render(changed(values, path, ""))


def test_one_deployment_per_role_runs_that_role(manifests: list[Manifest]) -> None:
    assert len(of_kind(manifests, "Deployment")) == len(ROLES)
    for role in ROLES:
        container = deployment(manifests, role)["spec"]["template"]["spec"]["containers"][0]
        assert container["args"] == ["serve", "--role", role]


def test_selectors_do_not_overlap(manifests: list[Manifest]) -> None:
    selectors = [d["spec"]["selector"]["matchLabels"] for d in of_kind(manifests, "Deployment")]
    assert len({tuple(sorted(selector.items())) for selector in selectors}) == len(ROLES)
    for manifest in of_kind(manifests, "Deployment"):
        labels = manifest["spec"]["template"]["metadata"]["labels"]
        assert manifest["spec"]["selector"]["matchLabels"].items() <= labels.items()
    service = of_kind(manifests, "Service")[0]
    assert service["spec"]["selector"] == deployment(manifests, "api")["spec"]["selector"]["matchLabels"]


@pytest.mark.parametrize("role", ROLES)
def test_probes_ask_the_port_that_the_role_opens(manifests: list[Manifest], role: str) -> None:
    container = deployment(manifests, role)["spec"]["template"]["spec"]["containers"][0]
    port = {"name": "http", "containerPort": 8000} if role == "api" else {"name": "metrics", "containerPort": 9100}
    assert container["ports"] == [port]
    for probe, path in {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}.items():
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}


def test_every_pod_is_confined(manifests: list[Manifest]) -> None:
    specs = pod_specs(manifests)
    assert len(specs) == len(ROLES) + 1
    for spec in specs:
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = spec["containers"]
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]
        assert next(volume for volume in spec["volumes"] if volume["name"] == "tmp").keys() == {"name", "emptyDir"}
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}


def test_the_migration_runs_before_everything_and_leans_on_nothing_the_chart_makes(manifests: list[Manifest]) -> None:
    (job,) = of_kind(manifests, "Job")
    assert job["metadata"]["annotations"] == {
        "helm.sh/hook": "pre-install,pre-upgrade",
        "helm.sh/hook-weight": "0",
        "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
    }
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["args"] == ["migrate"]
    made_by_the_chart = {
        m["metadata"]["name"] for m in manifests if m["kind"] in {"ConfigMap", "Secret", "ServiceAccount"}
    }
    assert not any(name in yaml.safe_dump(spec) for name in made_by_the_chart)


def test_the_chart_makes_no_secret_and_reads_the_existing_one(manifests: list[Manifest]) -> None:
    assert of_kind(manifests, "Secret") == []
    for spec in pod_specs(manifests):
        environment = {variable["name"]: variable for variable in spec["containers"][0]["env"]}
        for name in ("KIZASHI_DATABASE_URL", "KIZASHI_SECRET_KEY"):
            reference = environment[name]["valueFrom"]["secretKeyRef"]
            assert reference["name"] == "kizashi"
            assert "optional" not in reference


def test_every_variable_is_a_setting_and_stands_once(manifests: list[Manifest]) -> None:
    for spec in pod_specs(manifests):
        names = [variable["name"] for variable in spec["containers"][0]["env"]]
        assert len(names) == len(set(names))
        assert {name.removeprefix("KIZASHI_").lower() for name in names} <= set(Settings.model_fields)


def test_secret_settings_come_from_the_secret_alone(manifests: list[Manifest]) -> None:
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    for spec in pod_specs(manifests):
        for variable in spec["containers"][0]["env"]:
            if variable["name"].removeprefix("KIZASHI_").lower() in secret:
                assert "secretKeyRef" in variable["valueFrom"]


def test_rules_keep_their_paths_and_their_bytes(values: dict[str, Any], manifests: list[Manifest]) -> None:
    data = next(m for m in of_kind(manifests, "ConfigMap") if m["metadata"]["name"] == "demo-kizashi-rules")["data"]
    spec = deployment(manifests, "evaluator")["spec"]["template"]["spec"]
    volume = next(volume for volume in spec["volumes"] if volume["name"] == "rules")
    mounted = {item["path"]: data[item["key"]] for item in volume["configMap"]["items"]}
    assert mounted == values["rules"]["files"]


def what_is_in_force(rules: Path) -> list[str]:
    return [load(rules, SIGNALS).version, *(card.name for card in scorecards.load(rules / "scorecards").cards)]


def test_the_rules_that_ship_can_be_brought_by_the_chart(values: dict[str, Any], tmp_path: Path) -> None:
    """All of them, in folders as here: what the roles then find loads as it does here, signals and cards included."""
    shipped_ones = what_is_in_force(RULES)
    shipped = {str(p.relative_to(RULES)): p.read_text(encoding="utf-8") for p in RULES.rglob("*.yaml")}
    manifests = render(changed(values, "rules.files", shipped))
    data = next(m for m in of_kind(manifests, "ConfigMap") if m["metadata"]["name"] == "demo-kizashi-rules")["data"]
    for role in ROLES:
        spec = deployment(manifests, role)["spec"]["template"]["spec"]
        volume = next(volume for volume in spec["volumes"] if volume["name"] == "rules")
        for item in volume["configMap"]["items"]:
            place = tmp_path / role / item["path"]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(data[item["key"]], encoding="utf-8")
        assert what_is_in_force(tmp_path / role) == shipped_ones


def test_changed_rules_restart_the_roles(values: dict[str, Any], manifests: list[Manifest]) -> None:
    after = render(changed(values, "rules.files", {"login.yaml": "rules: [] # changed\n"}))
    for role in ROLES:
        before_pod, after_pod = (deployment(m, role)["spec"]["template"]["metadata"] for m in (manifests, after))
        assert before_pod["annotations"] != after_pod["annotations"]


def test_what_is_switched_off_is_not_made(values: dict[str, Any]) -> None:
    bare = {key: values[key] for key in ("existingSecret", "kafka", "publicUrl")}
    bare["podDisruptionBudget"] = {"enabled": False}
    bare["migration"] = {"enabled": False}
    kinds = [manifest["kind"] for manifest in render(bare)]
    assert sorted(kinds) == ["Deployment"] * len(ROLES) + ["Service"]


def test_the_relay_is_made_where_it_is_wanted(values: dict[str, Any]) -> None:
    resources = {"requests": {"cpu": "100m"}, "limits": {"memory": "512Mi"}}
    found = render(changed(values, "roles.relay", {"replicas": 1, "resources": resources}))
    container = deployment(found, "relay")["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["serve", "--role", "relay"]
    (expression,) = of_kind(found, "PodMonitor")[0]["spec"]["selector"]["matchExpressions"]
    assert set(expression["values"]) == {*ROLES, "relay"} - {"api"}


def test_the_archive_is_made_where_it_is_wanted_and_every_role_knows_where_it_lies(values: dict[str, Any]) -> None:
    resources = {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}
    wanted = changed(values, "roles.archive", {"replicas": 1, "resources": resources})
    found = render(changed(wanted, "archive.url", "s3://events/kizashi"))
    container = deployment(found, "archive")["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["serve", "--role", "archive"]
    for role in (*ROLES, "archive"):
        environment = deployment(found, role)["spec"]["template"]["spec"]["containers"][0]["env"]
        assert {"name": "KIZASHI_ARCHIVE_URL", "value": "s3://events/kizashi"} in environment


def test_monitors_watch_every_role(manifests: list[Manifest]) -> None:
    (service_monitor,) = of_kind(manifests, "ServiceMonitor")
    service = of_kind(manifests, "Service")[0]
    assert service_monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service_monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    (pod_monitor,) = of_kind(manifests, "PodMonitor")
    (expression,) = pod_monitor["spec"]["selector"]["matchExpressions"]
    assert {*expression["values"], "api"} == set(ROLES)
    ports = deployment(manifests, "consumer")["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert pod_monitor["spec"]["podMetricsEndpoints"][0]["port"] == ports[0]["name"]


def test_each_role_may_lose_one_pod_at_a_time(manifests: list[Manifest]) -> None:
    budgets = of_kind(manifests, "PodDisruptionBudget")
    assert len(budgets) == len(ROLES)
    for budget in budgets:
        role = budget["metadata"]["labels"]["app.kubernetes.io/component"]
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["selector"] == deployment(manifests, role)["spec"]["selector"]


def test_the_image_is_pinned_by_digest_when_one_is_given(values: dict[str, Any], manifests: list[Manifest]) -> None:
    for spec in pod_specs(manifests):
        assert spec["containers"][0]["image"] == f"kizashi:0.1.0@{values['image']['digest']}"
