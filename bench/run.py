"""Measures speed, memory and disk as ratios within one run.

    python bench/run.py [--only PART]… [--list] [--gib N] [--rounds N] [--json FILE]

Each row is printed when it is measured, and kept in FILE as JSON. A part whose tools are missing is left out, and one
that fails does not end the others. Exit code 0: every bound is reached; 1: one is not; 3: a part could not be measured.

Model files are random bytes, which nothing can compress or share; the wheels are the demo's. Every ratio compares two
things measured in this run on this machine, in turn; the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import parts
from bench.measures import MeasureError
from bench.parts import Part, Workplace
from bench.results import Results
from bundler.errors import INTERRUPTED, BundleError

KEPT = Path("build/bench")
UNUSABLE = 2
"""The exit code that argparse gives for options that can't be used."""


def measure(part: Part, workplace: Workplace, results: Results) -> None:
    """Measure one part; what it fails at becomes a row as well."""
    print(f"measure {part.name}: {part.about}", file=sys.stderr, flush=True)
    try:
        with workplace.folder_of(part.name) as folder:
            for row in part.measure(workplace, folder):
                results.add(part.name, row)
    except (BundleError, MeasureError) as error:
        results.fail(part.name, str(error))
    except Exception as error:  # noqa: BLE001 (a fault in one part must not cost the rows of the others)
        traceback.print_exc()
        results.fail(part.name, f"{type(error).__name__}: {error}")


def about(gib: float, rounds: int) -> dict[str, object]:
    """What the rows of this run were measured with."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}"
    return {
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "machine": f"{machine}, Python {platform.python_version()}",
        "gib": gib,
        "rounds": rounds,
    }


def options(arguments: Sequence[str] | None, names: Sequence[str]) -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], choices=names, metavar="PART", help=f"measure this part alone; repeatable: {', '.join(names)}")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="say what the parts are, and what they lack here")
    parser.add_argument("--gib", type=float, default=2.0, help="size of the model files together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"default: a file below {KEPT}, named by the time")
    return parser.parse_args(arguments)


def main(
    arguments: Sequence[str] | None = None, known: Sequence[Part] = parts.PARTS, text: str = parts.MANIFEST
) -> int:
    """Measure, print and keep; the exit code."""
    asked = options(arguments, [part.name for part in known])
    if asked.list:
        for part in known:
            why = part.why_not()
            print(f"{part.name:9}{part.about}" + (f"\n         left out here: {why}" if why else ""))
        return 0
    chosen = [part for part in known if not asked.only or part.name in asked.only]
    path = asked.json or KEPT / f"{datetime.now(timezone.utc):%Y-%m-%dT%H%M%S}.json"
    results = Results(path=path, about=about(asked.gib, asked.rounds))
    print(", ".join(f"{name} {value}" for name, value in results.about.items()))
    try:
        results.begin()
    except OSError as error:
        print(f"{path} can't be written: {error.strerror}; give another file with --json", file=sys.stderr)
        return UNUSABLE
    missing = {part.name: why for part in chosen if (why := part.why_not())}
    for name, why in missing.items():
        results.leave_out(name, why)
    try:
        with tempfile.TemporaryDirectory(prefix="bundle-bench-", dir=asked.folder) as folder:
            rehearsing = any(part.name == "install" for part in chosen)
            workplace = Workplace(
                folder=Path(folder), gib=asked.gib, rounds=asked.rounds, rehearsing=rehearsing, text=text
            )
            for part in chosen:
                if part.name not in missing:
                    measure(part, workplace, results)
    except KeyboardInterrupt:
        results.end(asked.only)
        return INTERRUPTED
    return results.end(asked.only)


if __name__ == "__main__":
    sys.exit(main())
