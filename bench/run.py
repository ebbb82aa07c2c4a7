"""Measures speed, memory and disk as ratios within one run.

    python bench/run.py [--only PART]… [--list] [--gib N] [--rounds N] [--json FILE]

Each row is printed when it is measured, and written to FILE as JSON. A part whose tools are missing is left out. A part
that fails does not stop the others. Exit code 0: every bound is reached; 1: one is not; 3: a part could not be measured.

Model files are random bytes, which nothing can compress or share. The wheels are the demo's. Every ratio compares two
things that were measured in turn in this run on this machine. The median of the rounds counts.
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

RESULTS_FOLDER = Path("build/bench")
UNUSABLE = 2
"""The exit code that argparse gives for options that can't be used."""


def measure_part(part: Part, workplace: Workplace, results: Results) -> None:
    """Measure one part; a failure becomes a row too."""
    print(f"measure {part.name}: {part.about}", file=sys.stderr, flush=True)
    try:
        with workplace.part_folder(part.name) as folder:
            for row in part.measure(workplace, folder):
                results.add(part.name, row)
    except (BundleError, MeasureError) as error:
        results.fail(part.name, str(error))
    except Exception as error:  # noqa: BLE001 (an error in one part must not cost the rows of the others)
        traceback.print_exc()
        results.fail(part.name, f"{type(error).__name__}: {error}")


def describe_run(gib: float, rounds: int) -> dict[str, object]:
    """Return the date, the machine and the options of this run."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}"
    return {
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "machine": f"{machine}, Python {platform.python_version()}",
        "gib": gib,
        "rounds": rounds,
    }


def parse_options(arguments: Sequence[str] | None, names: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], choices=names, metavar="PART", help=f"measure this part alone; repeatable: {', '.join(names)}")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="list the parts, and what is missing here")
    parser.add_argument("--gib", type=float, default=2.0, help="size of the model files together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder to work in; default: the temporary folder")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help=f"default: a file below {RESULTS_FOLDER}, named by the time"
    )
    return parser.parse_args(arguments)


def main(
    arguments: Sequence[str] | None = None, known: Sequence[Part] = parts.PARTS, text: str = parts.MANIFEST
) -> int:
    """Measure the parts, print and write the rows, and return the exit code."""
    options = parse_options(arguments, [part.name for part in known])
    if options.list:
        for part in known:
            reason = part.find_missing()
            print(f"{part.name:9}{part.about}" + (f"\n         left out here: {reason}" if reason else ""))
        return 0
    chosen = [part for part in known if not options.only or part.name in options.only]
    path = options.json or RESULTS_FOLDER / f"{datetime.now(timezone.utc):%Y-%m-%dT%H%M%S}.json"
    results = Results(path=path, about=describe_run(options.gib, options.rounds))
    print(", ".join(f"{name} {value}" for name, value in results.about.items()))
    try:
        results.begin()
    except OSError as error:
        print(f"{path} can't be written: {error.strerror}; give another file with --json", file=sys.stderr)
        return UNUSABLE
    missing = {part.name: reason for part in chosen if (reason := part.find_missing())}
    for name, reason in missing.items():
        results.leave_out(name, reason)
    try:
        with tempfile.TemporaryDirectory(prefix="bundle-bench-", dir=options.folder) as folder:
            with_rehearsal = any(part.name == "install" for part in chosen)
            workplace = Workplace(
                folder=Path(folder),
                gib=options.gib,
                rounds=options.rounds,
                with_rehearsal=with_rehearsal,
                manifest_text=text,
            )
            for part in chosen:
                if part.name not in missing:
                    measure_part(part, workplace, results)
    except KeyboardInterrupt:
        results.end(options.only)
        return INTERRUPTED
    return results.end(options.only)


if __name__ == "__main__":
    sys.exit(main())
