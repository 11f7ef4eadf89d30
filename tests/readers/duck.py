"""Reads a Delta table with DuckDB's delta extension (delta-kernel-rs) and prints its rows as JSON lines.

    duck.py TABLE_URI [--filter EXPR | --sql QUERY] [--version N] [--order COLUMN]... [--s3 ENDPOINT]

The table is `t` in --sql. The extensions come from Python packages and are loaded from there: nothing is fetched.
The form of the rows is described in deltalake_reader.py.
"""

import importlib.util
import os
import pathlib

import duckdb

from deltalake_reader import arguments, leave, print_rows, query


def text(word):
    """A string literal of SQL."""
    return "'" + word.replace("'", "''") + "'"


def load(connection, name):
    """Loads an extension from the file in its package, which must be made for exactly this DuckDB."""
    package = pathlib.Path(importlib.util.find_spec(f"duckdb_extension_{name}").submodule_search_locations[0])
    file = package / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    connection.execute(f"LOAD {text(str(file))}")


def use_s3(connection, endpoint):
    """Lets s3:// addresses reach an endpoint of the tests."""
    load(connection, "httpfs")
    scheme, host = endpoint.rstrip("/").split("://")
    secret = {
        "KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID", "test"),
        "SECRET": os.environ.get("AWS_SECRET_ACCESS_KEY", "test"),
        "REGION": os.environ.get("AWS_REGION", "us-east-1"),
        "ENDPOINT": host,
        "URL_STYLE": "path",
    }
    options = ", ".join(f"{name} {text(word)}" for name, word in secret.items())
    connection.execute(f"CREATE SECRET (TYPE s3, {options}, USE_SSL {str(scheme == 'https').lower()})")


def main():
    args = arguments(__doc__)
    settings = {
        "allow_unsigned_extensions": "true",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }
    connection = duckdb.connect(config=settings)
    connection.execute("SET TimeZone = 'UTC'")
    load(connection, "delta")
    if args.s3:
        use_s3(connection, args.s3)
    version = "" if args.version is None else f", version => {args.version}"
    connection.execute(f"CREATE TEMP VIEW t AS SELECT * FROM delta_scan({text(args.table)}{version})")
    print_rows(connection.execute(query(args)).to_arrow_table())


if __name__ == "__main__":
    main()
    leave()
