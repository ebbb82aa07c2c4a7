"""Whatever the hub, its storage and the line do: the right bytes come, or an error that says what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bundler.errors import FetchError, IntegrityError, ResolveError, UnsafeError
from bundler.format.hashing import compute_sha256
from tests.support.hub_fetch import CARRIED, CONFIG, FILES, NAME, WEIGHTS, HubFetch
from tests.support.servers import loopback
from tests.support.servers.hub_server import Hub, git_sha1
from tests.support.servers.loopback import Fault, Handler

PORTAL = b"<html><body>Please log in to the network</body></html>"


@pytest.fixture(params=[WEIGHTS, CONFIG])
def name(request: pytest.FixtureRequest) -> str:
    """A file that the storage gives, whose sha256 is published, and one of the hub itself, which git's sha1 names."""
    return str(request.param)


def flip_byte(data: bytes) -> bytes:
    return data[:100] + bytes([data[100] ^ 1]) + data[101:]


def fail(hub: Hub, name: str, *faults: Fault) -> None:
    """These faults, one after the other, where the bytes of a file come from."""
    data = FILES[name]
    place, path = (hub.storage, hub.lfs(NAME, name)) if name == WEIGHTS else (hub, hub.resolve(NAME, name))
    place.faults[path] = [lambda handler, _, fault=one: fault(handler, data) for one in faults]  # type: ignore[misc]


def ranges(hub: Hub, name: str) -> list[str]:
    """The ranges in which the bytes of a file were asked for."""
    place, path = (hub.storage, hub.lfs(NAME, name)) if name == WEIGHTS else (hub, hub.resolve(NAME, name))
    return [one.headers.get("Range", "") for one in place.seen if one.path.partition("?")[0] == path]


def moved(handler: Handler, data: bytes) -> None:
    """206 that states another range than was asked for."""
    handler.answer(206, data[1:], {"Content-Range": f"bytes 1-{len(data) - 1}/{len(data)}"})


def test_a_body_that_is_cut_goes_on_where_it_ended(hub_fetch: HubFetch, name: str) -> None:
    fail(hub_fetch.hub, name, loopback.cut(70_000), loopback.cut(140_000))
    hub_fetch.check_files(hub_fetch.run())
    assert ranges(hub_fetch.hub, name) == ["", "bytes=70000-", "bytes=140000-"]
    assert hub_fetch.waits == [1, 1]
    assert len([note for note in hub_fetch.reporter.notes if "trying again in 1 s" in note]) == 2


def test_an_interrupted_build_goes_on_from_what_is_there(hub_fetch: HubFetch, name: str) -> None:
    fail(hub_fetch.hub, name, loopback.cut(70_000), *[loopback.status(503)] * 5)
    with pytest.raises(FetchError, match="gave up after"):
        hub_fetch.run()
    hub_fetch.check_files(hub_fetch.run())
    assert ranges(hub_fetch.hub, name)[-1] == "bytes=70000-"


ALTERED: dict[str, Callable[[bytes], bytes]] = {
    "one byte flipped": flip_byte,
    "all NUL": lambda data: bytes(len(data)),
    "other content": lambda data: b"x" * len(data),
}


@pytest.mark.parametrize("how", ALTERED)
def test_an_altered_file_is_fetched_once_more(hub_fetch: HubFetch, name: str, how: str) -> None:
    fail(hub_fetch.hub, name, loopback.instead(ALTERED[how](FILES[name])))
    hub_fetch.check_files(hub_fetch.run())
    assert "fetching it once more" in hub_fetch.reporter.notes[0]


@pytest.mark.parametrize("how", ALTERED)
def test_a_file_that_stays_altered_is_an_error_with_both_digests(hub_fetch: HubFetch, name: str, how: str) -> None:
    bad = ALTERED[how](FILES[name])
    fail(hub_fetch.hub, name, *[loopback.instead(bad)] * 2)
    with pytest.raises(IntegrityError) as caught:
        hub_fetch.run()
    digest = compute_sha256 if name == WEIGHTS else git_sha1
    assert digest(bad) in str(caught.value)
    assert digest(FILES[name]) in str(caught.value)
    assert caught.value.where.endswith(f"/{name}")
    assert bad not in [left.read_bytes() for left in hub_fetch.cache.root.glob("partial/*.partial")]
    assert hub_fetch.cache.find(compute_sha256(bad)) is None


