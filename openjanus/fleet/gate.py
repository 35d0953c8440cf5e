"""What stands before vLLM's API: the guard of `openjanus serve`, and few doors (`--middleware`).

vLLM answers at many more addresses, some of which take a prompt as ids: they would let a client write the id that
begins a drawing. Only those that are known to be safe are open.
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
    """API keys, bounds on bodies and requests in flight, hosts and headers as in serve/guard.py."""

    def __init__(self, app: App):
        s = FleetSettings.from_environment().server
        log.set_up(s.log_prompts)
        hosts = allowed_hosts(s.host, s.allow_host)
        super().__init__(_doors(app), s.limits, Metrics(), Keys(read_keys(s.api_keys)), hosts)


def _doors(app: App) -> App:
    async def through(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http" and scope["path"] not in OPEN:
            raise ApiError(404, "there is nothing at this address")
        else:
            await app(scope, receive, send)

    return through
