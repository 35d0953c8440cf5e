"""A browser, and a page of a server with a tiny model. Imports are late: without a browser the tests are skipped."""

from collections.abc import Iterator

import pytest

from tests.serve.conftest import Running, run_server


@pytest.fixture(scope="session")
def browser() -> Iterator:
    from tests.serve.page.browsing import start_browser

    with start_browser() as found:
        yield found


@pytest.fixture(scope="module")
def server(engine) -> Iterator[Running]:
    with run_server(engine) as running:
        yield running


@pytest.fixture
def page(browser, server) -> Iterator:
    from tests.serve.page.browsing import opened

    with opened(browser, server) as it:
        yield it
