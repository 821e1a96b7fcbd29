"""What deploy/ holds is sound: it loads, agrees with itself, and keeps no right in vain."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from speceyes.gateway.settings_file import load_plan, plan_of

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
SETTINGS = DEPLOY / "speceyes.toml"
UNIT = DEPLOY / "speceyes.service"
ENGINE = re.compile(r"http://(\w+):(\d+)/v1#(\S+)")
LEAST_DROPPED = {  # what a unit that faces a network is to have
    "CapabilityBoundingSet": "",
    "DynamicUser": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "NoNewPrivileges": "yes",
    "PrivateDevices": "yes",
    "PrivateTmp": "yes",
    "ProtectHome": "yes",
    "ProtectSystem": "strict",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
}


def compose() -> dict:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def unit() -> dict[str, list[str]]:
    """Read a unit's settings; sections do not share names."""
    found = defaultdict(list)
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found[name].append(value)
    return found


def dockerfile() -> list[tuple[str, str]]:
    """Read a Dockerfile's instructions, continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()
    pairs = (line.split(None, 1) for line in lines if line.strip())
    return [(name, " ".join(rest.split())) for name, rest in pairs]


def words(name: str) -> list[str]:
    return [rest for found, rest in dockerfile() if found == name]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


# --- speceyes.toml


def test_the_sample_settings_are_read_by_the_real_reader():
    plan = load_plan(SETTINGS, flags={})
    (route,) = plan.routes
    assert (route.settings.name, route.choices.protocol) == ("speceyes", "deepeyes")
    assert plan.settings.host == "127.0.0.1"
    assert not plan.settings.images.fetch


def test_what_stands_there_as_a_comment_is_read_too():
    digest = "0" * 64
    commented = re.sub(r"(?m)^# (?=\[|\w+ = )", "", SETTINGS.read_text(encoding="utf-8")).replace(
        '"..."', f'"{digest}"'
    )
    table = tomllib.loads(commented)
    assert {"keys", "audit"} <= set(table["gateway"])
    plan = plan_of(table, DEPLOY, flags={})
    assert [key.sha256 for key in plan.settings.keys] == [digest]
    assert plan.settings.audit.file == "/var/log/speceyes/audit.jsonl"
    shadow = plan.routes[0].settings.shadow
    assert (shadow.mode, shadow.on_breach) == ("audit", "off")
    assert Path(shadow.state_folder).parent == Path("/var/lib") / unit()["StateDirectory"][0]


# --- compose.yaml


def test_the_engines_of_the_settings_are_the_servers_of_the_composition():
    choices = load_plan(SETTINGS, flags={}).routes[0].choices
    services = compose()["services"]
    for engine in (choices.small, choices.large):
        host, port, model = ENGINE.fullmatch(engine).groups()
        assert f"--model={model}" in services[host]["command"]
        assert f":{port}/health" in services[host]["healthcheck"]["test"][-1]
        assert services["gateway"]["depends_on"][host] == {"condition": "service_healthy"}


def test_the_servers_show_what_gate_and_agent_need():
    plan = load_plan(SETTINGS, flags={})
    for name in ("small", "large"):
        flags = dict(
            flag[2:].partition("=")[::2] for flag in compose()["services"][name]["command"]
        )
        assert int(flags["max-logprobs"]) >= 64
        limit = json.loads(flags["limit-mm-per-prompt"])
        assert limit["image"] >= plan.settings.images.max_count


def test_no_image_is_whatever_is_latest():
    for name, service in compose()["services"].items():
        tag = service["image"].rpartition(":")[2]
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), (name, tag)


def test_nothing_is_published_beyond_this_machine():
    ports = [p for service in compose()["services"].values() for p in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_file_and_volume_that_is_mounted_is_there():
    told = compose()
    for service in told["services"].values():
        for mount in service.get("volumes", ()):
            source, _, rest = mount.partition(":")
            if source.startswith("."):
                assert (DEPLOY / source).is_file(), source
                assert rest.endswith(":ro")
            else:
                assert source in told["volumes"]
        for config in service.get("configs", ()):
            assert yaml.safe_load(told["configs"][config["source"]]["content"])["apiVersion"] == 1


@pytest.mark.parametrize("name", ["gateway", "prometheus", "grafana"])
def test_what_faces_a_browser_has_no_rights_it_does_not_need(name):
    service = compose()["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged")
    assert service["restart"] == "unless-stopped"


def test_prometheus_scrapes_the_gateway_where_it_listens():
    told = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    targets = told["scrape_configs"][0]["static_configs"][0]["targets"]
    assert targets == [f"gateway:{load_plan(SETTINGS, flags={}).settings.port}"]
    assert "127.0.0.1:8400:8400" in compose()["services"]["gateway"]["ports"]


def test_requests_under_way_have_their_time_when_it_is_stopped():
    drain_s = load_plan(SETTINGS, flags={}).settings.limits.drain_s
    grace = compose()["services"]["gateway"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > drain_s
    assert int(unit()["TimeoutStopSec"][0]) > drain_s


def test_the_composition_is_one_to_docker():
    compose = ("docker", "compose")
    if shutil.which("docker") is None or run(*compose, "version").returncode:
        pytest.skip("docker compose is not installed")
    done = run(*compose, "--file", str(DEPLOY / "compose.yaml"), "config", "--quiet")
    assert done.returncode == 0, done.stderr


# --- Dockerfile


def test_the_image_stands_on_a_named_release_and_runs_as_nobody_in_particular():
    assert {base.split(" AS ")[0] for base in words("FROM")} == {"python:3.12-slim-bookworm"}
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", words("USER")[-1])
    last = [name for name, _ in dockerfile()]
    assert last.index("USER") > last.index("RUN")
    assert not words("ADD")


def test_the_image_says_if_it_is_well_and_starts_without_a_shell():
    (health,) = words("HEALTHCHECK")
    program = json.loads(health[health.index("CMD") + 3 :])[-1]
    compile(program, "HEALTHCHECK", "exec")
    assert "127.0.0.1:8400/healthz" in program
    assert json.loads(words("ENTRYPOINT")[-1]) == ["speceyes", "serve"]
    assert "--host" in json.loads(words("CMD")[-1])
    assert words("EXPOSE") == ["8400"]


def test_all_that_is_copied_is_there_and_let_through():
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = {line[1:] for line in ignored if line.startswith("!")}
    copied = {name for rest in words("COPY") if "--from" not in rest for name in rest.split()[:-1]}
    assert {Path(name).as_posix() for name in copied} == let_through
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_installs_extras_that_there_are_and_no_torch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (install,) = (run for run in words("RUN") if "pip install" in run)
    extras = re.search(r'"\.\[(.*?)\]"', install)[1].split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    assert not {"local", "all"} & set(extras)
    assert "--no-cache-dir" in install


@pytest.mark.slow
def test_what_the_image_is_built_from_builds(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for rest in words("COPY"):
        if "--from" not in rest:
            for name in rest.split()[:-1]:
                part = ROOT / name
                (shutil.copytree if part.is_dir() else shutil.copy)(part, source / part.name)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(source)], check=True, timeout=100)
    assert [fnmatch(file.name, "speceyes-*.whl") for file in tmp_path.glob("*.whl")] == [True]


# --- speceyes.service


def test_the_unit_takes_away_what_the_gateway_does_not_need():
    found = unit()
    assert {name: found[name][0] for name in LEAST_DROPPED} == LEAST_DROPPED
    assert found["SystemCallFilter"][0] == "@system-service"
    assert found["ExecStart"][0].split()[1:] == ["serve", "--config", "/etc/speceyes/speceyes.toml"]
    assert found["WantedBy"] == ["multi-user.target"]


@pytest.fixture
def checked_unit(tmp_path) -> Path:
    """Give the unit with a program that is installed here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8")
    copy.write_text(text.replace("/opt/speceyes/bin/speceyes", "/bin/true"), encoding="utf-8")
    return copy


def test_the_unit_is_one_to_systemd(checked_unit):
    done = run("systemd-analyze", "verify", str(checked_unit))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_is_little_exposed_by_systemds_own_measure(checked_unit):
    done = run("systemd-analyze", "security", "--offline=yes", "--threshold=20", str(checked_unit))
    assert done.returncode == 0, done.stdout[-300:]
