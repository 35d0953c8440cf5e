"""The load test meets the same engine as the server's own tests."""

from tests.serve.conftest import engine  # noqa: F401  (a fixture)
