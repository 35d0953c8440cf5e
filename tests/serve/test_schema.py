"""The API's own schema against the running server: whatever fits it, or just does not, never ends in a 5xx."""

from dataclasses import replace

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from openjanus.inference.engine import Engine
from openjanus.serve.limits import Limits
from tests import tiny
from tests.serve.conftest import run_server

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]
OPERATIONS = [
    ("POST", "/v1/chat/completions"), ("POST", "/v1/responses"), ("POST", "/v1/images/generations"),
    ("POST", "/v1/images/edits"), ("GET", "/v1/responses/{id}"), ("DELETE", "/v1/responses/{id}"),
    ("GET", "/v1/models"), ("GET", "/v1/models/{model}"), ("GET", "/health"), ("GET", "/ready"), ("GET", "/metrics"),
]  # fmt: skip

POSTS = OPERATIONS[:4]


@pytest.fixture(scope="module")
def schema():
    engine = Engine(replace(tiny.checkpoint(), tasks=("talk", "draw", "edit")))
    with run_server(engine, Limits(max_n=2, max_new_tokens=16)) as running:
        yield schemathesis.openapi.from_url(f"{running.url}/openapi.json")


def check(schema, method: str, path: str, mode: GenerationMode, num: int) -> None:
    answered = []

    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    @settings(
        max_examples=num,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(case) -> None:
        response = case.call(timeout=60)
        answered.append(response.status_code)
        case.validate_response(response, checks=CHECKS)

    run()
    assert answered


def test_every_operation_is_known(schema) -> None:
    found = {(result.ok().method.upper(), result.ok().path) for result in schema.get_all_operations()}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_right_request_ends_in_a_5xx(schema, method, path) -> None:
    check(schema, method, path, GenerationMode.POSITIVE, 25 if method == "POST" else 3)


@pytest.mark.parametrize(("method", "path"), POSTS)
def test_no_wrong_request_ends_in_a_5xx(schema, method, path) -> None:
    check(schema, method, path, GenerationMode.NEGATIVE, 25)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), POSTS)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_ends_in_a_5xx_at_length(schema, method, path, mode) -> None:
    check(schema, method, path, mode, 1000)
