"""Which models a project's settings name: .env files and lines of YAML and TOML. Secrets are passed over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from bundler.bundle import envfile
from bundler.online import mentions
from bundler.online.mentions import Mention

_LINE_OF_ENV = re.compile(r"\s*(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<value>.*)")
_LINE_OF_CONFIG = re.compile(r"\s*(?:-\s+)?[\"']?(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)[\"']?\s*[:=]\s*(?P<value>\S.*)")
_QUOTED = re.compile(r"(?P<quote>[\"'])(?P<value>.*?)(?P=quote)\s*,?\s*(#.*)?")
_SENTENCES = re.compile(r"(all|distiluse|gtr|msmarco|multi-qa|paraphrase|sentence-t5)-[A-Za-z0-9._-]+")
"""Short names that sentence-transformers gave to its own models."""
_FOLDER = re.compile(r"(?!.*://)[^\s{}$]*/[^\s{}$]*")


def is_env(name: str) -> bool:
    """Whether a file of that name holds environment variables; what an installer wrote on a host is none of ours."""
    return (name == ".env" or name.startswith(".env.")) and name != ".env.offline"


def is_config(path: PurePosixPath) -> bool:
    """Whether a file may say in YAML or TOML which models are used."""
    return path.suffix in (".yaml", ".yml", ".toml") and not path.name.endswith(("lock.yaml", "lock.yml", ".lock.toml"))


def named_in(path: PurePosixPath, text: str) -> Iterator[Mention]:
    """The models that variables name whose own name tells so: ORG/NAME, a folder, or a short name that is known."""
    env = is_env(path.name)
    for number, line in enumerate(text.splitlines(), 1):
        found = (_LINE_OF_ENV if env else _LINE_OF_CONFIG).fullmatch(line)
        if found is None or not mentions.tells(found["name"]):
            continue
        value = _value(found["value"])
        if envfile.is_secret(found["name"], value):
            continue
        name = f"sentence-transformers/{value}" if _SENTENCES.fullmatch(value) else value
        if mentions.is_hub_id(name) or (_FOLDER.fullmatch(name) and not mentions.is_file(name)):
            variable = found["name"] if env else ""
            yield Mention(name=name, where=f"{path}:{number}", how=found["name"], variable=variable)


def _value(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    return quoted["value"] if quoted else re.split(r"\s+#", text, maxsplit=1)[0].strip().rstrip(",")
