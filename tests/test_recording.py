"""``demo/record.py``: what it draws is what a command wrote to a terminal."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.support.paths import ROOT

TEXT = "{http://www.w3.org/2000/svg}text"


def run_recorder(out: Path, script: str) -> subprocess.CompletedProcess[str]:
    written = out.with_suffix(".sh")
    written.write_text(script)
    command = [sys.executable, str(ROOT / "demo" / "record.py"), str(out), "sh", str(written)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def rows(out: Path) -> list[tuple[str, str, str]]:
    """Of each text its class, what it says and when it comes."""
    drawn = ET.parse(out).getroot().iter(TEXT)  # noqa: S314 (our own file)
    return [
        (
            one.get("class", ""),
            one.text or "",
            [*re.findall(r"come 1ms linear ([\d.]+)s", one.get("style", "")), "0"][0],
        )
        for one in drawn
    ]


def test_rows(tmp_path: Path) -> None:
    """A bar that is drawn over itself, a line that is erased, one that a terminal of 100 columns breaks."""
    script = (
        "test -t 1 && test -t 2 && printf 'bar:  1%%'; sleep 0.1; printf '\\rbar: 50%%'; sleep 0.1; "
        "printf '\\rbar: 100%%\\n'; printf 'gone\\r\\033[K<kept> \\303\\251\\n\\n\\n\\n'; "
        f"printf 'warning: {'w' * 120}\\n'; sleep 0.1; printf '  set in\\n\\033[Aup'"
    )
    assert run_recorder(tmp_path / "out.svg", script).returncode == 0
    said = rows(tmp_path / "out.svg")
    assert said[0][:2] == ("command", f"$ sh {tmp_path}/out.sh")
    assert [row[:2] for row in said[1:]] == [
        ("passing", "bar:  1%"),
        ("passing", "bar: 50%"),
        ("", "bar: 100%"),
        ("", "<kept> é"),
        ("warning", f"warning: {'w' * 91}"),
        ("warning", "w" * 29),
        ("", "upset in"),
    ]
    times = [float(when) for _, _, when in said]
    assert times == sorted(times)
    assert times[-1] >= 0.3


def test_pauses_and_failures(tmp_path: Path) -> None:
    assert run_recorder(tmp_path / "out.svg", "echo a; sleep 1.5; echo b").returncode == 0
    (_, _, first), (_, _, second) = rows(tmp_path / "out.svg")[-2:]
    assert 0.6 < float(second) - float(first) <= 0.71
    done = run_recorder(tmp_path / "none.svg", "exit 3")
    assert done.returncode == 1
    assert "ended with code 3; nothing was written" in done.stderr
    assert not (tmp_path / "none.svg").exists()
