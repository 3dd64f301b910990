"""Numba functions with one written signature each, compiled at first use and kept on disk.

Numba compiles one version per combination of dtype, memory order and read-only flag of its arguments. A
written signature (read-only, any strides: ``reads``) stands for all of them, so that users wait once and
briefly. Nothing is compiled at import. All kernels release the interpreter lock.

Numba compiles a kernel anew when its own file has changed, but not when a function that it calls from another
file has; so what is kept on disk is named after the contents of all files of this folder.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.numpy_support import as_dtype

P = ParamSpec("P")
T = TypeVar("T")
_compiling = threading.Lock()


def reads(dtype: types.Type, dimensions: int, order: Literal["C", "A"] = "C") -> types.Array:
    """Type of an array a kernel only reads; ``order="A"`` admits strided views."""
    return types.Array(dtype, dimensions, order, readonly=True)


class Kernel(Generic[P, T]):
    """A function that compiles the signature for its first argument's dtype when first called with it."""

    def __init__(self, function: Callable[P, T], signatures: Sequence[Any]) -> None:
        self.plain, self.name = function, function.__qualname__
        self.signatures = {as_dtype(signature.args[0].dtype): signature for signature in signatures}
        self.compiled: dict[np.dtype, Callable[P, T]] = {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        dtype = cast(np.ndarray, args[0]).dtype
        if dtype not in self.compiled:
            with _compiling:
                if dtype not in self.compiled:
                    self.plain.__qualname__ = f"{self.name}_{_sources()}"
                    self.compiled[dtype] = numba.njit(self.signatures[dtype], nogil=True, cache=True)(
                        self.plain
                    )
        return self.compiled[dtype](*args, **kwargs)


@cache
def _sources() -> str:
    """A digest of the files of this folder."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def kernel(*signatures: Any) -> Callable[[Callable[P, T]], Kernel[P, T]]:
    """Decorator: ``@kernel(types.void(reads(types.uint16, 2), ...))``."""

    def wrap(function: Callable[P, T]) -> Kernel[P, T]:
        return Kernel(function, signatures)

    return wrap


def _prefetch(_: Any, address: Any) -> Any:
    """In kernels: begin to load the cache line at a uint64 address, which need not be mapped."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        load = builder.module.declare_intrinsic("llvm.prefetch", [pointer], function)
        # read, once, data
        builder.call(load, [builder.inttoptr(args[0], pointer), word(0), word(0), word(1)])
        return context.get_dummy_value()

    return types.void(types.uint64), generate


prefetch: Any = intrinsic(_prefetch)
