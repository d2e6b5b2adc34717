"""Pages: one to talk with the model, a client of the API like any other; and one that lists every route and field."""

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

# The page runs its own script, speaks with this server, shows pictures that were given to it, and nothing else.
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data: blob:; style-src 'unsafe-inline'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def routes() -> APIRouter:
    """The page and its script."""
    router = APIRouter(include_in_schema=False)

    @router.get("/chat")
    async def page() -> Response:
        """The page."""
        return _file("chat.html", "text/html; charset=utf-8")

    @router.get("/chat.js")
    async def script() -> Response:
        """Its script."""
        return _file("chat.js", "text/javascript; charset=utf-8")

    return router


def _file(name: str, kind: str) -> Response:
    return told(Path(__file__).with_name(name).read_text(encoding="utf-8"), kind)


def told(text: str, kind: str) -> Response:
    """A page, or part of one, that may do only what it must."""
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return Response(text, media_type=kind, headers=headers)


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:1rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td{border-top:1px solid #8884;padding:.2rem .8rem .2rem 0;vertical-align:top}"
)


def reference(described: dict[str, Any]) -> str:
    """A page that tells what an OpenAPI description holds: every route, and every field of what it takes."""
    schemas = described.get("components", {}).get("schemas", {})
    lines = [f"<!doctype html><html lang=en><meta charset=utf-8><title>vlmlab</title><style>{STYLE}</style>"]
    about = html.escape(described["info"].get("description", ""))
    lines.append(f"<h1>vlmlab {html.escape(described['info']['version'])}</h1><p>{about}")
    lines.append('<p>For programs: <a href="/openapi.json">/openapi.json</a>')
    for path, ways in described["paths"].items():
        for method, way in ways.items():
            lines.append(f"<h2>{method.upper()} {html.escape(path)}</h2><p>{html.escape(way.get('description', ''))}")
            body = way.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            if body:
                lines.append(f"<p>Takes {_link(body)}")
    for name, schema in schemas.items():
        shown = html.escape(name)
        lines.append(f"<h3 id={shown}>{shown}</h3><p>{html.escape(schema.get('description', ''))}<table>")
        for field, kind in schema.get("properties", {}).items():
            needed = " (needed)" if field in schema.get("required", []) else ""
            told_of = html.escape(kind.get("description", ""))
            lines.append(f"<tr><td>{html.escape(field)}{needed}<td>{_link(kind)}<td>{told_of}")
        lines.append("</table>")
    return "\n".join(lines)


def _link(kind: dict[str, Any]) -> str:
    return " or ".join(dict.fromkeys(_kinds(kind)))


def _kinds(kind: dict[str, Any]) -> Iterator[str]:
    """What a value may be, with what bounds it, in HTML."""
    if "$ref" in kind:
        name = html.escape(kind["$ref"].rsplit("/", 1)[-1])
        yield f'<a href="#{name}">{name}</a>'
    elif "enum" in kind or "const" in kind:
        yield ", ".join(html.escape(str(value)) for value in kind.get("enum", [kind.get("const")]))
    elif kind.get("type") == "array":
        yield f"list of {_link(kind.get('items', {})) or 'anything'}"
    elif "type" in kind:
        bounds = {"minimum": "from", "maximum": "to", "exclusiveMinimum": "above", "exclusiveMaximum": "below"}
        yield " ".join([kind["type"], *(f"{word} {kind[key]}" for key, word in bounds.items() if key in kind)])
    for one in [*kind.get("anyOf", []), *kind.get("oneOf", [])]:
        yield from _kinds(one)
