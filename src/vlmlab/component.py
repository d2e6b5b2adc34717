"""Slots and plug-ins: how a recipe written in TOML becomes frozen dataclasses, and those become objects.

A *slot* is a base class of configs that says where its plug-ins live (`home`, a package). A *plug-in* is one file there
that owns a frozen `Config` (a subclass of the slot's) and one class built from it. **The file's name is the plug-in's
name in a recipe**; a dotted name (`my_package.qformer`) reaches a plug-in outside this package.

    [model.connector]
    name = "perceiver"      # vlmlab/model/connectors/perceiver.py
    latents = 64

There is no register to keep: a new plug-in is one new file.
"""

import dataclasses
import difflib
import importlib
import pkgutil
import sys
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Plugin:
    """Base of every slot's `Config`. The slot sets `home`, the dotted package in which its plug-ins live."""

    home: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """The name a recipe uses: the file's name inside the slot's package, or its full dotted path outside it."""
        module = type(self).__module__
        return module.removeprefix(self.home + ".")

    def build(self, *args: Any, **keywords: Any) -> Any:
        """Make the plug-in's object: the class of the config's own file whose constructor takes this config first."""
        module = sys.modules[type(self).__module__]
        return module.PLUGIN(self, *args, **keywords)


def plugins(slot: type[Plugin]) -> list[str]:
    """Names of the plug-ins that ship in the slot's package, sorted."""
    package = importlib.import_module(slot.home)
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def find(slot: type[Plugin], name: str, trusted: bool = True) -> type[Plugin]:
    """The `Config` class of the plug-in called `name` in a slot.

    `trusted=False` is for names read from a downloaded file: a dotted name is then only accepted when the user has
    imported that module already, so that nothing a file names is ever imported because it named it.
    Raises ValueError with the nearest right name.
    """
    if "." in name:
        if not trusted and name not in sys.modules:
            raise ValueError(
                f"{name!r} is a plug-in from outside vlmlab, named by a file you loaded; import {name} yourself first "
                "if you trust it"
            )
        path = name
    else:
        known = plugins(slot)
        if name not in known:
            raise ValueError(f"no {slot.home.rsplit('.', 1)[-1]} plug-in called {name!r}{_suggest(name, known)}")
        path = f"{slot.home}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise ValueError(f"cannot import the plug-in {path!r}: {error}") from error
    config = getattr(module, "Config", None)
    if not (isinstance(config, type) and issubclass(config, slot) and hasattr(module, "PLUGIN")):
        raise ValueError(f"{path} is no plug-in of {slot.home}: it needs `Config({slot.__qualname__})` and `PLUGIN`")
    return config


def parse(kind: type[T], data: Mapping[str, Any], where: str = "", trusted: bool = True) -> T:
    """Turn plain data (from TOML or JSON) into the frozen dataclass `kind`, checking every key and every type.

    `where` is the dotted path of `data` in its recipe, for messages. Raises ValueError that names the key, its path
    and the nearest right key.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where or 'the recipe'} should be a table of keys, not {data!r}")
    data = dict(data)
    if issubclass(kind, Plugin) and "name" in data:
        kind = find(_slot_of(kind), data.pop("name"), trusted)  # type: ignore[assignment]
    elif issubclass(kind, Plugin) and _slot_of(kind) is kind:
        raise ValueError(f"{where}.name is missing: it says which plug-in to use, one of {', '.join(plugins(kind))}")
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    for key in data:
        if key not in fields:
            raise ValueError(f"unknown key {_join(where, key)!r}{_suggest(key, fields)}")
    values = {key: _convert(hints[key], value, _join(where, key), trusted) for key, value in data.items()}
    missing = [
        name
        for name, f in fields.items()
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"missing key {_join(where, missing[0])!r}")
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from error


def plain(config: Any) -> Any:
    """The reverse of `parse`: a dataclass as plain data, plug-ins with their `name`.

    TOML has no null: a key that is None is left out where None is its default, and says "none" elsewhere.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = {f.name: (getattr(config, f.name), f.default) for f in dataclasses.fields(config) if f.init}
        data = {
            key: "none" if value is None else plain(value)
            for key, (value, default) in values.items()
            if value is not None or default is not None
        }
        return {"name": config.name, **data} if isinstance(config, Plugin) else data
    if isinstance(config, tuple | list):
        return [plain(value) for value in config]
    if isinstance(config, Mapping):
        return {key: plain(value) for key, value in config.items()}
    if isinstance(config, Path):
        return str(config)
    return config


