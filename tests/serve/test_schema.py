"""Requests made at random from the OpenAPI schema: whatever they hold, the server answers, and never with a 5xx."""

import hypothesis
import pytest
import schemathesis

from serve import server
from vlmlab.serve.media import Pictures, Policy
from vlmlab.serve.service import Limits

CASES = 12
"""For each route."""


PATHS = {"/", "/generate", "/v1/chat/completions", "/v1/completions", "/v1/vlmlab/attention"}


@pytest.fixture(scope="module")
def talking(decoders):
    with server.serving(Pictures(Policy(), decoders), Limits(chat=True, drain_seconds=5.0)) as one:
        yield one


def test_no_request_meets_a_server_error(talking):
    described = schemathesis.openapi.from_url(talking.url + "/openapi.json")
    operations = [result.ok() for result in described.get_all_operations()]
    assert {operation.path for operation in operations} >= PATHS
    for operation in operations:
        meet(operation.as_strategy())


def test_nor_where_adapters_come_and_go(decoders, tmp_path):
    with server.serving(Pictures(Policy(), decoders), Limits(adapters_from=tmp_path)) as served:
        described = schemathesis.openapi.from_url(served.url + "/openapi.json").include(path_regex="lora_adapter")
        operations = [result.ok() for result in described.get_all_operations()]
        assert {operation.path for operation in operations} == {"/v1/load_lora_adapter", "/v1/unload_lora_adapter"}
        for operation in operations:
            meet(operation.as_strategy())


def meet(cases):
    @hypothesis.given(case=cases)
    @hypothesis.settings(max_examples=CASES, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    def ask(case):
        if isinstance(case.body, dict):
            let_in(case.body, case.path)
        answer = case.call(timeout=60)
        assert answer.status_code < 500, (case.method, case.path, answer.status_code, answer.text)

    ask()


def let_in(body, path):
    """Name the model, so that the request goes further than the first check; and keep its answer short."""
    if isinstance(body.get("model"), str):
        body["model"] = server.NAME
        if path != "/v1/vlmlab/attention":  # its answer is there already
            body["max_tokens"] = 3
            body.pop("max_completion_tokens", None)
    if isinstance(body.get("parameters"), dict):
        body["parameters"]["max_new_tokens"] = 3
