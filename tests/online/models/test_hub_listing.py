"""Every file of a repository is found, however many there are and however often the hub must be asked."""

from __future__ import annotations

import threading

import pytest

from bundler.errors import FetchError
from bundler.format.hashing import compute_sha256
from bundler.online.models import hub_repository
from bundler.online.transfer.pip_config import PipConfig
from tests.support.hub_fetch import NAME, WEIGHTS, HubFetch
from tests.support.servers import loopback
from tests.support.servers.hub_server import HubHandler
from tests.support.servers.loopback import Fault, Handler

MANY = {f"{part}/{n:02}.{kind}": f"{part} {n}".encode() for part in "ab" for n in range(30) for kind in ("json", "bin")}
PORTAL = b"<html><body>Please log in to the network</body></html>"


def tree(errand: HubFetch) -> str:
    """Where the hub lists the files of main's commit."""
    return f"/api/models/{NAME}/tree/{errand.main}"


def list_page_queries(errand: HubFetch) -> list[str]:
    """What came behind the question mark, each time that the list of files was asked for."""
    return [path.partition("?")[2] for path in errand.hub.asked() if path.partition("?")[0] == tree(errand)]


def through(handler: Handler, _: bytes) -> None:
    """As if there were no fault."""
    assert isinstance(handler, HubHandler)
    handler.route(handler.path.partition("?")[0])


def linked(*entries: str, to: str) -> Fault:
    """A page that says that the list goes on elsewhere."""
    return lambda handler, _: handler.answer(200, f"[{','.join(entries)}]".encode(), {"Link": f'<{to}>; rel="next"'})


def test_a_list_that_the_hub_cuts_short_loses_no_file(hub_fetch: HubFetch) -> None:
    hub_fetch.repository.commit(MANY)
    hub_fetch.repository.listed, hub_fetch.hub.page = 50, 25
    found = hub_fetch.run(exclude=("none",))
    hub_fetch.check_files(found, MANY)
    assert len(list_page_queries(hub_fetch)) == len(MANY) // 25 + 1
    upstream = {file.path: file.upstream[0] for file in found.files}
    assert upstream["b/29.bin"].digest == compute_sha256(MANY["b/29.bin"])
    assert upstream["b/29.json"].algorithm == "git-blob-sha1"


def test_the_list_is_that_of_the_commit(hub_fetch: HubFetch) -> None:
    """A branch that moves between the two questions would mix two states."""
    first, info = hub_fetch.main, f"/api/models/{NAME}/revision/main"

    def moves(handler: Handler, _: bytes) -> None:
        assert isinstance(handler, HubHandler)
        handler.route(info)
        hub_fetch.repository.commit({"other.json": b"{}"})

    hub_fetch.hub.faults[info] = [moves]
    found = hub_fetch.run()
    hub_fetch.check_files(found)
    assert found.commit == first != hub_fetch.main


def test_only_the_page_that_failed_is_asked_for_again(hub_fetch: HubFetch) -> None:
    hub_fetch.hub.page = 2
    hub_fetch.hub.faults[tree(hub_fetch)] = [through, through, loopback.status(429, Retry_After="7"), loopback.reset]
    hub_fetch.check_files(hub_fetch.run())
    assert hub_fetch.waits == [7, 2]
    first, *rest = list_page_queries(hub_fetch)
    assert [page.rpartition("=")[2] for page in rest] == ["2", "4", "4", "4"], first
    assert "trying again in 7 s" in hub_fetch.reporter.notes[0]


def test_the_list_stays_away(hub_fetch: HubFetch) -> None:
    hub_fetch.hub.faults[tree(hub_fetch)] = [loopback.status(503)] * 9
    with pytest.raises(FetchError, match="gave up after 5 tries: the hub answers 503") as caught:
        hub_fetch.run()
    assert caught.value.where == f"{hub_fetch.hub.url}/{NAME}"
    assert hub_fetch.waits == [1, 2, 4, 8]


def test_a_page_that_is_cut_is_asked_for_again(hub_fetch: HubFetch) -> None:
    hub_fetch.hub.faults[tree(hub_fetch)] = [lambda handler, _: loopback.cut(3)(handler, b"[...]")]
    hub_fetch.check_files(hub_fetch.run())
    assert hub_fetch.waits == [1]


