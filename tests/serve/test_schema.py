"""Requests made at random from the OpenAPI schema: whatever they hold, the server answers, and never with a 5xx."""

import hypothesis
import pytest
import schemathesis

CASES = 40
"""For each route; `VLMLAB_CASES` of the environment would make the test depend on where it runs."""


@pytest.fixture(scope="module")
def described(served):
    return schemathesis.openapi.from_url(served.url + "/openapi.json")


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@hypothesis.settings(max_examples=CASES, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
def test_no_request_meets_a_server_error(case):
    answer = case.call(timeout=60)
    assert answer.status_code < 500, (answer.status_code, answer.text)
