"""Every file of a repository is found, however many there are and however often the hub must be asked."""

from __future__ import annotations

import threading

import pytest

from bundler.errors import FetchError
from bundler.format.hashing import compute_sha256
from bundler.online.models import hub_repository
from bundler.online.transfer.pip_config import PipConfig
from tests.support.hub_fetch import NAME, WEIGHTS, Errand
from tests.support.servers import loopback
from tests.support.servers.hub_server import HubHandler
from tests.support.servers.loopback import Fault, Handler

MANY = {f"{part}/{n:02}.{kind}": f"{part} {n}".encode() for part in "ab" for n in range(30) for kind in ("json", "bin")}
PORTAL = b"<html><body>Please log in to the network</body></html>"


def tree(errand: Errand) -> str:
    """Where the hub lists the files of main's commit."""
    return f"/api/models/{NAME}/tree/{errand.main}"


def asked_for_files(errand: Errand) -> list[str]:
    """What came behind the question mark, each time that the list of files was asked for."""
    return [path.partition("?")[2] for path in errand.hub.asked() if path.partition("?")[0] == tree(errand)]


def through(handler: Handler, _: bytes) -> None:
    """As if there were no fault."""
    assert isinstance(handler, HubHandler)
    handler.route(handler.path.partition("?")[0])


def linked(*entries: str, to: str) -> Fault:
    """A page that says that the list goes on elsewhere."""
    return lambda handler, _: handler.answer(200, f"[{','.join(entries)}]".encode(), {"Link": f'<{to}>; rel="next"'})


def test_a_list_that_the_hub_cuts_short_loses_no_file(errand: Errand) -> None:
    errand.repository.commit(MANY)
    errand.repository.listed, errand.hub.page = 50, 25
    found = errand.run(exclude=("none",))
    errand.check(found, MANY)
    assert len(asked_for_files(errand)) == len(MANY) // 25 + 1
    upstream = {file.path: file.upstream[0] for file in found.files}
    assert upstream["b/29.bin"].digest == compute_sha256(MANY["b/29.bin"])
    assert upstream["b/29.json"].algorithm == "git-blob-sha1"


def test_the_list_is_that_of_the_commit(errand: Errand) -> None:
    """A branch that moves between the two questions would mix two states."""
    first, info = errand.main, f"/api/models/{NAME}/revision/main"

    def moves(handler: Handler, _: bytes) -> None:
        assert isinstance(handler, HubHandler)
        handler.route(info)
        errand.repository.commit({"other.json": b"{}"})

    errand.hub.faults[info] = [moves]
    found = errand.run()
    errand.check(found)
    assert found.commit == first != errand.main


def test_only_the_page_that_failed_is_asked_for_again(errand: Errand) -> None:
    errand.hub.page = 2
    errand.hub.faults[tree(errand)] = [through, through, loopback.status(429, Retry_After="7"), loopback.reset]
    errand.check(errand.run())
    assert errand.waits == [7, 2]
    first, *rest = asked_for_files(errand)
    assert [page.rpartition("=")[2] for page in rest] == ["2", "4", "4", "4"], first
    assert "trying again in 7 s" in errand.report.notes[0]


def test_the_list_stays_away(errand: Errand) -> None:
    errand.hub.faults[tree(errand)] = [loopback.status(503)] * 9
    with pytest.raises(FetchError, match="gave up after 5 tries: the hub answers 503") as caught:
        errand.run()
    assert caught.value.where == f"{errand.hub.url}/{NAME}"
    assert errand.waits == [1, 2, 4, 8]


def test_a_page_that_is_cut_is_asked_for_again(errand: Errand) -> None:
    errand.hub.faults[tree(errand)] = [lambda handler, _: loopback.cut(3)(handler, b"[...]")]
    errand.check(errand.run())
    assert errand.waits == [1]


def test_a_list_that_does_not_come_is_waited_for_as_long_as_pip_would(errand: Errand) -> None:
    over = threading.Event()

    def held(_handler: Handler, _: bytes) -> None:
        over.wait(20)

    errand.hub.faults[tree(errand)] = [held]
    errand.config = PipConfig(timeout=0.5)
    errand.check(errand.run())
    over.set()
    assert errand.waits == [1]


@pytest.mark.parametrize("told", [PORTAL, b'["x"]', b"[{}]", b'[{"type": "file", "path": "a", "size": 1, "oid": "x"}]'])
def test_a_list_that_is_not_a_hub_s(errand: Errand, told: bytes) -> None:
    errand.hub.faults[tree(errand)] = [loopback.instead(told)]
    with pytest.raises(FetchError, match="this server is not a hub") as caught:
        errand.run()
    assert "login page" in caught.value.hint
    assert errand.waits == []


def test_a_list_without_an_end_is_left(errand: Errand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_repository, "_MAX_PAGES", 5)
    again = linked(to=f"{errand.hub.url}{tree(errand)}?recursive=true&expand=false")
    errand.hub.faults[tree(errand)] = [again] * 20
    with pytest.raises(FetchError, match="the list of files has no end") as caught:
        errand.run()
    assert caught.value.where == f"{errand.hub.url}/{NAME} at main"
    assert len(asked_for_files(errand)) == 5


@pytest.mark.parametrize(
    "to", ["/api/models/org/tiny/tree/main?cursor=2", "gopher://127.0.0.1/x", "http://127.0.0.1:x/"]
)
def test_a_list_that_goes_on_nowhere(errand: Errand, to: str) -> None:
    errand.hub.faults[tree(errand)] = [linked(to=to)]
    with pytest.raises(FetchError, match="this server is not a hub"):
        errand.run()
    assert errand.waits == []


@pytest.mark.parametrize("page", [b"{}", b"[]", b'[{"type": "file", "path": "config.json", "size": 2, "oid": null}]'])
def test_a_list_that_lacks_what_the_revision_has_is_refused(errand: Errand, page: bytes) -> None:
    """As from a mirror that hands on the first page alone."""
    errand.hub.faults[tree(errand)] = [loopback.instead(page)]
    with pytest.raises(FetchError, match=r"the list of files lacks .*README\.md") as caught:
        errand.run()
    assert "HF_ENDPOINT" in caught.value.hint
    assert errand.hub.fetched() == []


def test_the_token_does_not_follow_the_list_to_another_host(errand: Errand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_member")
    storage = errand.hub.storage
    storage.files["/more"] = b'[{"type": "file", "path": "README.md", "size": 0, "oid": null}]'
    errand.hub.faults[tree(errand)] = [linked(to=f"{storage.url}/more")]
    with pytest.raises(FetchError, match="the list of files lacks"):
        errand.run()
    (more,) = storage.seen
    assert "hf_member" not in str(more.headers)


def test_a_large_file_without_a_digest_is_said(errand: Errand) -> None:
    lfs = {"size": 307_200, "pointerSize": 134}
    errand.repository.lies = {WEIGHTS: {"lfs": lfs | {"oid": None}}}
    errand.check(errand.run())
    assert f"publishes no digest of {WEIGHTS}" in errand.report.warnings[0]
    errand.repository.lies = {WEIGHTS: {"lfs": lfs | {"oid": "0" * 63}}}
    with pytest.raises(FetchError, match=f"the digest of {WEIGHTS} is not hexadecimal"):
        errand.run()