def test_a_list_that_does_not_come_is_waited_for_as_long_as_pip_would(hub_fetch: HubFetch) -> None:
    over = threading.Event()

    def held(_handler: Handler, _: bytes) -> None:
        over.wait(20)

    hub_fetch.hub.faults[tree(hub_fetch)] = [held]
    hub_fetch.config = PipConfig(timeout=0.5)
    hub_fetch.check_files(hub_fetch.run())
    over.set()
    assert hub_fetch.waits == [1]


@pytest.mark.parametrize("told", [PORTAL, b'["x"]', b"[{}]", b'[{"type": "file", "path": "a", "size": 1, "oid": "x"}]'])
def test_a_list_that_is_not_a_hub_s(hub_fetch: HubFetch, told: bytes) -> None:
    hub_fetch.hub.faults[tree(hub_fetch)] = [loopback.instead(told)]
    with pytest.raises(FetchError, match="this server is not a hub") as caught:
        hub_fetch.run()
    assert "login page" in caught.value.hint
    assert hub_fetch.waits == []


def test_a_list_without_an_end_is_left(hub_fetch: HubFetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_repository, "_MAX_PAGES", 5)
    again = linked(to=f"{hub_fetch.hub.url}{tree(hub_fetch)}?recursive=true&expand=false")
    hub_fetch.hub.faults[tree(hub_fetch)] = [again] * 20
    with pytest.raises(FetchError, match="the list of files has no end") as caught:
        hub_fetch.run()
    assert caught.value.where == f"{hub_fetch.hub.url}/{NAME} at main"
    assert len(list_page_queries(hub_fetch)) == 5


@pytest.mark.parametrize(
    "to", ["/api/models/org/tiny/tree/main?cursor=2", "gopher://127.0.0.1/x", "http://127.0.0.1:x/"]
)
def test_a_list_that_goes_on_nowhere(hub_fetch: HubFetch, to: str) -> None:
    hub_fetch.hub.faults[tree(hub_fetch)] = [linked(to=to)]
    with pytest.raises(FetchError, match="this server is not a hub"):
        hub_fetch.run()
    assert hub_fetch.waits == []


@pytest.mark.parametrize("page", [b"{}", b"[]", b'[{"type": "file", "path": "config.json", "size": 2, "oid": null}]'])
def test_a_list_that_lacks_what_the_revision_has_is_refused(hub_fetch: HubFetch, page: bytes) -> None:
    """As from a mirror that hands on the first page alone."""
    hub_fetch.hub.faults[tree(hub_fetch)] = [loopback.instead(page)]
    with pytest.raises(FetchError, match=r"the list of files lacks .*README\.md") as caught:
        hub_fetch.run()
    assert "HF_ENDPOINT" in caught.value.hint
    assert hub_fetch.hub.fetched() == []


def test_the_token_does_not_follow_the_list_to_another_host(
    hub_fetch: HubFetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_member")
    storage = hub_fetch.hub.storage
    storage.files["/more"] = b'[{"type": "file", "path": "README.md", "size": 0, "oid": null}]'
    hub_fetch.hub.faults[tree(hub_fetch)] = [linked(to=f"{storage.url}/more")]
    with pytest.raises(FetchError, match="the list of files lacks"):
        hub_fetch.run()
    (more,) = storage.seen
    assert "hf_member" not in str(more.headers)


def test_a_large_file_without_a_digest_is_said(hub_fetch: HubFetch) -> None:
    lfs = {"size": 307_200, "pointerSize": 134}
    hub_fetch.repository.lies = {WEIGHTS: {"lfs": lfs | {"oid": None}}}
    hub_fetch.check_files(hub_fetch.run())
    assert f"publishes no digest of {WEIGHTS}" in hub_fetch.reporter.warnings[0]
    hub_fetch.repository.lies = {WEIGHTS: {"lfs": lfs | {"oid": "0" * 63}}}
    with pytest.raises(FetchError, match=f"the digest of {WEIGHTS} is not hexadecimal"):
        hub_fetch.run()