def read_toml(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a TOML file and apply `a.b.c=value` overrides. Raises ValueError naming the file and the place."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; give the .toml file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    return override(data, overrides)


def override(data: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply `a.b.c=value` strings to nested plain data, in order; the value is read as TOML, else kept as text.

    Naming another plug-in (`model.connector.name=linear`) drops the keys of the one it replaces.
    """
    data = _copy(data)
    for item in overrides:
        path, found, text = item.partition("=")
        if not found or not path.strip():
            raise ValueError(f"cannot read the override {item!r}: write key=value, for example stage.steps=10")
        *parents, last = path.strip().split(".")
        table = data
        for depth, key in enumerate(parents):
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise ValueError(f"override {item!r}: {'.'.join(parents[: depth + 1])} is a value, not a table")
        if last == "name" and table.get("name") not in (None, text.strip().strip('"')):
            table.clear()
        table[last] = _toml_value(text)
    return data


def write_toml(data: Mapping[str, Any]) -> str:
    """Plain nested data (tables, lists, text, numbers, booleans) as TOML text."""
    lines: list[str] = []
    _write_table(data, (), lines)
    return "\n".join(lines).strip() + "\n"


def _write_table(data: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    tables = {k: v for k, v in data.items() if isinstance(v, Mapping)}
    arrays = {k: v for k, v in data.items() if isinstance(v, list) and v and all(isinstance(i, Mapping) for i in v)}
    for key, value in data.items():
        if key not in tables and key not in arrays:
            lines.append(f"{_toml_key(key)} = {_toml_text(value)}")
    for key, value in tables.items():
        lines.extend(["", "[" + ".".join(map(_toml_key, (*path, key))) + "]"])
        _write_table(value, (*path, key), lines)
    for key, items in arrays.items():
        for item in items:
            lines.extend(["", "[[" + ".".join(map(_toml_key, (*path, key))) + "]]"])
            _write_table(item, (*path, key), lines)


def _toml_key(key: str) -> str:
    bare = key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key)
    return key if bare else _toml_text(key)


def _toml_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_text(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml_key(k)} = {_toml_text(v)}" for k, v in value.items()) + " }"
    raise TypeError(f"{value!r} has no TOML form")


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _copy(data: Any) -> Any:
    return {key: _copy(value) for key, value in data.items()} if isinstance(data, dict) else data


def _slot_of(kind: type[Plugin]) -> type[Plugin]:
    """The slot a config class belongs to: its ancestor that sets `home`."""
    return next(c for c in kind.__mro__ if "home" in vars(c))


def _convert(hint: Any, value: Any, where: str, trusted: bool) -> Any:
    """`value` as the type `hint`, or a ValueError that says what was expected at `where`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is typing.Union or origin is types.UnionType:
        return _convert_union(arguments, value, where, trusted)
    if origin is Literal:
        if value in arguments:
            return value
        raise ValueError(f"{where} = {value!r} is not one of {', '.join(map(repr, arguments))}")
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} should be a list, not {value!r}")
        if origin is tuple and arguments[-1] is not Ellipsis:
            if len(value) != len(arguments):
                raise ValueError(f"{where} should hold {len(arguments)} values, not {len(value)}")
            return tuple(
                _convert(h, v, f"{where}[{i}]", trusted) for i, (h, v) in enumerate(zip(arguments, value, strict=True))
            )
        return origin(_convert(arguments[0], v, f"{where}[{i}]", trusted) for i, v in enumerate(value))
    if origin is dict:
        return {k: _convert(arguments[1], v, _join(where, k), trusted) for k, v in dict(value).items()}
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else parse(hint, value, where, trusted)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is Any or (isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool)):
        return value
    raise ValueError(f"{where} should be {_type_name(hint)}, not {value!r}")


def _convert_union(arguments: tuple[Any, ...], value: Any, where: str, trusted: bool) -> Any:
    if value in (None, "none") and type(None) in arguments:
        return None
    options = [a for a in arguments if a is not type(None)]
    for option in options[:-1]:
        try:
            return _convert(option, value, where, trusted)
        except ValueError:
            continue
    return _convert(options[-1], value, where, trusted)


def _type_name(hint: Any) -> str:
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(hint, str(hint))


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _suggest(word: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""
