"""What a client is told when a request is not answered, in OpenAI's form and in text-generation-inference's."""

import math
from typing import Any

from vlmlab.generate.answers import NoAdapter, Overloaded, TooLong
from vlmlab.serve.decoders import Busy

TGI_PATHS = frozenset({"/", "/generate", "/generate_stream", "/info"})
"""Where errors have the form of text-generation-inference."""

_OPENAI = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_TGI = {429: "overloaded", 401: "authentication", 403: "permission"}


class Failed(Exception):
    """A request that is not answered: a status of HTTP, and words that may be shown to whoever sent it.

    `param` is the field at fault, `code` OpenAI's short name of the fault where it has one, `retry_after` the seconds
    after which the same may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        found = {}
        if self.retry_after is not None:
            found["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            found["WWW-Authenticate"] = "Bearer"
        return found

    def body(self, path: str) -> dict[str, Any]:
        """The answer's body, in the form that clients of this path read."""
        if path in TGI_PATHS:
            kind = _TGI.get(self.status, "validation" if self.status < 500 else "generation")
            return {"error": self.message, "error_type": kind}
        kind = _OPENAI.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def for_path(self, path: str) -> "Failed":
        """The same with the status that clients of this path expect: text-generation-inference says 422 for 400."""
        if path in TGI_PATHS and self.status == 400:
            return Failed(422, self.message, self.param, self.code, self.retry_after)
        return self


def failed(error: Exception) -> Failed | None:
    """An error of the engine or of the pictures as what the client is told; None for one that nobody foresaw."""
    if isinstance(error, Failed):
        return error
    if isinstance(error, Overloaded):
        return Failed(429, str(error), code="overloaded", retry_after=error.retry_after)
    if isinstance(error, Busy):
        return Failed(429, str(error), code="overloaded", retry_after=1.0)
    if isinstance(error, TooLong):
        return Failed(400, str(error), code="context_length_exceeded")
    if isinstance(error, NoAdapter):
        return Failed(404, str(error), code="model_not_found")
    if isinstance(error, ValueError):
        return Failed(400, str(error))
    return None
