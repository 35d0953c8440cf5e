"""Who may ask, what a request can reach, and what is written down."""

import http.server
import logging
import os
import socket
import threading
import time
from contextlib import contextmanager, suppress

import openai
import pytest

from openjanus.serve import fetch, log, service
from openjanus.serve.errors import ApiError
from openjanus.serve.fetch import fetch_picture, is_public, public_address
from openjanus.serve.guard import Keys
from openjanus.serve.hosts import allowed_hosts, is_local
from openjanus.serve.keys import WrongKeys, read_keys
from openjanus.serve.limits import Limits
from openjanus.serve.page import FILES
from openjanus.serve.service import Service, cache_size
from openjanus.serve.settings import ServerSettings
from tests.serve.conftest import run_server, until
from tests.serve.raw import send
from tests.serve.test_contract import ask
from tests.serve.test_faults import CHAT, chat_body, png


@pytest.fixture(scope="module")
def locked(engine):
    hosts = allowed_hosts("127.0.0.1", ["Janus.test."])
    with run_server(engine, Limits(max_wrong_keys=1000), keys=("first-key", "ключ"), hosts=hosts) as running:
        yield running


def test_keys_open_the_api_and_nothing_else_does(locked) -> None:
    assert ask(locked.client("first-key"), "hello").choices
    bearer = {"Authorization": "Bearer ключ".encode().decode("latin-1")}
    for header in (
        "",
        "Bearer",
        "Bearer ",
        "Bearer first-ke",
        "Bearer first-key2",
        "Basic first-key",
        "first-key",
        "Bearer \xff",
    ):
        for path, method in ((CHAT, "POST"), ("/v1/models", "GET"), ("/metrics", "GET"), ("/openapi.json", "GET")):
            status, headers, body = send(locked.port, path, chat_body(), method, Authorization=header)
            assert (status, body["error"]["code"]) == (401, "invalid_api_key")
            assert headers["www-authenticate"] == "Bearer"
    with pytest.raises(openai.AuthenticationError):
        ask(locked.client("wrong"), "hello")
    assert bearer and Keys(["ключ"]).find("bearer ключ".encode()) == "1"
    for path in ("/health", "/ready", "/"):
        assert send(locked.port, path, b"", "GET")[0] == 200


def test_a_comparison_looks_at_every_key(monkeypatch) -> None:
    import hmac

    seen = []
    original = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: seen.append(b) or original(a, b))
    keys = Keys(["one", "two", "three"])
    for given, name in (("one", "1"), ("three", "3"), ("four", None), ("", None)):
        seen.clear()
        assert keys.find(f"Bearer {given}".encode()) == name
        assert seen == keys.digests


def test_keys_come_from_a_file_and_the_environment(tmp_path, monkeypatch) -> None:
    (tmp_path / "keys").write_text("# mine\none\n\n two \n")
    assert read_keys(tmp_path / "keys") == ["one", "two"]
    monkeypatch.setenv("OPENJANUS_API_KEY", "three")
    assert read_keys(tmp_path / "keys") == ["one", "two", "three"] and read_keys(None) == ["three"]
    monkeypatch.delenv("OPENJANUS_API_KEY")
    (tmp_path / "keys").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")  # as an editor on Windows leaves it
    assert read_keys(tmp_path / "keys") == ["one", "two"]
    (tmp_path / "keys").write_text("# none\n")
    with pytest.raises(ValueError, match="no API key in it"):
        read_keys(tmp_path / "keys")
    with pytest.raises(ValueError, match="cannot read API keys"):
        read_keys(tmp_path)


def test_who_tries_many_wrong_keys_must_wait(engine) -> None:
    with run_server(engine, Limits(max_wrong_keys=3), keys=("right",)) as running:

        def asks(key: str | None) -> tuple[int, dict, dict]:
            return send(running.port, "/v1/models", b"", "GET", **({"Authorization": f"Bearer {key}"} if key else {}))

        assert [asks(key)[0] for key in (None, None, None, None, "a", "b", "right", "c")] == [401] * 6 + [200, 401]
        for key in ("d", "right"):
            status, headers, body = asks(key)
            assert (status, body["error"]["code"]) == (429, "too_many_wrong_keys")
            assert 0 < int(headers["retry-after"]) <= 60
        assert send(running.port, "/health", b"", "GET")[0] == 200