@pytest.mark.parametrize("length", [-10, 10])
def test_a_wrong_length_that_is_consistently_stated(hub_fetch: HubFetch, name: str, length: int) -> None:
    data = FILES[name]
    bad = data[:length] if length < 0 else data + bytes(length)
    fail(hub_fetch.hub, name, *[loopback.instead(bad)] * 2)
    with pytest.raises(IntegrityError, match=f"the server has {len(bad)} bytes, {len(data)} were expected"):
        hub_fetch.run()


@pytest.mark.parametrize(
    "second",
    [loopback.lying, moved, loopback.status(416), loopback.whole],
    ids=["206 shifted", "206 moved", "416", "200"],
)
def test_what_comes_of_a_resumption(hub_fetch: HubFetch, name: str, second: Fault) -> None:
    fail(hub_fetch.hub, name, loopback.cut(70_000), second)
    hub_fetch.check_files(hub_fetch.run())


def test_the_hub_states_a_wrong_digest(hub_fetch: HubFetch) -> None:
    hub_fetch.repository.lies = {WEIGHTS: {"lfs": {"oid": "0" * 64, "size": len(FILES[WEIGHTS]), "pointerSize": 1}}}
    with pytest.raises(IntegrityError, match=f"sha256 is {compute_sha256(FILES[WEIGHTS])} .*, {'0' * 64} was expected"):
        hub_fetch.run()
    hub_fetch.repository.lies = {CONFIG: {"oid": "0" * 40}}
    with pytest.raises(IntegrityError, match=f"git's sha1 is {git_sha1(FILES[CONFIG])} .*, {'0' * 40} was expected"):
        hub_fetch.run()


def test_headers_that_lie_of_a_file_count_for_nothing(hub_fetch: HubFetch) -> None:
    """The client would believe them; what the list of files says is what counts."""
    path = hub_fetch.hub.lfs(NAME, WEIGHTS)
    lies = {"X-Linked-Etag": f'"{"0" * 64}"', "X-Linked-Size": "5", "X-Repo-Commit": "0" * 40, "X-Xet-Hash": "0" * 64}

    def lying(handler: Handler, _: bytes) -> None:
        handler.answer(302, b"", lies | {"Location": hub_fetch.hub.storage.url + path})

    hub_fetch.hub.faults[hub_fetch.hub.resolve(NAME, WEIGHTS)] = [lying]
    hub_fetch.check_files(hub_fetch.run())


def test_the_hub_states_a_wrong_size(hub_fetch: HubFetch) -> None:
    hub_fetch.repository.lies = {CONFIG: {"size": 5}}
    with pytest.raises(IntegrityError, match=f"the server has {len(FILES[CONFIG])} bytes, 5 were expected"):
        hub_fetch.run()


BUSY = {
    "429": (loopback.status(429, Retry_After="7"), 7.0),
    "503": (loopback.status(503), 1.0),
    "reset": (loopback.reset, 1.0),
}


@pytest.mark.parametrize("how", BUSY)
@pytest.mark.parametrize("where", ["info", "resolve", "storage"])
def test_what_passes_is_tried_again_and_said(hub_fetch: HubFetch, where: str, how: str) -> None:
    fault, wait = BUSY[how]
    hub = hub_fetch.hub
    path = {"info": f"/api/models/{NAME}/revision/main", "resolve": hub.resolve(NAME, WEIGHTS)}.get(where)
    (hub.faults if path else hub.storage.faults)[path or hub.lfs(NAME, WEIGHTS)] = [fault]
    hub_fetch.check_files(hub_fetch.run())
    assert hub_fetch.waits == [wait]
    assert f"trying again in {wait:g} s" in hub_fetch.reporter.notes[0]


