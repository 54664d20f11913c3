"""Every field and parameter of the API is described in the OpenAPI document."""

from __future__ import annotations

from docs.generate import operations
from sidecar.http import openapi


def test_every_property_has_a_description() -> None:
    schemas = openapi.document(operations())["components"]["schemas"]
    assert schemas
    missing = [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, kind in schema.get("properties", {}).items()
        if not kind.get("description")
    ]
    assert not missing


def test_every_struct_has_a_description() -> None:
    schemas = openapi.document(operations())["components"]["schemas"]
    assert not [name for name, schema in schemas.items() if not schema.get("description")]


def test_every_parameter_has_a_description() -> None:
    missing = [
        f"{path} {parameter['name']}"
        for path, methods in openapi.document(operations())["paths"].items()
        for operation in methods.values()
        for parameter in operation.get("parameters", [])
        if not parameter.get("description")
    ]
    assert not missing
