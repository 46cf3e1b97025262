"""The OpenAPI document as one plain page: no script, no address."""

from __future__ import annotations

import html
import json
from typing import Any


def docs_page(openapi: dict[str, Any]) -> str:
    """The OpenAPI document as one plain page: no script, no address."""
    schemas = openapi["components"]["schemas"]

    def example(content: dict[str, Any]) -> str:
        ref = content.get("application/json", {}).get("schema", {}).get("$ref", "")
        examples = schemas.get(ref.rsplit("/", 1)[-1], {}).get("examples", [])
        return f"<pre>{html.escape(json.dumps(examples[0], indent=2))}</pre>" if examples else ""

    parts = []
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            parts.append(
                f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(operation['summary'])}.</p>"
            )
            if about := operation.get("description"):
                parts.append(f"<p>{html.escape(about)}</p>")
            if sent := example(operation.get("requestBody", {}).get("content", {})):
                parts.append(f"<p>Send</p>{sent}")
            if received := example(operation["responses"]["200"].get("content", {})):
                parts.append(f"<p>Answer</p>{received}")
    errors = example({"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}})
    style = "body{font:16px/1.5 sans-serif;max-width:52rem;margin:2rem auto}pre{background:#f4f4f4;padding:.7rem}"
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>raystore</title><style>{style}</style>"
        f"<h1>raystore {html.escape(openapi['info']['version'])}</h1><p>The document itself: <a href='/openapi.json'>"
        f"/openapi.json</a>. The examples are invented.</p>{''.join(parts)}<h2>Errors</h2>{errors}</html>"
    )