def test_the_hub_is_away_for_a_while(hub_fetch: HubFetch) -> None:
    hub_fetch.hub.faults[f"/api/models/{NAME}/revision/main"] = [loopback.reset] * 4
    hub_fetch.hub.faults[hub_fetch.hub.resolve(NAME, WEIGHTS)] = [loopback.status(503)] * 4
    hub_fetch.check_files(hub_fetch.run())
    assert hub_fetch.waits == [1, 2, 4, 8] * 2


def test_the_hub_stays_away(hub_fetch: HubFetch) -> None:
    hub_fetch.hub.faults[f"/api/models/{NAME}/revision/main"] = [loopback.reset] * 9
    with pytest.raises(FetchError, match="gave up after 5 tries") as caught:
        hub_fetch.run()
    assert caught.value.where == f"{hub_fetch.hub.url}/{NAME}"


def test_a_signed_address_that_has_expired(hub_fetch: HubFetch) -> None:
    fail(hub_fetch.hub, WEIGHTS, loopback.cut(150_000), loopback.status(403))
    hub_fetch.check_files(hub_fetch.run())
    asked = [one.path.partition("?")[2] for one in hub_fetch.hub.storage.seen]
    assert asked == ["signature=secret-1", "signature=secret-2", "signature=secret-3"]
    assert ranges(hub_fetch.hub, WEIGHTS) == ["", "bytes=150000-", "bytes=150000-"]
    assert "asking for a new one" in hub_fetch.reporter.notes[1]
    assert "secret" not in " ".join(hub_fetch.reporter.notes)


def test_a_captive_portal_instead_of_the_hub(hub_fetch: HubFetch) -> None:
    hub_fetch.hub.faults[f"/api/models/{NAME}/revision/main"] = [loopback.instead(PORTAL)]
    with pytest.raises(FetchError, match="this server is not a hub") as caught:
        hub_fetch.run()
    assert "login page" in caught.value.hint
    assert "HF_ENDPOINT" in caught.value.hint


@pytest.mark.parametrize("where", ["info", "resolve", "storage"])
def test_a_login_page_that_says_what_it_is(hub_fetch: HubFetch, where: str) -> None:
    hub = hub_fetch.hub
    path = {"info": f"/api/models/{NAME}/revision/main", "resolve": hub.resolve(NAME, WEIGHTS)}.get(where)
    (hub.faults if path else hub.storage.faults)[path or hub.lfs(NAME, WEIGHTS)] = [loopback.status(511)]
    with pytest.raises(FetchError, match="login page answers instead of the hub") as caught:
        hub_fetch.run()
    assert "open the URL in a browser" in caught.value.hint
    assert hub_fetch.waits == []


def test_a_storage_that_has_lost_a_file(hub_fetch: HubFetch) -> None:
    fail(hub_fetch.hub, WEIGHTS, loopback.status(404))
    with pytest.raises(FetchError, match="the hub's storage has no such file") as caught:
        hub_fetch.run()
    assert caught.value.where.endswith(f"/{WEIGHTS}")
    assert "exclude" in caught.value.hint


@pytest.mark.parametrize("told", [b"{}", b"[]", b'"x"', b'{"id": "org/tiny", "sha": "main", "siblings": []}'])
def test_json_that_is_not_a_hub_s(hub_fetch: HubFetch, told: bytes) -> None:
    hub_fetch.hub.faults[f"/api/models/{NAME}/revision/main"] = [loopback.instead(told)]
    with pytest.raises(FetchError, match="this server is not a hub"):
        hub_fetch.run()


def test_a_captive_portal_instead_of_a_file(hub_fetch: HubFetch, name: str) -> None:
    fail(hub_fetch.hub, name, *[loopback.instead(PORTAL)] * 2)
    with pytest.raises(IntegrityError) as caught:
        hub_fetch.run()
    assert "a proxy answers instead" in caught.value.hint


