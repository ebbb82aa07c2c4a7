"""Dockerfile.offline, and what runs the image that it makes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from bundler.format.hashing import compute_sha256
from bundler.format.lock import entries, lockfile
from bundler.format.lock.lockfile import Lock
from bundler.format.lock.smoke_result import SmokeResult
from bundler.format.signing.public_key import PublicKey
from bundler.offline.rendering import dockerfile
from bundler.offline.trust import trusted_keys
from tests.support.bundles import SMALL, make_lock
from tests.support.paths import ROOT
from tests.support.smoke_results import make_smoke_result

SMOKE = [make_smoke_result(loader="files", peak_rss_bytes=9 << 30), make_smoke_result(peak_rss_bytes=700 << 20)]


def list_steps(locked: Lock) -> list[str]:
    """The instructions of the Dockerfile, continued lines joined."""
    text = dockerfile.render_dockerfile(locked, None).replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line and not line.startswith("#")]


def make_lock_with_models(**licences: str) -> Lock:
    files = {"bundle.pyz": b"x", **{f"models/{alias}/w.bin": alias.encode() for alias in licences}}
    locked = make_lock(files)
    models = [dataclasses.replace(model, licence=licences[model.alias]) for model in locked.models]
    return lockfile.replace_fields(locked, models=tuple(models))


def test_one_step_for_each_part_the_least_changing_first_and_the_install_last() -> None:
    found = [step for step in list_steps(make_lock_with_models(b="MIT", a="Apache-2.0")) if step.startswith("RUN")]
    assert "network not cut" in found[0]
    assert [step.partition(" --only ")[2].split(" ")[0] for step in found[1:]] == [
        "model:a",
        "model:b",
        "environment",
        "",
    ]
    app = make_lock({**SMALL, "app/main.py": b""})
    with_app = [
        step.partition(" --only ")[2].split(" ")[0]
        for step in list_steps(app)
        if "bundle-installer.pyz install" in step
    ]
    assert with_app == ["model:m", "environment", "app", ""]
    assert all(step.startswith("RUN --mount=type=bind,source=.,target=/carried ") for step in found[1:])
    assert not any(step.startswith(("COPY", "ADD")) for step in list_steps(make_lock_with_models(a="")))


def test_the_bake_asks_for_the_signatures_that_were_asked_for(tmp_path: Path) -> None:
    key = PublicKey(
        raw=bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    )  # RFC 8032, 7.1
    asked = trusted_keys.TrustPolicy(keys=(key,), revoked=frozenset(["0" * 64]), threshold=1, source="a test")
    text = dockerfile.render_dockerfile(make_lock_with_models(a=""), asked)
    assert text.count(" --trust /carried/trust --trust-threshold 1") == 3
    assert "and the trusted keys in trust/" in text
    dockerfile.write_keys(tmp_path, asked)
    again = trusted_keys.read_policy([tmp_path / "trust"], 1)
    assert again is not None
    assert (again.keys, again.revoked) == (asked.keys, asked.revoked)


def test_it_needs_no_frontend_and_no_registry() -> None:
    text = dockerfile.render_dockerfile(make_lock(SMALL), None)
    assert "syntax=" not in text
    assert list_steps(make_lock(SMALL))[:2] == ["ARG BASE=docker.io/library/python:3.11-slim", "FROM ${BASE}"]


def test_a_carried_base_goes_by_its_local_name_and_another_by_its_digest() -> None:
    digest = compute_sha256(b"{}")
    pinned = entries.Image(base="registry.example/python:3.11", digest=f"sha256:{digest}")
    assert dockerfile.get_base_name(make_lock(SMALL, image=pinned)) == f"registry.example/python@sha256:{digest}"
    carried = make_lock({**SMALL, f"{entries.BLOBS_FOLDER}{digest}": b"{}"}, image=pinned)
    assert dockerfile.get_base_name(carried) == f"localhost/bundle-base:{digest[:12]}"


def test_it_runs_as_any_user_of_group_0_and_is_looked_at_without_torch() -> None:
    found = list_steps(make_lock(SMALL, image=entries.Image(user=1234)))
    assert 'ENTRYPOINT ["/opt/test/current/venv/bin/python"]' in found
    (check,) = [step for step in found if step.startswith("HEALTHCHECK")]
    assert check.endswith(
        'CMD ["/opt/test/current/venv/bin/python", "-I", "-S", "/opt/test/current/bundle.pyz", "doctor", "--quick", "--prefix", "/opt/test"]'
    )
    (variables,) = [step for step in found if step.startswith("ENV ")]
    assert variables.split()[1] == "PATH=/opt/test/current/venv/bin:$PATH"
    assert "HF_HUB_OFFLINE=1" in variables.split()
    assert found[-1] == "USER 1234:0"


def test_the_application_is_what_starts() -> None:
    app = entries.App(entrypoint=("python", "-m", 'my"app'))
    found = list_steps(make_lock({**SMALL, "app/main.py": b""}, app=app))
    assert "WORKDIR /opt/test/current/app" in found
    assert 'ENTRYPOINT ["python", "-m", "my\\"app"]' in found


def test_labels_say_what_it_is_and_can_say_nothing_else() -> None:
    (found,) = [
        step
        for step in list_steps(make_lock_with_models(a="MIT", b='x" $(rm) \\', c="MIT"))
        if step.startswith("LABEL ")
    ]
    assert 'org.opencontainers.image.licenses="MIT AND x? ?(rm) ?"' in found
    digest = make_lock_with_models(a="MIT", b='x" $(rm) \\', c="MIT").digest
    assert found.endswith(f'bundle.digest="sha256:{digest}"')


def documents(results: list[SmokeResult]) -> tuple[dict[str, Any], dict[str, Any]]:
    texts = dockerfile.render_run_files(make_lock(SMALL, name="my.test_app"), results, "localhost/my.test_app:1")
    return yaml.safe_load(texts[dockerfile.COMPOSE_FILE]), yaml.safe_load(texts[dockerfile.KUBERNETES_FILE])


def test_compose_and_kubernetes_run_it_read_only_without_root_in_measured_memory() -> None:
    compose, kubernetes = documents(SMOKE)
    service = compose["services"]["my-test-app"]
    assert (service["user"], service["read_only"], service["cap_drop"]) == ("1000:0", True, ["ALL"])
    assert service["deploy"]["resources"] == {"limits": {"memory": "1088m"}, "reservations": {"memory": "704m"}}
    pod = kubernetes["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"] == {"requests": {"memory": "704Mi"}, "limits": {"memory": "1088Mi"}}
    probes = [container[name]["exec"]["command"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert probes == [service["healthcheck"]["test"][1:]] * 3
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {place.partition(":")[0] for place in service["tmpfs"]} == {"/tmp"}


def test_nothing_is_said_of_memory_that_was_not_measured() -> None:
    compose, kubernetes = documents([])
    assert "deploy" not in compose["services"]["my-test-app"]
    assert "resources" not in kubernetes["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("name", ["2026", "on", "null", "1.0"])
def test_names_that_yaml_would_read_as_something_else(name: str) -> None:
    texts = dockerfile.render_run_files(make_lock(SMALL, name=name), SMOKE, "registry.corp/x:1")
    compose, kubernetes = (
        yaml.safe_load(texts[dockerfile.COMPOSE_FILE]),
        yaml.safe_load(texts[dockerfile.KUBERNETES_FILE]),
    )
    service = name.replace(".", "-")
    assert list(compose["services"]) == [service]
    assert kubernetes["metadata"] == {"name": service, "labels": {"app": service}}
    pod = kubernetes["spec"]["template"]
    assert pod["metadata"]["labels"] == kubernetes["spec"]["selector"]["matchLabels"] == {"app": service}
    images = {compose["services"][service]["image"], pod["spec"]["containers"][0]["image"]}
    assert images == {"registry.corp/x:1"}


def test_a_model_s_layer_leaves_no_trace_of_the_run_that_made_it() -> None:
    """docker dates what a step writes by the clock: buildah alone is told a time."""
    (step,) = [step for step in list_steps(make_lock_with_models(a="")) if "--only model:a" in step]
    assert "TMPDIR=/dev/shm python3 -B -I -S" in step
    assert step.endswith(
        "rm -f /opt/test/.lock /opt/test/models/.*.made && touch -d @315532800 /opt /opt/test /opt/test/models"
    )


def test_only_the_bundle_its_installer_and_keys_go_into_the_bake() -> None:
    text = dockerfile.render_ignore_file(make_lock(SMALL))
    kept = [line for line in text.splitlines() if line.startswith("!")]
    assert (text.splitlines()[1], kept) == ("*", [f"!{make_lock(SMALL).file_name}", "!bundle-installer.pyz", "!trust"])


def test_the_dockerfile_at_the_top_has_the_shape_of_this_template() -> None:
    shown = (ROOT / "Dockerfile.offline").read_text(encoding="utf-8")
    assert shown.startswith("# demo 1.0: the installed release as a container image")
    assert "--only model:all-MiniLM-L6-v2" in shown


@pytest.mark.parametrize(("peak", "request_", "limit"), [(1, 64, 64), (64 << 20, 64, 128), (1000 << 20, 1024, 1536)])
def test_memory_is_rounded_up(peak: int, request_: int, limit: int) -> None:
    found = dockerfile.estimate_memory([make_smoke_result(peak_rss_bytes=peak)])
    assert found == dockerfile.MemoryEstimate(request=request_, limit=limit)
