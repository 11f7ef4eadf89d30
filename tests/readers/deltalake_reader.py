"""Reads a Delta table with delta-rs from PyPI and prints its rows as JSON lines.

    deltalake_reader.py TABLE_URI [--filter EXPR | --sql QUERY] [--version N] [--order COLUMN]... [--s3 ENDPOINT]

Without --filter and --sql, Arrow C++ reads the Parquet files; with them, the table is `t` in the package's own DataFusion.
The other readers print their rows with `print_rows` and parse the command line with `arguments`, so that all of them give
the same text for the same table:

* the keys of a row stand in the order of the columns;
* a timestamp is ISO 8601 with microseconds, with a `Z` when it is an instant and without when it has no zone;
* binary is base64, a decimal is a string with all digits of its scale, a map is a list of [key, value] sorted by key;
* NaN, Infinity and -Infinity are strings.
"""

import argparse
import base64
import json
import math
import os
import sys

import pyarrow as pa
import pyarrow.types as kind


def arguments(description):
    """The command line that the readers share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("table", help="a folder, file:// or s3:// address")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--filter", help="an SQL condition")
    which.add_argument("--sql", help="a whole query over `t`")
    parser.add_argument("--version", type=int, help="the version to read; the newest when left out")
    parser.add_argument("--order", action="append", default=[], help="a column to sort by; may be repeated")
    parser.add_argument("--s3", metavar="ENDPOINT", help="the S3 endpoint, such as http://127.0.0.1:5000")
    return parser.parse_args()


def query(args):
    """The SQL text that the arguments ask for."""
    text = args.sql or "SELECT * FROM t" + (f" WHERE {args.filter}" if args.filter else "")
    if args.order:
        columns = ", ".join('"' + name.replace('"', '""') + '"' for name in args.order)
        text = f"SELECT * FROM ({text}) AS q ORDER BY {columns}"
    return text


def value(item, of):
    """One value of an Arrow type, as what JSON can say without loss."""
    if item is None:
        return None
    if kind.is_timestamp(of):
        return item.replace(tzinfo=None).isoformat(timespec="microseconds") + ("Z" if of.tz else "")
    if kind.is_date(of) or kind.is_time(of):
        return item.isoformat()
    if kind.is_floating(of):
        return item if math.isfinite(item) else str(item).replace("inf", "Infinity").replace("nan", "NaN")
    if kind.is_decimal(of):
        return format(item, "f")
    if kind.is_dictionary(of):
        return value(item, of.value_type)
    if isinstance(item, (bytes, bytearray)):
        return base64.b64encode(item).decode()
    return nested(item, of)


def nested(item, of):
    """A value that holds others, or a plain one."""
    if kind.is_struct(of):
        return {field.name: value(item[field.name], field.type) for field in of}
    if kind.is_map(of):
        pairs = [[value(k, of.key_type), value(v, of.item_type)] for k, v in item]
        return sorted(pairs, key=lambda pair: json.dumps(pair[0]))
    if kind.is_list(of) or kind.is_large_list(of) or kind.is_fixed_size_list(of):
        return [value(one, of.value_type) for one in item]
    return item


def utc_microseconds(of):
    """The type with which a column reaches Python: instants in UTC, and no finer than Python can hold."""
    if kind.is_timestamp(of):
        return pa.timestamp("us", "UTC" if of.tz else None)
    return of


def rows(table):
    """The rows of an Arrow table, one after another, as dictionaries of JSON values."""
    table = table.cast(pa.schema([field.with_type(utc_microseconds(field.type)) for field in table.schema]))
    for batch in table.to_batches():
        columns = [(field, batch.column(at).to_pylist()) for at, field in enumerate(batch.schema)]
        for at in range(batch.num_rows):
            yield {field.name: value(column[at], field.type) for field, column in columns}


def print_rows(table):
    """Prints an Arrow table as JSON lines."""
    for row in rows(table):
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


def leave():
    """Ends a reader that has printed everything, without tearing the interpreter down.

    Threads of Arrow C++ that call back into deltalake may still be ending: about one run in fifteen then aborted after
    its last row ("terminate called without an active exception").
    """
    sys.stdout.flush()
    os._exit(0)


def storage(endpoint):
    """The storage options for an S3 endpoint of the tests; the keys come from the environment."""
    if endpoint is None:
        return None
    return {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true"}


def main():
    from deltalake import DeltaTable, QueryBuilder

    args = arguments(__doc__)
    table = DeltaTable(args.table, version=args.version, storage_options=storage(args.s3))
    if args.filter is None and args.sql is None:
        whole = table.to_pyarrow_table()
        if args.order:
            whole = whole.sort_by([(name, "ascending") for name in args.order])
        print_rows(whole)
        return
    reader = QueryBuilder().register("t", table).execute(query(args))
    print_rows(pa.RecordBatchReader.from_stream(reader).read_all())


if __name__ == "__main__":
    main()
    leave()