def test_wrong_keys_are_counted_by_address_for_a_minute_in_bounded_memory(monkeypatch) -> None:
    monkeypatch.setattr(WrongKeys, "MAX_ADDRESSES", 5)
    now = [100.0]
    wrong = WrongKeys(2, lambda: now[0])
    for _ in range(2):
        assert wrong.wait_seconds("10.0.0.1") == 0
        wrong.add("10.0.0.1")
    wrong.add("2001:db8::1")
    wrong.add("2001:db8::2:1")
    assert wrong.wait_seconds("10.0.0.1") == 60 and wrong.wait_seconds("2001:db8::3") == 60
    assert wrong.wait_seconds("10.0.0.2") == 0 == wrong.wait_seconds("2001:db8:0:1::1")
    now[0] += 59.5
    assert wrong.wait_seconds("10.0.0.1") == 1
    now[0] += 1
    assert wrong.wait_seconds("10.0.0.1") == 0
    wrong.add("10.0.0.1")
    assert wrong.wait_seconds("10.0.0.1") == 0
    for i in range(100):
        wrong.add(f"10.0.1.{i}")
    assert len(wrong._tried) == 5


def test_a_page_elsewhere_cannot_ask(locked) -> None:
    key = {"Authorization": "Bearer first-key"}
    names = ("127.0.0.1", f"localhost:{locked.port}", "[::1]:80", "janus.test", "JANUS.TEST.:80")
    more = ("127.0.0.2:9", "127.255.255.254", "localhost.", "LOCALHOST:1", "[::ffff:127.0.0.1]", "a.localhost")
    for host in (*names, *more):
        assert send(locked.port, "/v1/models", b"", "GET", Host=host, **key)[0] == 200
    for host in (
        "evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example", "127.evil.example", "0.0.0.0",
        "localhost.evil.example", "127.0.0.1:80.evil.example", "notlocalhost", "[::2]", "10.0.0.1", "127.0.0.1..",
    ):  # fmt: skip
        status, _, body = send(locked.port, "/v1/models", b"", "GET", Host=host, **key)
        assert (status, body["error"]["code"]) == (403, "host_not_allowed")
    for origin in ("https://evil.example", "null", "http://[", f"http://127.0.0.1:{locked.port + 1}"):
        host = f"127.0.0.1:{locked.port}"
        status, _, body = send(locked.port, CHAT, chat_body(), Host=host, Origin=origin, **key)
        assert (status, body["error"]["code"]) == (403, "origin_not_allowed")
    assert send(locked.port, CHAT, chat_body(), Host=host, Origin=f"http://{host}", **key)[0] == 200
    for address in ("127.0.0.1", "127.0.0.2", "127.1.2.3", "::1", "localhost", "localhost."):
        assert is_local(address) and allowed_hosts(address, []) == ["localhost"]
    assert not any(map(is_local, ("0.0.0.0", "::", "192.168.1.1", "", "no such host")))
    assert allowed_hosts("0.0.0.0", []) == [] and allowed_hosts("0.0.0.0", ["a.test"]) == ["a.test"]


def test_a_log_line_names_the_key_and_the_error(locked) -> None:
    with logged(False) as lines:
        ask(locked.client("first-key"), "hello")
        send(locked.port, CHAT, chat_body(), Authorization="Bearer wrong")
        until(lambda: len(lines) == 2)
    assert "200" in lines[0] and "client=127.0.0.1 key=1" in lines[0] and "error=" not in lines[0]
    assert "401" in lines[1] and "error=invalid_api_key" in lines[1] and "first-key" not in "".join(lines)


def test_every_answer_has_the_headers_that_keep_a_browser_safe(served) -> None:
    for path, method in (("/", "GET"), ("/page/style.css", "GET"), ("/v1/models", "GET"), ("/nowhere", "GET")):
        _, headers, _ = send(served.port, path, b"", method)
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert "server" not in headers and "access-control-allow-origin" not in headers


