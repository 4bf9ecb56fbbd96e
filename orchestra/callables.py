"""What may stand under `@flow` and `@task`: functions, generators, partials, bound methods, builtins, objects that can
be called. What each is named, and the form in which the engine calls it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Hashable
from typing import Any

_ASYNC = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
#: Frames that belong to the expression around them.
_COMPREHENSIONS = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})


def below(fn: Any) -> Any:
    """The function below `@classmethod` or `@staticmethod`."""
    return fn.__func__ if isinstance(fn, (classmethod, staticmethod)) else fn


def code_of(fn: Any) -> Any:
    """The function whose code is run by calling `fn`: a partial's, or the `__call__` of an object's class."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if inspect.isroutine(fn) or isinstance(fn, type):
        return fn
    return getattr(type(fn), "__call__", fn)  # noqa: B004 - the method is wanted


def is_async(fn: Any) -> bool:
    """Whether calling `fn` gives a coroutine."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(code_of(fn))


def is_generator(fn: Any) -> bool:
    """Whether calling `fn` gives a generator."""
    return inspect.isgeneratorfunction(fn) or inspect.isgeneratorfunction(code_of(fn))


def is_async_generator(fn: Any) -> bool:
    """Whether calling `fn` gives an async generator."""
    return inspect.isasyncgenfunction(fn) or inspect.isasyncgenfunction(code_of(fn))


def engine_form(fn: Callable[..., Any]) -> Callable[..., Any]:
    """What the engine calls in the place of `fn`: of a generator function, one that gives its items as a list."""
    if is_async_generator(fn):
        return _like(fn, _items_of_async(fn))
    if is_generator(fn):
        return _like(fn, lambda *args, **kwargs: list(fn(*args, **kwargs)))
    # Signatures are kept by function: an object that cannot be a key stands behind one that can.
    return fn if _is_key(fn) else _like(fn, _call_of(fn))


def name_of(fn: Any) -> str:
    """The name of a function, of a partial's function, or of an object's class."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__name__", type(fn).__name__))


def doc_of(fn: Any) -> str:
    """Its docstring, or ""; a partial's is its function's."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.getdoc(fn) or ""


def path_of(fn: Any, module: str) -> str:
    """`module:qualname` of what is called; what has no name of its own gets one that nothing can be found by.

    Args:
        module: Where it was decorated.
    """
    qualname = getattr(fn, "__qualname__", None)
    if qualname is None:
        return f"{module}:<{name_of(fn)}>"
    return f"{getattr(fn, '__module__', None) or module}:{qualname}"


def declaring_module() -> str:
    """The name of the user's module that called orchestra."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("orchestra."):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "__main__"))


def called_in_coroutine() -> bool:
    """Whether the user's code that called the function that asks is a coroutine's, or a comprehension in one."""
    frame = sys._getframe(2)
    while frame.f_code.co_name in _COMPREHENSIONS and frame.f_back is not None:
        frame = frame.f_back
    return bool(frame.f_code.co_flags & _ASYNC) and not frame.f_globals.get("__name__", "").startswith("orchestra.")


def _items_of_async(fn: Callable[..., Any]) -> Callable[..., Any]:
    async def items(*args: Any, **kwargs: Any) -> list[Any]:
        return [item async for item in fn(*args, **kwargs)]

    return items


def _call_of(fn: Callable[..., Any]) -> Callable[..., Any]:
    if not is_async(fn):
        return lambda *args, **kwargs: fn(*args, **kwargs)

    async def call(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return call


def _like(fn: Callable[..., Any], made: Callable[..., Any]) -> Callable[..., Any]:
    """`made`, with the signature and the name of `fn`."""
    functools.update_wrapper(made, fn, updated=())
    made.__name__ = name_of(fn)
    return made


def _is_key(fn: Any) -> bool:
    if not isinstance(fn, Hashable):
        return False
    try:
        hash(fn)
    except TypeError:  # a part of it cannot be hashed
        return False
    return True
