"""Run docs/example.ipynb and write it back with what its cells gave.

    python tools/build_notebook.py

Cells run one after the other, as in a notebook: what they print and the value of their last line are kept, as
HTML, SVG and text. A test runs them again, and opens what they show in a browser without network.
"""

from __future__ import annotations

import ast
import io
import json
import os
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "example.ipynb"
PICTURE = 400_000  # characters of one output at most


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the outputs of its code cells, run in the repository's root."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells, number = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            outputs = run("".join(cell["source"]), names, number)
            cell = {**cell, "execution_count": number, "outputs": outputs}
        cells.append(cell)
    return {**notebook, "cells": cells}


def run(source: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """What a cell prints, and its last value."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(tree, f"<cell {number}>", "exec"), names)
        value = eval(compile(ast.Expression(last.value), f"<cell {number}>", "eval"), names) if last else None
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines(printed.getvalue())})
    if value is not None:
        data = {kind: lines(text) for kind, text in shown(value).items()}
        about = {"output_type": "execute_result", "execution_count": number, "metadata": {}}
        outputs.append({**about, "data": data})
    return outputs


def shown(value: Any) -> dict[str, str]:
    """A value as a notebook shows it."""
    if hasattr(value, "_repr_mimebundle_"):
        found = dict(value._repr_mimebundle_())
    else:
        html = value._repr_html_() if hasattr(value, "_repr_html_") else None
        found = {"text/html": html} if html else {"text/plain": repr(value)}
    assert all(len(text) < PICTURE for text in found.values()), type(value)
    return found


def lines(text: str) -> list[str]:
    """As the format has it."""
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    made = executed(json.loads(PAGE.read_text()))
    with tempfile.NamedTemporaryFile("w", dir=PAGE.parent, delete=False) as file:
        json.dump(made, file, indent=1, ensure_ascii=False)
        file.write("\n")
    os.replace(file.name, PAGE)
    print(f"written: {PAGE}")
