"""A run that is forked off is what one that is started is; what is shared is made once."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.forks import Program
from tests.support.shared import Shared

PROBE = """
import json, os, sys
mask = os.umask(0)
print(json.dumps([os.getcwd(), mask, dict(os.environ), sys.argv, sys.path, sys.stdin.read(), "queue" in sys.modules]))
sys.stderr.write("words\\n")
sys.exit(len(sys.argv))
"""


@pytest.mark.parametrize("options", [{}, {"cwd": "/"}, {"umask": 0o077}, {"env": os.environ | {"A": "\udcff b"}}])
@pytest.mark.parametrize("arguments", [[], ["x y", 3]])
def test_a_forked_run_is_told_and_says_the_same(tmp_path: Path, options: Any, arguments: Any) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(PROBE)
    python = (sys.executable,)
    options = {"env": dict(os.environ)} | options  # readline puts more into what is inherited than os.environ knows
    forked = Program(python, probe, modules=("queue",)).run(*arguments, **options)
    started = Program(python, probe, modules=()).run(*arguments, input="", **options)
    assert forked.returncode == started.returncode == len(arguments) + 1
    assert forked.stderr == started.stderr == "words\n"
    *told, forked_off = json.loads(forked.stdout)
    *as_ever, afresh = json.loads(started.stdout)
    assert told == as_ever
    assert (forked_off, afresh) == (True, False)


def test_what_python_reads_as_it_starts_starts_it_afresh(tmp_path: Path) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(PROBE)
    program = Program((sys.executable,), probe, modules=("queue",))
    assert json.loads(program.run().stdout)[-1]
    assert not json.loads(program.run(env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"}).stdout)[-1]
    assert program.run(text=False).stdout.endswith(b"true]\n")


def test_what_is_shared_is_made_once_and_again_where_that_failed(tmp_path_factory: pytest.TempPathFactory) -> None:
    shared, asked = Shared(tmp_path_factory), []

    def make(folder: Path) -> None:
        asked.append(folder)
        (folder / "made").touch(exist_ok=False)
        if len(asked) == 1:
            raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        shared.get_or_make("once", make)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: shared.get_or_make("once", make), range(4)))
    assert (len(asked), len(set(made))) == (2, 1)
    assert (made[0] / "made").exists()
