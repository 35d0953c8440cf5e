"""Connections: who may hold how many, for how long."""

import json
import socket
import time
from contextlib import ExitStack

import h11

from openjanus.serve.connection import Connection
from openjanus.serve.limits import Limits
from tests.serve.conftest import run_server, until
from tests.serve.raw import answer, connected, head
from tests.serve.test_contract import ask
from tests.serve.test_faults import CHAT, chat_body, everything, held


def healthy(it: socket.socket) -> bool:
    """Whether /health is answered here, on a connection that stays open."""
    data = b""
    while b'{"status":"ok"}' not in data:
        more = it.recv(65536)
        if not more:
            return False
        data += more
    return data.startswith(b"HTTP/1.1 200")


def test_a_kept_connection_sends_its_answers_at_once(served) -> None:
    """A small answer must not wait for the client to acknowledge the one before it, which takes 40 ms."""
    with connected(served.port):
        until(lambda: served.server.server_state.connections)
        for connection in list(served.server.server_state.connections):
            it = connection.transport.get_extra_info("socket")
            assert it.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_idle_connections_lock_nobody_out(engine) -> None:
    """Neither silent ones, nor those that send half a head or half a body: the longest silent one makes room."""
    with run_server(engine, Limits(max_connections=5)) as running, ExitStack() as stack:
        idle = [stack.enter_context(connected(running.port)) for _ in range(5)]
        until(lambda: len(running.server.server_state.connections) == 5)
        time.sleep(0.05)
        idle[0].sendall(b"GET /hea")
        idle[1].sendall(head("/health", 10, "GET"))
        time.sleep(0.2)
        for silent in idle[2:]:
            it = stack.enter_context(connected(running.port))
            it.sendall(head("/health", None, "GET"))
            assert healthy(it)
            assert everything(silent) == b""
        idle[0].sendall(head("/health", None, "GET", Connection="close")[8:])
        assert answer(idle[0])[0] == 200


def test_connections_beyond_the_bound_are_closed_if_all_others_wait_for_an_answer(engine) -> None:
    data = json.dumps(chat_body()).encode()
    with run_server(engine, Limits(max_connections=3)) as running, ExitStack() as stack:
        with held(running):
            busy = [stack.enter_context(connected(running.port)) for _ in range(3)]
            for it in busy:
                it.sendall(head(CHAT, len(data), Connection="close") + data)
            until(lambda: running.service.worker.num_waiting == 3)
            with connected(running.port) as fourth:
                assert everything(fourth) == b""
        assert [answer(it)[0] for it in busy] == [200] * 3
        until(lambda: not running.server.server_state.connections)
        assert ask(running.client(), "a red cat").choices


def test_room_is_made_by_who_holds_most_connections() -> None:
    class Transport:
        is_aborted = False

        def abort(self) -> None:
            self.is_aborted = True

        def is_closing(self) -> bool:
            return self.is_aborted

    def connection(address: str, heard: float):
        it = Connection.__new__(Connection)
        it.conn, it.transport, it.client, it._received_at = h11.Connection(h11.SERVER), Transport(), (address, 1), heard
        return it

    one, *many = connection("10.0.0.1", 1), *(connection("10.0.0.2", heard) for heard in (4, 2, 3))
    new = connection("10.0.0.2", 5)
    new.connections = {one, *many, new}
    new._make_room()
    new._make_room()
    assert [it.transport.is_aborted for it in (one, *many, new)] == [False, False, True, True, False]


def test_a_connection_is_kept_between_requests_for_as_long_as_the_limit_says(engine) -> None:
    assert Limits().keep_alive_seconds > 60  # what proxies keep theirs for
    request = head("/health", None, "GET")
    with run_server(engine, Limits(keep_alive_seconds=0.4)) as running, connected(running.port) as it:
        for _ in range(2):
            it.sendall(request)
            assert healthy(it)
            time.sleep(0.1)
        began = time.monotonic()
        assert everything(it) == b"" and time.monotonic() - began < 5
        assert running.server.config.timeout_keep_alive == 0.4
