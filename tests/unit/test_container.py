"""The image, without a Docker engine: hadolint reads the Dockerfile, and its build stage's commands run in a folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"
ROLES = ("api", "consumer", "evaluator", "sender")


@dataclass(frozen=True, kw_only=True)
class Instruction:
    stage: int
    keyword: str
    rest: str


def instructions() -> list[Instruction]:
    """The Dockerfile's instructions, continued lines joined, each with the number of its stage (from 0)."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    stage, found = -1, []
    for line in filter(str.strip, text.splitlines()):
        keyword, rest = line.split(maxsplit=1)
        stage += keyword == "FROM"
        found.append(Instruction(stage=stage, keyword=keyword, rest=" ".join(rest.split())))
    return found


def only(keyword: str, *, stage: int) -> list[str]:
    return [i.rest for i in instructions() if i.stage == stage and i.keyword == keyword]


def context_files() -> list[Path]:
    """What ``docker build`` would be sent: the files that .dockerignore's list of exceptions lets through."""
    lines = [
        line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#")
    ]
    assert lines[0] == "*", "the context is a list of what enters, not of what stays out"
    allowed = [line[1:] for line in lines if line.startswith("!")]
    refused = [line.removeprefix("**/") for line in lines[1:] if not line.startswith("!")]
    files = [p for name in allowed for p in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))]
    return [p for p in files if p.is_file() and not any(fnmatch(part, r) for part in p.parts for r in refused)]


@pytest.mark.chart
def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None and os.environ.get("CI") != "true":
        pytest.skip("the chart extra is not installed")
    assert hadolint is not None
    result = subprocess.run([hadolint, "--format", "json", DOCKERFILE], capture_output=True, text=True, check=False)
    assert json.loads(result.stdout) == []
    assert result.returncode == 0


def test_the_runtime_stage_holds_only_the_venv() -> None:
    assert only("COPY", stage=1) == ["--from=build /opt/venv /opt/venv"]
    assert only("RUN", stage=1) == []


def test_the_image_runs_as_a_numbered_user_and_execs() -> None:
    user, _, group = only("USER", stage=1)[0].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert json.loads(only("ENTRYPOINT", stage=1)[0]) == ["kizashi"]
    assert json.loads(only("CMD", stage=1)[0]) == ["serve"]


def test_both_stages_start_from_one_exactly_tagged_base() -> None:
    assert [i.rest.split(" AS ")[0] for i in instructions() if i.keyword == "FROM"] == ["${BASE}", "${BASE}"]
    (default,) = (i.rest for i in instructions() if i.keyword == "ARG")
    assert re.fullmatch(r"BASE=python:3\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", default)


def test_nothing_is_installed_that_the_lock_does_not_name() -> None:
    installs = [command for command in only("RUN", stage=0) if "pip install" in command]
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "--no-deps" in installs[1]
    assert "--no-build-isolation" in installs[1]


def test_the_build_context_leaves_out_secrets_and_tests() -> None:
    names = {path.relative_to(ROOT).parts[0] for path in context_files()}
    assert {
        "service",
        "alerts",
        "consumers",
        "health",
        "migrations",
        "rules",
        "requirements",
        "pyproject.toml",
    } <= names
    assert names.isdisjoint({".env", ".git", ".venv", "tests", "bench"})


