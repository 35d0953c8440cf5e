"""A Ray Serve deployment of many embedded engines behind one address (`--engine ray`).

    client ─► Ray's proxy ─► replica: `openjanus serve` without its socket, on its own CPUs and GPUs

Ray balances requests over replicas, and each replica batches its requests. Replicas are independent, so their number
may change at any time. An answer does not depend on the replica.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from openjanus.serve import log
from openjanus.serve.app import make_app
from openjanus.serve.guard import Guard, Keys
from openjanus.serve.hosts import allowed_hosts
from openjanus.serve.keys import read_keys
from openjanus.serve.server import warn_if_open
from openjanus.serve.service import Service
from openjanus.serve.settings import ServerSettings
from openjanus.source import ModelSource


def make_deployment(
    source: ModelSource, s: ServerSettings, replicas: int = 2, num_cpus: float = 1, num_gpus: float = 0
) -> Any:
    """An application for `ray.serve.run`. num_cpus, num_gpus: of each replica."""
    from ray import serve

    keys = Keys(read_keys(s.api_keys))  # digests only: the keys themselves stay in this process
    hosts = allowed_hosts(s.host, s.allow_host)

    @serve.deployment(
        name="openjanus",
        num_replicas=replicas,
        max_ongoing_requests=s.limits.max_waiting + s.limits.max_in_flight,
        ray_actor_options={"num_cpus": num_cpus, "num_gpus": num_gpus},
        graceful_shutdown_timeout_s=s.grace_seconds,
    )
    @serve.ingress(_builder(source, s, keys, hosts))
    class Replica:
        pass

    return Replica.bind()  # type: ignore[attr-defined]


def _builder(source: ModelSource, s: ServerSettings, keys: Keys, hosts: list[str]) -> Callable[[], Guard]:
    def build() -> Guard:
        log.set_up(s.log_prompts)
        return make_app(Service(source.load(), s), keys, hosts)

    return build


def run_replicas(source: ModelSource, s: ServerSettings, replicas: int) -> None:
    """Serves until Ctrl-C, on the Ray cluster at RAY_ADDRESS or on a new local one.

    Raises ValueError if ray is not installed.
    """
    try:
        import ray
        from ray import serve
    except ImportError:
        raise ValueError("ray is not installed: pip install 'openjanus[ray]'") from None
    application = make_deployment(source, s, replicas, num_gpus=float(torch.cuda.is_available()))
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=True)
    serve.start(http_options={"host": s.host, "port": s.port})
    log.set_up(s.log_prompts)
    warn_if_open(s)
    serve.run(application, name=s.name, route_prefix="/")
    log.logger.info("%s on http://%s:%d (%d replicas)", s.name, s.host, s.port, replicas)
    try:
        while True:
            time.sleep(3600)
    finally:
        serve.shutdown()
