"""The server's application: every route, behind the guard."""

import asyncio
import contextlib
import importlib.metadata
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from vlmlab.generate.answers import Overloaded
from vlmlab.serve import adapters, attention, openai, page, tgi
from vlmlab.serve.decoders import Busy
from vlmlab.serve.failures import Failed
from vlmlab.serve.guard import guarded
from vlmlab.serve.service import Gone, Service

ABOUT = "Answers about pictures, by OpenAI's API and text-generation-inference's. See docs/serve.md."


def create(service: Service) -> FastAPI:
    """The application of a service. Its engine is started when the application starts, and closed when it ends."""

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(service.open)
        try:
            yield
        finally:
            service.close()

    version = importlib.metadata.version("vlmlab")
    app = FastAPI(title="vlmlab", version=version, description=ABOUT, lifespan=life, docs_url=None, redoc_url=None)
    app.include_router(openai.routes(service))
    app.include_router(tgi.routes(service))

    @app.get("/health", tags=["Server"])
    async def health() -> JSONResponse:
        """200 when the server answers as it should; 503 when it is stopping, or failed its self-test."""
        good, told = service.health()
        return JSONResponse(told, 200 if good else 503)

    @app.get("/metrics", tags=["Server"])
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4")

    if service.limits.adapters_from is not None:
        app.include_router(adapters.routes(service, service.limits.adapters_from))
    if service.limits.chat:
        app.include_router(page.routes())
        app.include_router(attention.routes(service))

    @app.get("/docs", include_in_schema=False)
    async def reference() -> Response:
        """The same, to be read."""
        return page.told(page.reference(app.openapi()), "text/html; charset=utf-8")

    _tell_errors(app, service)
    app.add_middleware(guarded, door=service, paths=paths(app))
    return app


def paths(app: FastAPI) -> list[str]:
    """The routes of an application that its schema tells of."""
    return [str(path) for path in app.openapi()["paths"]]


def _tell_errors(app: FastAPI, service: Service) -> None:
    """Errors in the form that the clients of a path read."""

    async def tell(request: Request, error: Exception) -> Response:
        path = request.url.path
        told = service.failed(error).for_path(path)
        return JSONResponse(told.body(path), told.status, told.headers)

    async def tell_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await tell(request, _invalid(error))

    async def tell_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, Failed):  # the guard's, while the request was read
            return await tell(request, error.__cause__)
        told = str(error.detail)
        if error.status_code == 404:
            told = f"there is no {request.method} {request.url.path[:200]} here; see /openapi.json"
        response = await tell(request, Failed(error.status_code, told))
        response.headers.update(error.headers or {})
        return response

    async def tell_gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    app.add_exception_handler(RequestValidationError, tell_invalid)
    app.add_exception_handler(HTTPException, tell_http)
    app.add_exception_handler(Gone, tell_gone)
    for kind in (Failed, Overloaded, Busy, ValueError):  # the guard tells of the others
        app.add_exception_handler(kind, tell)


def _invalid(error: RequestValidationError) -> Failed:
    """What is wrong with a request's fields: the deepest of them, by its path, without what it held."""
    found: list[dict[str, Any]] = list(error.errors())
    first = max(found, key=lambda one: len(one["loc"]))
    if first.get("type") == "json_invalid":
        return Failed(400, f"the request is not valid JSON: {first.get('ctx', {}).get('error', '')}".rstrip(": "))
    # The names of alternatives, `list[...]` and the like, are none that a client knows.
    path = ".".join(str(part) for part in first["loc"] if part not in ("body", "str") and "[" not in str(part))
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    if first.get("type") == "extra_forbidden":
        return Failed(
            400, f"there is no field {path[:200]!r}{more}; see /openapi.json", path[:200], "unknown_parameter"
        )
    return Failed(400, f"{path[:200] or 'the request'}: {first['msg'][:500]}{more}", path[:200] or None)
