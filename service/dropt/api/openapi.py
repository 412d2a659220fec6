"""The OpenAPI document: 3.2, every failure a `Problem`."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from dropt.api.scopes import is_open
from dropt.spec.problem import Problem

VERSION = "3.2.0"  # the event stream will need `itemSchema`
REF_TEMPLATE = "#/components/schemas/{model}"
TAGS = [
    {"name": "jobs", "description": "Submit a job, follow it, cancel it."},
    {"name": "answers", "description": "What a job found, and how."},
    {"name": "data sets", "description": "What a job may train on."},
    {"name": "models and workers", "description": "Who can train what."},
    {"name": "worker protocol", "description": "What a trainer in any language must speak."},
    {"name": "keys", "description": "Who may ask, and for what."},
    {"name": "operation", "description": "Is it alive, is it ready, what is it."},
]


def describe(app: FastAPI) -> dict[str, Any]:
    """The document; built once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, openapi_version=VERSION, summary=app.summary,
            routes=app.routes, tags=TAGS,
            servers=[{"url": "/"}], license_info=app.license_info,
        )  # fmt: skip
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        problem = Problem.model_json_schema(ref_template=REF_TEMPLATE)
        schemas.update(problem.pop("$defs", {}))
        schemas["Problem"] = problem | {"additionalProperties": True}
        _require_key(document)
        app.openapi_schema = document
    return app.openapi_schema


def _require_key(document: dict[str, Any]) -> None:
    """Say which operations need a key: all that the guard does not answer to anybody."""
    document["components"]["securitySchemes"] = {
        "key": {
            "type": "http", "scheme": "bearer",
            "description": "`dropt_...`; none is needed on this machine until one was made.",
        }
    }  # fmt: skip
    document["security"] = [{"key": []}]
    for path, operations in document["paths"].items():
        if is_open(path):
            for operation in operations.values():
                operation["security"] = []
