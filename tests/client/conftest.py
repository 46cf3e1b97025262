from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.service import Service, running


@pytest.fixture
def service() -> Iterator[Service]:
    found = Service()
    with running(found) as url:
        found.url = url
        yield found
