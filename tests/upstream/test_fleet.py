"""Which of several model servers gets a request."""

from __future__ import annotations

from collections import Counter

from agentic_trio.upstream.fleet import FIRST_REST, LONGEST_REST, Fleet, ServerState
from agentic_trio.wire.affinity import NO_AFFINITY, Affinity


def fleet(count: int = 4) -> Fleet:
    return Fleet([ServerState(number, f"model-{number}:8000") for number in range(1, count + 1)])


def chosen(servers: Fleet, key: bytes = b"", model: str | None = None, now: float = 0.0) -> ServerState:
    server = servers.choose(Affinity(model, key), now)
    assert server is not None
    return server


KEYS = [b"thread %d" % number for number in range(1000)]


def test_a_key_always_leads_to_the_same_server_and_keys_spread_evenly() -> None:
    servers = fleet()
    first = {key: chosen(servers, key) for key in KEYS}
    assert first == {key: chosen(servers, key) for key in KEYS}
    assert all(200 <= count <= 300 for count in Counter(server.number for server in first.values()).values())


def test_the_order_of_the_servers_decides_nothing() -> None:
    servers = fleet()
    turned = Fleet(list(reversed(servers.servers)))
    assert all(chosen(servers, key) is chosen(turned, key) for key in KEYS)


def test_a_server_that_leaves_moves_only_its_own_keys() -> None:
    servers = fleet()
    before = {key: chosen(servers, key) for key in KEYS}
    gone = servers.servers[0]
    gone.looked_ill("It is gone.")
    after = {key: chosen(servers, key) for key in KEYS}
    assert all(after[key] is before[key] for key in KEYS if before[key] is not gone)
    moved = Counter(after[key].number for key in KEYS if before[key] is gone)
    assert gone.number not in moved
    assert len(moved) == 3


def test_a_key_that_everyone_shares_doesn_t_load_one_server() -> None:
    servers = fleet()
    for _ in range(100):
        chosen(servers, b"the same").in_flight += 1
    most = max(server.in_flight for server in servers.servers)
    assert most <= 1.25 * 25 + 3


def test_few_requests_don_t_leave_their_server() -> None:
    servers = fleet()
    home = chosen(servers, b"key")
    home.in_flight = 2
    assert chosen(servers, b"key") is home


def test_requests_without_a_key_go_to_the_least_loaded_in_turn() -> None:
    servers = fleet()
    seen = []
    for _ in range(8):
        server = chosen(servers)
        server.requests += 1
        seen.append(server.number)
    assert seen == [1, 2, 3, 4, 1, 2, 3, 4]
    servers.servers[0].in_flight = 1
    assert chosen(servers).number == 2


def test_a_model_leads_to_the_servers_that_list_it_or_don_t_say() -> None:
    servers = fleet(3)
    one, two, three = servers.servers
    one.looked_well(frozenset({"a"}))
    two.looked_well(frozenset({"b"}))
    assert {chosen(servers, key, "b") for key in KEYS} == {two, three}
    three.looked_well(frozenset({"a", "b"}))
    assert {chosen(servers, key, "a") for key in KEYS} == {one, three}
    # A server may take any name, or say itself that there is no such model.
    assert {chosen(servers, key, "unknown") for key in KEYS} == {one, two, three}


def test_all_are_asked_for_a_model_until_one_has_it_or_none_says_what_it_has() -> None:
    servers = fleet(2)
    one, two = servers.servers
    assert not servers.knows("a")
    one.looked_well(None)
    two.looked_well(None)
    assert servers.knows("a")
    two.looked_well(frozenset({"a"}))
    assert servers.knows("a")
    assert not servers.knows("b")


def test_a_model_s_only_server_is_asked_although_it_is_out_of_service() -> None:
    servers = fleet(2)
    one, two = servers.servers
    one.looked_well(frozenset({"a"}))
    two.looked_well(frozenset({"b"}))
    one.looked_ill("It is gone.")
    assert chosen(servers, b"key", "a") is one


def test_a_failed_call_rests_the_server_for_longer_each_time() -> None:
    server = ServerState(1, "model")
    rests, now = [], 0.0
    for _ in range(7):
        server.failed(now, "It broke off.")
        # Another call that was under way fails with it.
        server.failed(now, "It broke off.")
        rests.append(server.rested_at - now)
        assert not server.in_service(now)
        now = server.rested_at
        assert server.in_service(now)
    assert rests == [FIRST_REST, 2, 4, 8, 16, LONGEST_REST, LONGEST_REST]
    server.succeeded()
    server.failed(now, "It broke off.")
    assert server.rested_at - now == FIRST_REST


def test_a_failed_look_lasts_until_one_succeeds() -> None:
    server = ServerState(1, "model")
    server.looked_ill("It is gone.")
    assert not server.in_service(1e9)
    server.looked_well(None)
    assert server.in_service(0.0)


def test_there_may_be_no_other_server() -> None:
    servers = fleet(2)
    one, two = servers.servers
    assert servers.choose(NO_AFFINITY, 0.0, instead_of=one) is two
    two.looked_ill("It is gone.")
    assert servers.choose(NO_AFFINITY, 0.0, instead_of=one) is None
