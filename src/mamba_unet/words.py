"""Numbers and names in sentences."""

import types
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin


def counted(number: int, word: str) -> str:
    """ "1 case", "1,204 cases", "2 classes"."""
    return f"{number:,} {word}" + ("" if number == 1 else "es" if word.endswith("s") else "s")


def duration(seconds: float) -> str:
    """ "12 s", "3.5 minutes", "2.0 hours"."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"
    return f"{seconds / 60:.1f} minutes" if seconds < 3600 else f"{seconds / 3600:.1f} hours"


def some(names: Iterable[str], most: int | None = 5) -> str:
    """ "a, b", "a, b and 3 more"; None: all."""
    names = list(names)
    more = len(names) - len(names[:most])
    return ", ".join(names[:most]) + (f" and {more} more" if more else "")


def kind_of(annotation: Any) -> str:
    """A type, as "whole number or null", "`sgd` or `adamw`", "list of text"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(kind_of(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin is list:
        return f"list of {kind_of(arguments[0])}"
    if origin is tuple:
        return f"{len(arguments)} {kind_of(arguments[0])}s"
    if is_dataclass(annotation):
        return f"mapping with {', '.join(f.name for f in fields(annotation))}"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(annotation, "mapping")


def printable(text: str) -> str:
    """The text with control characters, and what is no text, as escapes: a terminal must not obey a file."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
