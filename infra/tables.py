"""Strict reading of plain tables (TOML, JSON) into frozen dataclasses, by their type hints."""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from infra.errors import ConfigError


def override_value(raw: dict[str, Any], text: str) -> None:
    """Sets one value, given as `a.b=value`, in nested plain tables.

    The value is TOML; a bare word is a string. Raises `ConfigError` for anything else.
    """
    key, equals, literal = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: write it as key=value, e.g. schedule.epochs=20.")
    try:
        value = tomllib.loads(f"value = {literal}")["value"]
    except tomllib.TOMLDecodeError:
        value = literal  # a bare word is a string
    *parents, last = key.strip().split(".")
    table = raw
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {text}: '{parent}' is a value, not a table.")
    table[last] = value


def read_table(kind: type, raw: Any, where: str) -> Any:
    """An instance of the dataclass `kind` from a table of plain values; `where` names it in errors.

    Raises `ConfigError` for unknown keys (with the nearest known one), missing keys, values of
    another type, and values that the class refuses.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} must be a table of keys, not {raw!r}.")
    hints = typing.get_type_hints(kind)
    for key in raw:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(hints)}."
            raise ConfigError(f"{where} has no key '{key}'; {hint}")
    missing = [
        item.name
        for item in dataclasses.fields(kind)
        if item.name not in raw
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where} lacks the key '{missing[0]}'.")
    values = {key: _value(hints[key], value, f"{where}.{key}") for key, value in raw.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}.") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return read_table(typing.cast(type, hint), value, where)
    if origin is Literal:
        if value not in args or type(value) not in map(type, args):
            raise ConfigError(f"{where} is {value!r}; allowed: {', '.join(map(repr, args))}.")
        return value
    if origin in (typing.Union, types.UnionType):
        (inner,) = (arg for arg in args if arg is not type(None))  # only `T | None` is used
        return None if value is None else _value(inner, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table of keys, not {value!r}.")
        return {key: _value(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is tuple:
        return _tuple(args, value, where)
    return _scalar(hint, value, where)


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where} is {value!r}; it must be of type {hint.__name__}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} is {value}; it must be a finite number.")
    return value


def _tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} is {value!r}; it must be a list.")
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(kinds) != len(value):
        raise ConfigError(f"{where} has {len(value)} entries; it must have {len(kinds)}.")
    return tuple(_value(kind, item, where) for kind, item in zip(kinds, value, strict=True))
