"""The protocol's messages for gRPC, made of `open_inference.proto` as it lies beside this file.

They live in a pool of descriptors of their own: a program that has another copy of the protocol
loaded (tritonclient, kserve) would otherwise be refused the same names twice.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["METHODS", "SERVICE", "messages"]

_FILE = Path(__file__).with_name("open_inference.proto")
_TOKEN = re.compile(r"//[^\n]*|\w+(?:\.\w+)*|<|>|[{}();=,]|\"[^\"]*\"")
SERVICE = "inference.GRPCInferenceService"
METHODS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
)


@cache
def messages() -> dict[str, Any]:
    """The message classes by name."""
    pool = importlib.import_module("google.protobuf.descriptor_pool").DescriptorPool()
    factory = importlib.import_module("google.protobuf.message_factory")
    made = _Parser(_FILE.read_text(encoding="utf-8")).file()
    pool.Add(made)
    found = [message.name for message in made.message_type]
    return {
        name: factory.GetMessageClass(pool.FindMessageTypeByName(f"{made.package}.{name}"))
        for name in found
    }


class _Parser:
    """As much of the language as that file has: messages in messages, fields, maps, one-ofs."""

    def __init__(self, text: str) -> None:
        found = (m[0] for m in _TOKEN.finditer(text))
        self._tokens = [t for t in found if not t.startswith("//")]
        self._at = 0
        self._pb = importlib.import_module("google.protobuf.descriptor_pb2")
        self._kinds = self._pb.FieldDescriptorProto

    def _next(self, *expected: str) -> str:
        token = self._tokens[self._at]
        assert not expected or token in expected, (token, expected)
        self._at += 1
        return token

    def file(self) -> Any:
        """The file's descriptor."""
        made = self._pb.FileDescriptorProto(name=_FILE.name, syntax="proto3")
        while self._at < len(self._tokens):
            kind = self._next("syntax", "package", "service", "message")
            if kind == "syntax":
                self._next("=")
                self._next('"proto3"')
                self._next(";")
            elif kind == "package":
                made.package = self._next()
                self._next(";")
            elif kind == "service":
                self._skip_service()
            else:
                self._message(made.message_type.add(), f".{made.package}")
        return made

    def _skip_service(self) -> None:
        """gRPC is told of the methods by name."""
        self._next()
        depth = 0
        while True:
            token = self._next()
            depth += (token == "{") - (token == "}")
            if depth == 0 and token == "}":
                return

    def _message(self, made: Any, scope: str) -> None:
        made.name = self._next()
        scope = f"{scope}.{made.name}"
        self._next("{")
        while (token := self._next()) != "}":
            if token == "message":
                self._message(made.nested_type.add(), scope)
            elif token == "oneof":
                made.oneof_decl.add(name=self._next())
                self._next("{")
                while (kind := self._next()) != "}":
                    self._field(made, kind, scope, oneof=len(made.oneof_decl) - 1)
            elif token == "map":
                self._map(made, scope)
            elif token == "repeated":
                self._field(made, self._next(), scope, repeated=True)
            else:
                self._field(made, token, scope)

    def _field(
        self, made: Any, kind: str, scope: str, *, repeated: bool = False, oneof: int | None = None
    ) -> None:
        name = self._next()
        self._next("=")
        label = self._kinds.LABEL_REPEATED if repeated else self._kinds.LABEL_OPTIONAL
        field = made.field.add(name=name, number=int(self._next()), label=label)
        self._next(";")
        if oneof is not None:
            field.oneof_index = oneof
        self._typed(field, kind, made, scope)

    def _typed(self, field: Any, kind: str, made: Any, scope: str) -> None:
        known = getattr(self._kinds, f"TYPE_{kind.upper()}", None)
        if known is not None:
            field.type = known
            return
        field.type = self._kinds.TYPE_MESSAGE
        nested = any(inner.name == kind for inner in made.nested_type)
        field.type_name = f"{scope}.{kind}" if nested else f".{scope.split('.')[1]}.{kind}"

    def _map(self, made: Any, scope: str) -> None:
        self._next("<")
        key = self._next()
        self._next(",")
        value = self._next()
        self._next(">")
        name = self._next()
        entry = made.nested_type.add(name=name.title().replace("_", "") + "Entry")
        entry.options.map_entry = True
        for number, (part, kind) in enumerate((("key", key), ("value", value)), 1):
            field = entry.field.add(name=part, number=number, label=self._kinds.LABEL_OPTIONAL)
            self._typed(field, kind, entry, f"{scope}.{entry.name}")
        self._next("=")
        field = made.field.add(
            name=name, number=int(self._next()), label=self._kinds.LABEL_REPEATED
        )
        self._next(";")
        field.type = self._kinds.TYPE_MESSAGE
        field.type_name = f"{scope}.{entry.name}"
