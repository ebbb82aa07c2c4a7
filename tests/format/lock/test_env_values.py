"""Variables that every reader of an environment file reads alike."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundler.format.lock import env_values
from bundler.offline.rendering import env_file


def read_by_sh(path: Path, name: str) -> str:
    script = f'set -a; . "$1"; printf %s "${name}"'
    return subprocess.run(
        ["sh", "-c", script, "sh", path], check=True, capture_output=True, env={"HOME": "/h"}, text=True
    ).stdout


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(value=st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"), max_size=20))
def test_what_is_accepted_is_read_alike(tmp_path: Path, value: str) -> None:
    """And what only a folder's name can bring in is at least read alike by sh and dotenv."""
    if not value.isprintable() or set(value) & set('$`\\"'):
        return
    path = tmp_path / "env"
    path.write_text(env_values.format_line("V", value) + "\n", encoding="utf-8")
    assert read_by_sh(path, "V") == value
    assert dotenv_values(path)["V"] == value


@pytest.mark.parametrize(
    "value", ["a b", "$HOME/x", "#x", "~/x", "'x'", '"x"', "a\\b", "a\nb", "$(id)", "`id`", "가", "a;b", "*"]
)
def test_what_they_read_differently_is_refused(value: str) -> None:
    assert "read differently" in env_values.find_env_problem("V", value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HF_TOKEN", "x9"), ("API_KEY", "abc"), ("db_password", "hunter2"), ("X", "hf_abcdefghijklmnopqrstuv"),
        ("X", "sk-abcdefghijklmnopqrst"), ("URL", "https://user:word@host/x"),
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_refused_without_showing_it(name: str, value: str) -> None:
    why = env_values.find_env_problem(name, value)
    assert "looks like a secret" in why
    assert value not in why


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENAI_API_KEY", ""),
        ("MAX_TOKENS", "512"),
        ("X", "{model:a}/x"),
        ("URL", "http://127.0.0.1:80/v1"),
        ("A", "a,b=c%d+e@f"),
    ],
)
def test_what_is_plain_is_accepted(name: str, value: str) -> None:
    assert env_values.find_env_problem(name, value) == ""


def test_placeholders_are_found_and_filled() -> None:
    value = "{model:a}:{asset:x/y}:{release}:{other}"
    assert env_values.find_placeholders(value) == [("model", "a"), ("asset", "x/y"), ("release", "")]
    assert (
        env_values.fill_placeholders(value, lambda what, name: f"<{what} {name}>")
        == "<model a>:<asset x/y>:<release >:{other}"
    )


def test_what_the_installer_sets_is_not_for_a_manifest() -> None:
    for name in [*env_file.make_library_variables(Path("/h")), *env_file.CACHES, "PATH", "LD_PRELOAD", "PYTHONPATH"]:
        assert "is set by the installer" in env_values.find_env_problem(name, "x"), name


def test_a_tokenizer_is_no_token() -> None:
    assert env_values.find_env_problem("TOKENIZER_PATH", "{model:m}") == ""
    assert env_values.find_env_problem("API_TOKEN", "{asset:x}") == ""
