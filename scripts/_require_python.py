"""Ends a script with one line if its Python is too old. Any Python since 2.7 can read this file.

A script imports it before everything else of its own:

    import _require_python  # noqa: F401
"""
# ruff: noqa: UP036

import sys

if sys.version_info < (3, 10):
    sys.stderr.write(
        "{}: Python {}.{} is too old: this project needs 3.10 or newer; "
        "name a newer one, as in: python3.12 {}\n".format(
            sys.argv[0], sys.version_info[0], sys.version_info[1], " ".join(sys.argv)
        )
    )
    sys.exit(2)
