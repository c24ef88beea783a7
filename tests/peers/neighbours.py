"""Imports the packages that are named, in this order, each with all of its generated modules.

Prints for each how many modules it has; ends with a traceback if two cannot live in one process.
"""

import json
import pkgutil
import sys
from importlib import import_module

found: dict[str, int] = {}
for package in sys.argv[1:]:
    parent = import_module(package)
    modules = [
        module.name
        for module in pkgutil.walk_packages(parent.__path__, f"{package}.")
        if module.name.endswith(("_pb2", "_pb2_grpc"))
    ]
    for module in modules:
        import_module(module)
    found[package] = len(modules)
print(json.dumps(found))
