"""Which models a project's settings name: .env files and lines of YAML and TOML. Secrets are passed over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from bundler.format.lock import env_values
from bundler.online.scaffold import code_mentions, served_models
from bundler.online.scaffold.code_mentions import Mention
from bundler.online.scaffold.served_models import Server

_ENV_LINE = re.compile(r"\s*(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<value>.*)")
_CONFIG_LINE = re.compile(r"\s*(?:-\s+)?[\"']?(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)[\"']?\s*[:=]\s*(?P<value>\S.*)")
_QUOTED_VALUE = re.compile(r"(?P<quote>[\"'])(?P<value>.*?)(?P=quote)\s*,?\s*(#.*)?")
_SENTENCE_TRANSFORMERS_NAME = re.compile(r"(all|distiluse|gtr|msmarco|multi-qa|paraphrase|sentence-t5)-[A-Za-z0-9._-]+")
"""Short names that sentence-transformers gave to its own models."""
_FOLDER_PATH = re.compile(r"(?!.*://)[^\s{}$]*/[^\s{}$]*")


def is_env_file(name: str) -> bool:
    """Whether a file of that name holds environment variables; what an installer wrote on a host is none of ours."""
    return (name == ".env" or name.startswith(".env.")) and name != ".env.offline"


def is_config_file(path: PurePosixPath) -> bool:
    """Whether a file may say in YAML or TOML which models are used."""
    return path.suffix in (".yaml", ".yml", ".toml") and not path.name.endswith(("lock.yaml", "lock.yml", ".lock.toml"))


def find_mentions(path: PurePosixPath, text: str) -> Iterator[Mention | Server]:
    """The models that variables name whose own name tells so: ORG/NAME, a folder, or a short name that is known.

    And the addresses of servers among them, whose values are not kept.
    """
    env = is_env_file(path.name)
    group, tables = served_models.ENVIRONMENT, _Tables(str(path))
    for number, line in enumerate(text.splitlines(), 1):
        found = (_ENV_LINE if env else _CONFIG_LINE).fullmatch(line)
        if not env:
            group = tables.of(line)
        if found is None:
            continue
        value = _parse_value(found["value"])
        if value and (purpose := served_models.address(found["name"], value)) is not None:
            yield Server(purpose=purpose, group=group, where=f"{path}:{number}", name=found["name"])
        if not code_mentions.is_model_variable(found["name"]):
            continue
        if env_values.is_secret(found["name"], value):
            continue
        name = f"sentence-transformers/{value}" if _SENTENCE_TRANSFORMERS_NAME.fullmatch(value) else value
        if code_mentions.is_hub_id(name) or (_FOLDER_PATH.fullmatch(name) and not code_mentions.is_file(name)):
            variable = found["name"] if env else ""
            yield Mention(name=name, where=f"{path}:{number}", symbol=found["name"], variable=variable, group=group)


@dataclass(slots=True)
class _Tables:
    """Tells which lines of YAML or TOML stand in one table: those of one indent with none of a smaller one between."""

    path: str
    above: list[tuple[int, int]] = field(default_factory=list)
    """Indents, each with the number of its table."""
    count: int = 0

    def of(self, line: str) -> str:
        """Names the table of the next line."""
        if line.strip() and not line.lstrip().startswith("#"):
            indent = len(line) - len(line.lstrip(" -"))
            if line.startswith("["):  # a table of TOML
                self.above.clear()
            while self.above and self.above[-1][0] > indent:
                self.above.pop()
            if not self.above or self.above[-1][0] < indent or line.lstrip().startswith("- "):
                self.count += 1
                self.above = [*(one for one in self.above if one[0] < indent), (indent, self.count)]
        return f"{self.path}, table {self.above[-1][1] if self.above else 0}"


def _parse_value(text: str) -> str:
    quoted = _QUOTED_VALUE.fullmatch(text)
    return quoted["value"] if quoted else re.split(r"\s+#", text, maxsplit=1)[0].strip().rstrip(",")
