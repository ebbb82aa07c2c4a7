"""Finds the models in a project's settings: .env files and lines of YAML and TOML. Secrets are skipped."""

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
"""Matches short names of sentence-transformers' own models."""
_FOLDER_PATH = re.compile(r"(?!.*://)[^\s{}$]*/[^\s{}$]*")


def is_env_file(name: str) -> bool:
    """Return whether a file of that name holds environment variables; .env.offline is written by the installer."""
    return (name == ".env" or name.startswith(".env.")) and name != ".env.offline"


def is_config_file(path: PurePosixPath) -> bool:
    """Return whether a file is YAML or TOML that may name models."""
    return path.suffix in (".yaml", ".yml", ".toml") and not path.name.endswith(("lock.yaml", "lock.yml", ".lock.toml"))


def find_mentions(path: PurePosixPath, text: str) -> Iterator[Mention | Server]:
    """Yield the models of variables whose name says that they hold one, and the URLs of servers.

    A model is ORG/NAME, a folder, or a known short name. The values of the URLs are not kept.
    """
    is_env = is_env_file(path.name)
    group, tables = served_models.ENVIRONMENT, _Tables(str(path))
    for number, line in enumerate(text.splitlines(), 1):
        match = (_ENV_LINE if is_env else _CONFIG_LINE).fullmatch(line)
        if not is_env:
            group = tables.name_table(line)
        if match is None:
            continue
        value = _parse_value(match["value"])
        if value and (purpose := served_models.find_server_purpose(match["name"], value)) is not None:
            yield Server(purpose=purpose, group=group, location=f"{path}:{number}", name=match["name"])
        if not code_mentions.is_model_variable(match["name"]):
            continue
        if env_values.is_secret(match["name"], value):
            continue
        name = f"sentence-transformers/{value}" if _SENTENCE_TRANSFORMERS_NAME.fullmatch(value) else value
        if code_mentions.is_hub_id(name) or (_FOLDER_PATH.fullmatch(name) and not code_mentions.is_file(name)):
            variable = match["name"] if is_env else ""
            yield Mention(name=name, location=f"{path}:{number}", symbol=match["name"], variable=variable, group=group)


@dataclass(slots=True)
class _Tables:
    """Finds which lines of YAML or TOML are in one table: lines of one indent with no smaller indent between them."""

    path: str
    open_tables: list[tuple[int, int]] = field(default_factory=list)
    """The open tables from outside in, each with its indent and number."""
    count: int = 0

    def name_table(self, line: str) -> str:
        """Return a name for the table of the next line."""
        if line.strip() and not line.lstrip().startswith("#"):
            indent = len(line) - len(line.lstrip(" -"))
            if line.startswith("["):  # a table of TOML
                self.open_tables.clear()
            while self.open_tables and self.open_tables[-1][0] > indent:
                self.open_tables.pop()
            if not self.open_tables or self.open_tables[-1][0] < indent or line.lstrip().startswith("- "):
                self.count += 1
                self.open_tables = [*(table for table in self.open_tables if table[0] < indent), (indent, self.count)]
        return f"{self.path}, table {self.open_tables[-1][1] if self.open_tables else 0}"


def _parse_value(text: str) -> str:
    quoted = _QUOTED_VALUE.fullmatch(text)
    return quoted["value"] if quoted else re.split(r"\s+#", text, maxsplit=1)[0].strip().rstrip(",")
