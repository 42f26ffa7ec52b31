"""The API's reference page, rendered here from the OpenAPI document: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

router = APIRouter(include_in_schema=False)

STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8882; --accent: #3b6fd4; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); text-transform: capitalize; }
code, pre { font: 0.875rem/1.5 ui-monospace, monospace; }
pre { background: var(--soft); padding: 0.75rem 1rem; overflow-x: auto; border-radius: 6px; }
details { border: 1px solid var(--line); border-radius: 6px; margin: 0.5rem 0; padding: 0.5rem 1rem; }
summary { cursor: pointer; }
summary code { font-weight: 600; }
.method { display: inline-block; min-width: 4.5rem; color: var(--accent); }
table { border-collapse: collapse; width: 100%; margin: 0.5rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.75rem 0.3rem 0; border-top: 1px solid var(--line); }
"""


@router.get("/docs")
async def show_reference(request: Request) -> HTMLResponse:
    return HTMLResponse(page(request.app.openapi()))


@router.get("/docs.css")
async def show_style() -> Response:
    return Response(STYLE, media_type="text/css")


def page(document: Mapping[str, Any]) -> str:
    """The whole reference as HTML."""
    groups: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tag = (operation.get("tags") or ["other"])[0]
            groups.setdefault(tag, []).append(_operation(path, method, operation))
    sections = "".join(
        f'<section><h2 id="{escape(tag.replace(" ", "-"))}">{escape(tag)}</h2>{"".join(operations)}</section>'
        for tag, operations in groups.items()
    )
    info = document["info"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Kizashi API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="/docs.css"></head><body><main>'
        f"<h1>{escape(info['title'])}</h1><p>{escape(info['summary'])}</p>{_prose(info['description'])}"
        '<p>The same for machines: <a href="/openapi.json">openapi.json</a></p>'
        f"{sections}</main></body></html>"
    )


def _prose(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n"))


def _inline(text: str) -> str:
    """Escaped, with `code` between backticks."""
    parts = text.split("`")
    return "".join(f"<code>{escape(part)}</code>" if index % 2 else escape(part) for index, part in enumerate(parts))


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    body = _prose(operation.get("description", ""))
    rows = "".join(_parameter(parameter) for parameter in operation.get("parameters", ()))
    if rows:
        body += f"<h3>Parameters</h3><table><tbody>{rows}</tbody></table>"
    body += "".join(_body(operation.get("requestBody", {})))
    answers = "".join(
        f"<tr><th><code>{escape(status)}</code></th><td>{_inline(answer['description'])}{_schema_link(answer)}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    return (
        f'<details><summary><code><span class="method">{method.upper()}</span>{escape(path)}</code> '
        f"{escape(operation.get('summary', ''))}</summary>{body}"
        f"<h3>Answers</h3><table><tbody>{answers}</tbody></table></details>"
    )


def _parameter(parameter: Mapping[str, Any]) -> str:
    need = "required" if parameter.get("required") else parameter["in"]
    return (
        f"<tr><th><code>{escape(parameter['name'])}</code></th><td>{need}</td>"
        f"<td>{_inline(parameter.get('description', ''))} <code>{escape(_type(parameter['schema']))}</code></td></tr>"
    )


def _type(schema: Mapping[str, Any]) -> str:
    """In a few words: its values, its type, or its parts."""
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(part for part in map(_type, schema["anyOf"]) if part != "null")
    if schema.get("type") == "array":
        return f"{_type(schema['items'])} (repeatable)"
    kind = str(schema.get("format", schema.get("type", "")))
    return kind + (f" = {schema['default']}" if schema.get("default") not in (None, [], "") else "")


def _body(request_body: Mapping[str, Any]) -> Iterator[str]:
    for media_type, content in request_body.get("content", {}).items():
        yield f"<h3>Body <code>{escape(media_type)}</code></h3>"
        if "example" in content:
            pretty = msgspec.json.format(msgspec.json.encode(content["example"]), indent=2).decode()
            yield f"<pre>{escape(pretty)}</pre>"


def _schema_link(answer: Mapping[str, Any]) -> str:
    references = [
        content["schema"]["$ref"].rsplit("/", 1)[-1]
        for content in answer.get("content", {}).values()
        if "$ref" in content.get("schema", {})
    ]
    return "".join(f" <code>{escape(name)}</code>" for name in references)