def test_no_path_reaches_the_file_system(served, monkeypatch) -> None:
    opened = []
    original = os.open
    monkeypatch.setattr(os, "open", lambda path, *a, **k: opened.append(path) or original(path, *a, **k))
    for path in (
        "/page/../../cli.py", "/page/%2e%2e/app.py", "/page/..%2f..%2fcli.py", "/page//etc/passwd", "//etc/passwd",
        "/page/style.css/..", "/page/style.css%00.html", "/v1/models/../../etc/passwd", "/v1/models/%2fetc%2fpasswd",
        "/page/", "/page/__init__.py", "/docs", "/redoc",
    ):  # fmt: skip
        status, _, body = send(served.port, path, b"", "GET")
        assert status == 404 and "error" in body
    assert not opened
    assert set(FILES) >= {"/"} and all(path == "/" or path.startswith("/page/") for path in FILES)


@contextmanager
def logged(log_prompts: bool):
    lines: list[str] = []
    logger, handler = logging.getLogger("openjanus.serve"), logging.Handler()
    before = logger.handlers, logger.propagate, logger.level
    handler.emit = lambda record: lines.append(handler.format(record))
    try:
        log.set_up(log_prompts)
        logger.handlers = [handler]
        yield lines
    finally:
        logger.handlers, logger.propagate, logger.level = before
        log._privacy.log_prompts = False


@pytest.mark.parametrize("asked_for", [False, True])
def test_logs_hold_no_prompts_unless_asked_for(served, asked_for) -> None:
    with logged(asked_for) as lines:
        client = served.client()
        ask(client, "my secret\nquestion")
        client.images.generate(prompt="my secret drawing")
        send(served.port, CHAT, b'{"my secret')
        send(served.port, "/v1/models?q=secret", b"", "GET")
        deadline = time.monotonic() + 20
        while sum("/v1/" in line for line in lines) < 4:
            assert time.monotonic() < deadline
    text = "\n".join(lines)
    refused = next(line for line in lines if "POST /v1/chat/completions 400" in line)
    assert "client=127.0.0.1" in refused and "error=invalid_json" in refused and "key=" not in refused
    assert text.count("secret") == (2 if asked_for else 0)
    assert all(f"{line} " in text for line in ("POST /v1/chat/completions 200", "POST /v1/chat/completions 400"))
    assert not any("\n" in line for line in lines)


PRIVATE = [
    "127.0.0.1", "127.8.9.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "224.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.7", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0",
    "fc00::1", "fd12::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001::1",
    "ff02::1", "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_that_are(address) -> None:
    assert is_public(address)


def resolves_to(monkeypatch, *answers: list[str]) -> list[str]:
    """Each look-up of a name gives the next of these answers."""
    asked: list[str] = []

    def lookup(host, port, **_):
        asked.append(host)
        return [(0, 0, 0, "", (address, port)) for address in answers[min(len(asked), len(answers)) - 1]]

    monkeypatch.setattr(fetch.socket, "getaddrinfo", lookup)
    return asked


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch) -> None:
    resolves_to(monkeypatch, ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(ApiError, match="not a public address"):
        public_address("mixed.test", 80)
    resolves_to(monkeypatch, [])
    with pytest.raises(ApiError, match="not a public address"):
        public_address("none.test", 80)


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch) -> None:
    """A name that turns private after the check (rebinding) is not looked up again."""
    asked, connected = resolves_to(monkeypatch, ["8.8.8.8"], ["127.0.0.1"]), []

    def connect(address, timeout):
        connected.append(address)
        raise OSError

    monkeypatch.setattr(fetch.socket, "create_connection", connect)
    with pytest.raises(ApiError, match="could not be loaded"):
        fetch_picture("http://turns.test/a.png", 1000, 1)
    assert asked == ["turns.test"] and connected == [("8.8.8.8", 80)]


class Pictures(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1/secret")
            self.end_headers()
            return
        self.send_response(200)
        if self.path == "/slow-head":
            self.flush_headers()
            with suppress(OSError):
                for byte in b"X-Padding: " + b"x" * 60:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.1)
        self.end_headers()
        if self.path == "/large":
            self.wfile.write(b"x" * 100_000)
        elif self.path == "/slow":
            for _ in range(30):
                self.wfile.write(b"x")
                time.sleep(0.1)
        else:
            self.wfile.write(png())

    def log_message(self, *_: object) -> None:
        pass


def connect_to(address, timeout: float) -> socket.socket:
    it = socket.socket()
    it.settimeout(timeout)
    it.connect(address)
    return it


