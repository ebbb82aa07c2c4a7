"""The loopback hub of the tests as a process of its own: ``python bench/hubprocess.py NAME FOLDER``.

It prints its URL. For each line of standard input it prints how many requests and how many file requests arrived
since the line before.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.servers.hub_server import serve_hub


def main() -> None:
    """Serve a folder as a repository until standard input ends."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with serve_hub() as hub:
        repository = hub.repository(name, files)
        for commit in repository.commits:
            repository.tree(commit)  # a hub has computed its digests before anybody asks
        print(hub.url, flush=True)
        for _ in sys.stdin:
            seen = (*hub.seen, *hub.storage.seen)
            bodies = [request for request in seen if "/resolve/" in request.path or "/lfs/" in request.path]
            print(json.dumps([len(seen), len(bodies)]), flush=True)
            hub.seen.clear()
            hub.storage.seen.clear()


if __name__ == "__main__":
    main()
