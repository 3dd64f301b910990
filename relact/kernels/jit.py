"""Numba functions with one written signature each, compiled at first use and kept on disk.

Numba compiles one version per combination of dtype, memory order and read-only flag of its arguments. A written
signature (read-only, any strides: ``reads``) stands for all of them, so that users wait once and briefly. Nothing is
compiled at import. All kernels release the interpreter lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, Literal, ParamSpec, TypeVar

import numba
from numba import types

P = ParamSpec("P")
T = TypeVar("T")
_compiling = threading.Lock()


def reads(dtype: types.Type, dimensions: int, order: Literal["C", "A"] = "C") -> types.Array:
    """Type of an array a kernel only reads; ``order="A"`` admits strided views."""
    return types.Array(dtype, dimensions, order, readonly=True)


class Kernel(Generic[P, T]):
    """A function that compiles its listed signatures when first called."""

    def __init__(self, function: Callable[P, T], signatures: list[Any]) -> None:
        self.plain, self.signatures, self.compiled = function, signatures, None  # type: Callable[P, T], list[Any], Any

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        if self.compiled is None:
            with _compiling:
                if self.compiled is None:
                    self.compiled = numba.njit(self.signatures, nogil=True, cache=True)(self.plain)
        result: T = self.compiled(*args, **kwargs)
        return result


def kernel(*signatures: Any) -> Callable[[Callable[P, T]], Kernel[P, T]]:
    """Decorator: ``@kernel(types.void(reads(types.uint16, 2), ...))``."""

    def wrap(function: Callable[P, T]) -> Kernel[P, T]:
        return Kernel(function, list(signatures))

    return wrap