@pytest.fixture
def pictures(monkeypatch):
    """A host of pictures that passes for a public one, on the standard port as far as the fetcher knows."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()

    resolves_to(monkeypatch, ["8.8.8.8"])
    monkeypatch.setattr(
        fetch.socket, "create_connection", lambda _, timeout: connect_to(server.server_address, timeout)
    )
    yield "http://pictures.test"
    server.shutdown()
    server.server_close()


def test_a_remote_picture_is_loaded_within_bounds(pictures, engine) -> None:
    assert fetch_picture(f"{pictures}/a.png", 10_000, 5) == png()
    for path, words in (
        ("/redirect", "answered 302"),
        ("/large", "larger than 50,000"),
        ("/slow", "too slow"),
        ("/slow-head", "too slow"),
    ):
        started = time.monotonic()
        with pytest.raises(ApiError, match=words):
            fetch_picture(pictures + path, 50_000, 0.5)
        assert time.monotonic() - started < 2.5


def test_a_slow_look_up_of_a_name_counts(monkeypatch) -> None:
    monkeypatch.setattr(fetch.socket, "getaddrinfo", lambda *_, **__: time.sleep(3) or [])
    started = time.monotonic()
    with pytest.raises(ApiError, match="too slow"):
        fetch_picture("http://slow.test/a.png", 1000, 0.2)
    assert time.monotonic() - started < 2


def test_a_slow_tls_handshake_counts(monkeypatch) -> None:
    """A host that begins a record of TLS and sends the rest of it byte by byte."""
    with socket.create_server(("127.0.0.1", 0)) as host:

        def drip() -> None:
            with suppress(OSError), host.accept()[0] as it:
                it.sendall(b"\x16\x03\x03\x40\x00")
                for _ in range(60):
                    it.sendall(b"\x00")
                    time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        resolves_to(monkeypatch, ["8.8.8.8"])
        monkeypatch.setattr(
            fetch.socket, "create_connection", lambda _, timeout: connect_to(host.getsockname(), timeout)
        )
        started = time.monotonic()
        with pytest.raises(ApiError, match="too slow"):
            fetch_picture("https://slow.test/a.png", 1000, 0.5)
        assert time.monotonic() - started < 2.5


@pytest.mark.parametrize(
    "url",
    ["ftp://a.test/a", "http://a.test:8080/a", "http://u:p@a.test/a", "http:///a", "http://[/a", "https://a.test:80/"],
)
def test_odd_urls_are_refused_before_anything_is_looked_up(url, monkeypatch) -> None:
    asked = resolves_to(monkeypatch, ["8.8.8.8"])
    with pytest.raises(ApiError, match="URL"):
        fetch_picture(url, 1000, 1)
    assert not asked


def test_the_server_loads_remote_pictures_only_when_told_to(engine, monkeypatch) -> None:
    part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}
    with run_server(engine, remote_pictures=True) as running, pytest.raises(openai.BadRequestError) as error:
        ask(running.client(), [part])
    assert "not a public address" in str(error.value) and error.value.param == "messages.0.content.0.image_url"


def test_the_cache_takes_a_quarter_of_what_a_container_has_free(engine, monkeypatch) -> None:
    row_bytes = engine.model.language_model.make_cache(1, 192).num_bytes
    monkeypatch.setattr(service, "free_bytes", lambda: 4 * 10 * row_bytes)
    assert cache_size(engine) == (10, 192)


def test_limits_and_sizes_that_make_no_sense(engine) -> None:
    with pytest.raises(ValueError, match="max_waiting is 0"):
        Limits(max_waiting=0)
    with pytest.raises(ValueError, match="request_seconds is nan"):
        Limits(request_seconds=float("nan"))
    with pytest.raises(ValueError, match="positions is 1000, expected 1 to 192"):
        cache_size(engine, 2, 1000)
    with pytest.raises(ValueError, match="slots is 1"):
        cache_size(engine, 1)
    with pytest.raises(ValueError, match=r"slots is 100,000,000: .* GiB are free, which hold"):
        cache_size(engine, 100_000_000)
    slots, positions = cache_size(engine)
    assert positions == 192 and slots == 64
    assert Service(engine, ServerSettings()).fetch is None
