"""The container and the manifest: linted, and held to what they promise."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backlight import __version__
from backlight.engine.cli import COMMANDS, _app

DEPLOY = Path(__file__).parent.parent / "deploy"


def instructions(text: str) -> list[tuple[str, str]]:
    """A Dockerfile's, with lines joined and comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [
        (word.upper(), " ".join(rest.split()))
        for word, _, rest in (line.strip().partition(" ") for line in joined.splitlines())
        if word
    ]


def faults(text: str) -> list[str]:
    """What is wrong with a Dockerfile: slim, pinned, non-root, able to be read-only."""
    found = instructions(text)
    bases = [rest.split()[0] for word, rest in found if word == "FROM"]
    last = max((at for at, (word, _) in enumerate(found) if word == "FROM"), default=0)
    final = found[last:]
    wrong = [f"no tag: {base}" for base in bases if ":" not in base or base.endswith(":latest")]
    wrong += [f"not slim: {base}" for base in bases if "slim" not in base]
    if len(bases) < 2:
        wrong.append("one stage: the compiler is in the image")
    wrong += [f"{word} in the image's own stage" for word, _ in final if word == "RUN"]
    wrong += [f"ADD: {rest}" for word, rest in found if word == "ADD"]
    users = [rest for word, rest in final if word == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1]):
        wrong.append(f"no user that is a number above 0: {users}")
    for word, rest in found:
        if word in ("CMD", "ENTRYPOINT") and not rest.startswith("["):
            wrong.append(f"{word} in a shell, which takes no SIGTERM")
        if word == "RUN" and "apt-get install" in rest:
            wrong += [
                f"apt-get without {need}"
                for need in ("--no-install-recommends", "rm -rf /var/lib/apt/lists")
                if need not in rest
            ]
        if word == "RUN" and "pip install" in rest and "--no-cache-dir" not in rest:
            wrong.append("pip keeps its cache")
    said = dict(found)
    wrong += [f"no {word}" for word in ("HEALTHCHECK", "ENTRYPOINT", "CMD") if word not in said]
    if "PYTHONDONTWRITEBYTECODE=1" not in " ".join(rest for w, rest in final if w == "ENV"):
        wrong.append("byte code is written, where nothing can be")
    return wrong


def test_the_dockerfile_keeps_the_rules() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert not faults(text)
    for change, says in (
        ("USER 10001:10001", "no user"), ("--no-cache-dir ", "cache"),
        (" --no-install-recommends", "recommends"), ("-slim-bookworm", "not slim"),
        ("PYTHONDONTWRITEBYTECODE=1", "byte code"), (":3.12-slim-bookworm", "no tag"),
    ):  # fmt: skip
        assert change in text
        assert any(says in fault for fault in faults(text.replace(change, ""))), change


def test_what_it_copies_is_there_and_not_ignored() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert kept[1] == "*"
    for word, rest in instructions(text):
        if word == "COPY" and "--from" not in rest:
            for name in rest.split()[:-1]:
                assert (DEPLOY.parent / name).exists() and f"!{name}" in kept, name


def test_yaml_is_linted() -> None:
    pytest.importorskip("yamllint", reason="yamllint is in the extra 'dev'")
    done = subprocess.run(
        [sys.executable, "-m", "yamllint", "-s", "-c", str(DEPLOY / ".yamllint"), str(DEPLOY)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.fixture
def service() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with yamllint, in the extra 'dev'")
    return dict(yaml.safe_load((DEPLOY / "kserve.yaml").read_text(encoding="utf-8")))


def test_the_manifest_is_an_inference_service_of_v2(service: dict[str, Any]) -> None:
    assert (service["apiVersion"], service["kind"]) == (
        "serving.kserve.io/v1beta1", "InferenceService",
    )  # fmt: skip
    predictor = service["spec"]["predictor"]
    (container,) = predictor["containers"]
    assert container["name"] == "kserve-container", "KServe knows it by this name"
    assert container["image"].endswith(f"backlight:{__version__}")
    (port,) = container["ports"]
    assert port["containerPort"] == 8000
    for probe, path in (("readinessProbe", "ready"), ("livenessProbe", "live"),
                        ("startupProbe", "ready")):  # fmt: skip
        assert container[probe]["httpGet"] == {"path": f"/v2/health/{path}", "port": 8000}
    own, pod = container["securityContext"], predictor["securityContext"]
    assert own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"]
    assert own["capabilities"]["drop"] == ["ALL"] and pod["runAsNonRoot"] and pod["runAsUser"] > 0
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert {v["name"] for v in predictor["volumes"]} == set(mounts) == {"tmp"}
    assert {"requests", "limits"} == set(container["resources"])


def test_both_start_the_server_as_its_command_line_has_it(service: dict[str, Any]) -> None:
    if "serve" not in COMMANDS:
        pytest.skip("no command 'serve' here")
    import typer

    command = typer.main.get_command(_app()).commands["serve"]  # type: ignore[attr-defined]
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    given = {word: rest for word, rest in instructions(text)}
    (container,) = service["spec"]["predictor"]["containers"]
    for words in (json.loads(given["CMD"]), container["args"]):
        assert words[0] == "serve"
        context = command.make_context("serve", list(words[1:]), resilient_parsing=False)
        assert context.params["host"] == "0.0.0.0" and context.params["port"] == 8000
        assert context.params["models"] == ["/mnt/models"]
    drain = float(shlex.split(" ".join(container["args"]))[-1])
    assert service["spec"]["predictor"]["terminationGracePeriodSeconds"] > drain
