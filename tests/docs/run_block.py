"""Run a block of a page as a program: python run_block.py FILE PAGE LINE [ARGUMENT]...

FILE has the code, LINE says where it stands on PAGE, so that a traceback shows the page. As in
`python -m asyncio`, `await` may stand outside of a function.
"""

import ast
import asyncio
import inspect
import sys
from pathlib import Path

file, page, line = sys.argv[1:4]
sys.argv = [page, *sys.argv[4:]]
tree = ast.parse(Path(file).read_text(encoding="utf-8"))
ast.increment_lineno(tree, int(line) - 1)
code = compile(tree, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
names = {"__name__": "__main__"}
if code.co_flags & inspect.CO_COROUTINE:
    asyncio.run(eval(code, names))
else:
    exec(code, names)
