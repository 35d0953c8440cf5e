"""The load test tells right answers from wrong and lost ones."""

import json

import pytest

from openjanus.bench import load
from openjanus.bench.load import Client, Load, measure, mix
from openjanus.cli import main
from tests.serve.conftest import run_server, until
from tests.serve.test_faults import CHAT, chat_body


def test_a_sound_server_gives_every_answer(engine) -> None:
    with run_server(engine, slots=12) as running:
        requests = [Load(r.path, r.body.replace('"max_tokens": 128', '"max_tokens": 8')) for r in mix(6)]
        report = measure(running.url, requests, clients=6, seconds=1.5)
        running.settles()
    assert report.answers >= 6 and (report.wrong, report.lost) == (0, 0)
    assert report.load_per_second == pytest.approx(report.answers / report.seconds)
    assert len(report.memory_mib) == 10 and report.memory_mib[0] > 10
    assert "0 wrong, 0 lost" in str(report)


def test_the_mix_has_both_kinds_streamed_and_not() -> None:
    bodies = [(request.path, json.loads(request.body)) for request in mix(16)]
    assert {(path, body["stream"]) for path, body in bodies} == {(p, s) for p in (load.CHAT, load.DRAW) for s in (0, 1)}
    assert len({request.body for request in mix(16)}) == 16


def test_wrong_and_lost_answers_are_counted(engine, tmp_path, monkeypatch) -> None:
    """Unseeded answers differ; a request that the server refuses is lost; a full server is asked again."""
    with run_server(engine) as running:
        chance = Load(CHAT, json.dumps(chat_body(temperature=1.0)))
        report = measure(running.url, [chance, chance], clients=2, seconds=0.5)
        assert report.wrong > 0 and report.lost == 0
        client = Client(running.url)
        judged = [load._judge(client, Load(CHAT, "{}"), "right")]
        running.service.worker.num_waiting += 1000
        judged.append(load._judge(client, chance, "right"))
        running.service.worker.num_waiting -= 1000
        assert judged == ["lost", "refused"]
        client.close()
        assert load._judge(Client("http://127.0.0.1:9"), chance, "right") == "lost"
        monkeypatch.setattr(load, "mix", lambda num: [chance] * num)
        with pytest.raises(SystemExit) as stop:
            words = ["--minutes", "0.01", "--clients", "2", "--requests", "2", "--out", str(tmp_path / "report.json")]
            main(["bench", "serve", "--url", running.url, *words])
        assert stop.value.code == 2
        assert json.loads((tmp_path / "report.json").read_text())["wrong"] > 0


def test_a_client_keeps_its_connection_and_makes_a_new_one_if_the_server_closed_it(engine) -> None:
    request = Load(CHAT, json.dumps(chat_body(max_tokens=2)))
    with run_server(engine) as running:
        client = Client(running.url)
        first = client.answer(request)
        assert first[0] == 200 and client.answer(request) == first and client.memory_mib() > 10
        assert client.num_connections == 1
        for connection in list(running.server.server_state.connections):
            running.loop.call_soon_threadsafe(connection.transport.close)
        until(lambda: not running.server.server_state.connections)
        assert client.answer(request) == first
        assert client.num_connections == 2
        client.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('data: {"choices": [{"delta": {"content": "a"}}]}\n\n', "broke off"),
        ('data: {"error": {"message": "no"}}\n\n', "ended with an error"),
    ],
)
def test_a_stream_that_breaks_off_is_no_answer(text, words) -> None:
    with pytest.raises(ValueError, match=words):
        load._of_stream(text)


def test_bench_is_a_group_of_commands(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--help"])
    assert stop.value.code == 0 and "serve" in capsys.readouterr().out
