"""A part's table: its columns, and its rows written a group at a time."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from .maps import MapColumns
from .members import parquet

__all__ = ["Table", "empty", "schema_of", "table_in"]

# Rows that wait to be written: as many as are one group of a part, or fill so many bytes.
_ROWS, _BYTES = 256, 1 << 25
# Statistics of maps help nobody; checksums tell a damaged page.
_HOW = {"compression": "ZSTD", "use_dictionary": ["name"], "write_statistics": ["key", "class"],
        "write_page_checksum": True}  # fmt: skip


def schema_of(
    maps: Sequence[MapColumns], shapes: Mapping[str, tuple[int, ...]], told_apart: bool
) -> Any:
    """The columns, as pyarrow has them. shapes: of a map, by its method. told_apart: whether the
    maps tell the class from another one."""
    pa: Any = importlib.import_module("pyarrow")
    number = pa.field("element", pa.int32(), nullable=False)
    score = pa.field("element", pa.float32(), nullable=False)
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("class", pa.int32()),
        pa.field("name", pa.string()),
        pa.field("probability", pa.float32()),
        pa.field("top_classes", pa.list_(number)),
        pa.field("top_scores", pa.list_(score)),
    ]
    if told_apart:
        fields += [pa.field("contrast", pa.int32()), pa.field("contrast_name", pa.string())]
    for column in maps:
        fields += column.fields(shapes[column.method])
    return pa.schema([*fields, pa.field("error", pa.string())])


def empty(key: str, at: int, error: str | None) -> dict[str, Any]:
    """The row of a picture that nothing is said of (yet). at: its place in the shard."""
    # A name need not be text; a column is: what no encoding has becomes an escape.
    told = None if error is None else error.encode("utf-8", "backslashreplace").decode()
    return {"key": key.encode("utf-8", "backslashreplace").decode(), "row": at, "error": told}


class Table:
    """Rows on their way into a part."""

    def __init__(self, writer: Any, schema: Any) -> None:
        self._writer, self._schema = writer, schema
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Rows by column, the next ones of the table."""
        self._rows += rows
        self._bytes += sum(len(v) for row in rows for v in row.values() if isinstance(v, bytes))
        if len(self._rows) >= _ROWS or self._bytes >= _BYTES:
            self._write()

    def end(self, metadata: dict[bytes, bytes]) -> None:
        """Write what waits, and what the part says of itself."""
        if self._rows:
            self._write()
        self._writer.add_key_value_metadata(metadata)

    def _write(self) -> None:
        pa: Any = importlib.import_module("pyarrow")
        columns = [pa.array([row.get(f.name) for row in self._rows], f.type) for f in self._schema]
        table = pa.Table.from_arrays(columns, schema=self._schema)
        self._writer.write_table(table, row_group_size=_ROWS)
        self._rows, self._bytes = [], 0


@contextmanager
def table_in(file: IO[bytes], schema: Any) -> Iterator[Table]:
    """A table of these columns, written into a file."""
    with parquet().ParquetWriter(file, schema, **_HOW) as writer:
        yield Table(writer, schema)