def test_every_file_of_the_rules_enters_the_image() -> None:
    """Into the build's context, and from there, by its suffix and its folder, into what is installed."""
    files = {path for path in (ROOT / "rules").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {"churn.yaml", "signals.yaml", "sources.yaml", "default.yaml", "onboarding.yaml"} <= {p.name for p in files}
    assert files <= set(context_files())
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    suffixes, folders = setuptools["package-data"]["*"], setuptools["packages"]["find"]["include"]
    for path in files:
        assert any(fnmatch(path.name, suffix) for suffix in suffixes), path
        package = ".".join(path.relative_to(ROOT).parent.parts)
        assert any(fnmatch(package, folder) for folder in folders), path


def run_build_stage(root: Path) -> None:
    """Carries out the build stage below ``root`` instead of ``/``; pip may use its cache and leaves out bytecode."""

    def inside(word: str) -> str:
        return re.sub(r"(?<![\w./])/(opt|src)\b", lambda match: f"{root}/{match[1]}", word)

    workdir, environment = root, {**os.environ, "PIP_NO_COMPILE": "1"}  # a third of the time, and not what is tested
    environment.pop("PYTHONPATH", None)
    for step in (i for i in instructions() if i.stage == 0):
        match step.keyword:
            case "WORKDIR":
                workdir = Path(inside(step.rest))
                workdir.mkdir(parents=True)
            case "ENV":
                environment.update(dict(pair.split("=", 1) for pair in shlex.split(step.rest)))
            case "COPY":
                *sources, target = step.rest.split()
                copy_from_context(sources, workdir / target)
            case "RUN":
                words = json.loads(step.rest) if step.rest.startswith("[") else ["/bin/sh", "-ec", step.rest]
                words = [inside(word).replace("--no-cache-dir", "") for word in words]
                words[0] = sys.executable if words[0] == "python" else words[0]
                done = subprocess.run(words, cwd=workdir, env=environment, capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"RUN {step.rest}\n{done.stdout}\n{done.stderr}"
            case "FROM":
                pass
            case other:
                pytest.fail(f"the build stage has an instruction this test cannot carry out: {other}")


def copy_from_context(sources: list[str], target: Path) -> None:
    for path in context_files():
        relative = path.relative_to(ROOT)
        for source in sources:
            if source == ".":
                place = target / relative
            elif str(relative) == source:
                place = target / path.name
            else:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)


@pytest.mark.container
def test_the_build_stage_makes_a_kizashi_that_runs_without_its_source(tmp_path: Path) -> None:
    run_build_stage(tmp_path)
    shutil.rmtree(tmp_path / "src")
    binaries = tmp_path / "opt" / "venv" / "bin"
    environment = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(tmp_path), "KIZASHI_LOG_FORMAT": "json"}

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "serve" in run(str(binaries / "kizashi"), "--help")
    assert not (binaries / "pip").exists()
    # Data that the code opens by path must have come along: every file of it that the checkout has.
    (site,) = (tmp_path / "opt" / "venv" / "lib").glob("python*/site-packages")
    packages = ("service", "alerts", "consumers", "health", "embedded", "migrations", "rules")
    sent = {p.relative_to(ROOT) for p in context_files() if p.relative_to(ROOT).parts[0] in packages}
    assert {str(path) for path in sent if not (site / path).is_file()} == set()
    assert run(
        str(binaries / "python"), "-c", "from service.settings import Settings; print(Settings().rules_dir)"
    ).strip() == str(site / "rules")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def test_compose_runs_each_role_after_the_migration(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for role in ROLES:
        assert services[role]["command"] == ["serve", "--role", role]
        assert services[role]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert services["migrate"]["command"] == ["migrate"]
    assert services["migrate"]["depends_on"].keys() == {"postgres", "kafka"}


def test_compose_watches_the_health_of_every_service_that_stays(compose: dict[str, Any]) -> None:
    assert {name for name, service in compose["services"].items() if "healthcheck" not in service} == {"migrate"}


def test_compose_publishes_on_loopback_only(compose: dict[str, Any]) -> None:
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_compose_and_the_dockerfile_set_real_settings(compose: dict[str, Any]) -> None:
    names = {name for role in ROLES for name in compose["services"][role]["environment"]}
    names |= set(re.findall(r"\bKIZASHI_\w+", " ".join(only("ENV", stage=1))))
    assert {name.removeprefix("KIZASHI_").lower() for name in names} <= set(Settings.model_fields)


def test_composes_peers_are_asked_where_roles_serve_their_metrics(compose: dict[str, Any]) -> None:
    environment = compose["services"]["api"]["environment"]
    peers = json.loads(environment["KIZASHI_METRICS_PEERS"])
    port = environment["KIZASHI_METRICS_PORT"]
    assert peers == [f"{role}=http://{role}:{port}/metrics" for role in ROLES if role != "api"]


def test_compose_hands_the_settings_of_a_dot_env_file_to_every_role(compose: dict[str, Any]) -> None:
    """Else nobody could set up a way out. What it lists itself wins over that file, so no way out may be listed."""
    for role in (*ROLES, "migrate"):
        assert compose["services"][role]["env_file"] == [{"path": ".env", "required": False}]
        listed = compose["services"][role]["environment"].keys()
        assert not {name for name in listed if re.search("SLACK|SMTP|MAIL|WEBHOOK|PEOPLE|RECIPIENT", name)}
