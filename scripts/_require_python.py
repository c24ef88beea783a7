"""Ends a script with one line if its Python is too old. Python 2.7 can still read this file.

Scripts import it first:

    import _require_python  # noqa: F401
"""
# ruff: noqa: UP036

import sys

if sys.version_info < (3, 10):
    sys.stderr.write(
        "{}: Python {}.{} is too old: this project requires 3.10 or newer; "
        "use a newer one, such as: python3.12 {}\n".format(
            sys.argv[0], sys.version_info[0], sys.version_info[1], " ".join(sys.argv)
        )
    )
    sys.exit(2)