def test_a_gated_repository_without_a_token(hub_fetch: HubFetch) -> None:
    hub_fetch.repository.gated = True
    with pytest.raises(FetchError, match=f"{NAME} is gated: the hub wants an account") as caught:
        hub_fetch.run()
    assert f"accept its terms at {hub_fetch.hub.url}/{NAME}" in caught.value.hint
    assert "HF_TOKEN" in caught.value.hint


def test_a_gated_repository_with_a_token(hub_fetch: HubFetch, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_fetch.repository.gated = True
    hub_fetch.repository.card = {"license": "other", "license_name": "tiny-terms"}
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(FetchError, match="is gated, and this token has no access to it") as caught:
        hub_fetch.run()
    assert f"{hub_fetch.hub.url}/{NAME}" in caught.value.hint
    monkeypatch.setenv("HF_TOKEN", "hf_member")
    found = hub_fetch.run()
    hub_fetch.check_files(found)
    assert found.licence == f"tiny-terms; gated: terms to accept at {hub_fetch.hub.url}/{NAME}"


def test_a_gated_repository_that_has_another_name_now(hub_fetch: HubFetch) -> None:
    hub_fetch.repository.gated = True
    hub_fetch.hub.moved["org/old"] = NAME
    with pytest.raises(FetchError, match="org/old is gated"):
        hub_fetch.run(repo="org/old")
    assert hub_fetch.waits == []


@pytest.mark.parametrize(
    ("token", "kind", "message"),
    [
        ("", ResolveError, "the hub knows no such repository, or does not show it to you"),
        ("hf_wrong", FetchError, "the hub does not accept the token"),
    ],
)
def test_a_private_repository(
    hub_fetch: HubFetch, monkeypatch: pytest.MonkeyPatch, token: str, kind: type[Exception], message: str
) -> None:
    hub_fetch.repository.private = True
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(kind, match=message) as caught:
        hub_fetch.run()
    assert "HF_TOKEN" in caught.value.hint  # type: ignore[attr-defined]
    assert "hf_wrong" not in f"{caught.value} {vars(caught.value)} {hub_fetch.reporter}"
    monkeypatch.setenv("HF_TOKEN", "hf_member")
    hub_fetch.check_files(hub_fetch.run())


def test_what_is_not_there(hub_fetch: HubFetch, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResolveError, match="org/tiny has no revision 'v9'"):
        hub_fetch.run(revision="v9")
    for token in ("", "hf_member"):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(ResolveError, match="org/none: the hub knows no such repository"):
            hub_fetch.run(repo="org/none")
        with pytest.raises(ResolveError, match="org/tiny: the hub knows no such repository"):
            hub_fetch.run(dataset=NAME)
    hub_fetch.hub.faults[hub_fetch.hub.resolve(NAME, CONFIG)] = [loopback.status(404, X_Error_Code="EntryNotFound")]
    with pytest.raises(ResolveError, match="knows no such file"):
        hub_fetch.run()


def test_403_is_neither_of_them(hub_fetch: HubFetch) -> None:
    said = "Access to this resource is disabled."
    hub_fetch.hub.faults[f"/api/models/{NAME}/revision/main"] = [loopback.status(403, X_Error_Message=said)]
    with pytest.raises(FetchError, match=f"the hub answers 403 {said}"):
        hub_fetch.run()


def test_names_that_other_systems_can_t_tell_apart(hub_fetch: HubFetch) -> None:
    hub_fetch.repository.commit(FILES | {"readme.md": b"x"})
    with pytest.raises(UnsafeError, match=r"'readme\.md' differs from 'README\.md' only by case"):
        hub_fetch.run()
    assert hub_fetch.hub.fetched() == []


def test_a_name_that_may_not_travel(hub_fetch: HubFetch) -> None:
    hub_fetch.repository.commit(FILES | {"../x.json": b"x"})
    with pytest.raises(UnsafeError, match=r"'\.\./x\.json' contains '\.\.'"):
        hub_fetch.run()
    assert hub_fetch.hub.fetched() == []
    hub_fetch.check_files(hub_fetch.run(exclude=("../*",)))
    assert sorted(hub_fetch.hub.fetched()) == CARRIED
