"""The loopback hub of the tests as a process of its own: python bench/hubprocess.py NAME FOLDER

Prints its address; then, for each line of standard input, how many requests and how many files it was asked for
since the line before.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.servers.hub_server import hub_running


def main() -> None:
    """Serve a folder as a repository until standard input ends."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with hub_running() as hub:
        repository = hub.repository(name, files)
        for commit in repository.commits:
            repository.tree(commit)  # a hub knows its digests before anyone asks
        print(hub.url, flush=True)
        for _ in sys.stdin:
            bodies = [one for one in (*hub.seen, *hub.storage.seen) if "/resolve/" in one.path or "/lfs/" in one.path]
            print(json.dumps([len(hub.seen) + len(hub.storage.seen), len(bodies)]), flush=True)
            hub.seen.clear()
            hub.storage.seen.clear()


if __name__ == "__main__":
    main()
