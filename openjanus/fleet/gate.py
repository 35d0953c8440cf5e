"""Middleware before vLLM's API (`--middleware`): the guard of `openjanus serve`, and a list of open paths.

vLLM has many more endpoints. Some take a prompt as ids, so a client could write the id that begins a drawing. Only
endpoints that are known to be safe are open.
"""

from collections.abc import MutableMapping
from typing import Any

from openjanus.fleet.settings import FleetSettings
from openjanus.serve import log
from openjanus.serve.errors import ApiError
from openjanus.serve.guard import App, Guard, Keys, Receive, Send
from openjanus.serve.hosts import allowed_hosts
from openjanus.serve.keys import read_keys
from openjanus.serve.metrics import Metrics

OPEN = {"/v1/chat/completions", "/v1/images/generations", "/v1/models", "/health", "/metrics", "/version"}


class Gate(Guard):
    """API keys, limits on bodies and on requests in flight, hosts and headers, as in serve/guard.py."""

    def __init__(self, app: App):
        s = FleetSettings.from_environment().server
        log.set_up(s.log_prompts)
        hosts = allowed_hosts(s.host, s.allow_host)
        super().__init__(_only_open(app), s.limits, Metrics(), Keys(read_keys(s.api_keys)), hosts)


def _only_open(app: App) -> App:
    async def call(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http" and scope["path"] not in OPEN:
            raise ApiError(404, "there is nothing at this address")
        else:
            await app(scope, receive, send)

    return call
