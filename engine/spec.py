"""Parts named on the command line by the call that makes them in Python: parsed, never evaluated."""

import ast
import dataclasses
import operator
import types
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cannonade.errors import InputError

Part = TypeVar("Part")

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def build(text: str, parts: Mapping[str, type[Part]], what: str) -> Part:
    """Make a part from its call, for example `pgd(eps=8/255, steps=50)`.

    Args:
        text: a name, or a name with keyword arguments that are literals, fractions of numbers, or tuples of those.
        parts: the dataclasses that can be made, by name.
        what: the kind of part, for messages.

    Raises:
        InputError: not such a call, or an unknown name, argument or type; names the valid ones.
    """
    name, arguments = parse_call(text, what)
    if name not in parts:
        raise InputError(f"unknown {what} {name!r}{near_name(name, parts)}; one of: {', '.join(sorted(parts))}")
    part = parts[name]
    hints = get_type_hints(part)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(part) if field.init}  # type: ignore[arg-type]
    for argument, value in arguments.items():
        if argument not in fields:
            valid = ", ".join(fields) or "none"
            raise InputError(
                f"{name} has no argument {argument!r}{near_name(argument, fields)}; its arguments: {valid}"
            )
        if not _fits(value, fields[argument]):
            raise InputError(f"{name}: {argument} must be {_describe(fields[argument])}, got {value!r}")
    return part(**arguments)


def call_text(name: str, part: Any) -> str:
    """A call that makes a part, for people: its numbers, and what else differs from the default."""
    shown = [
        (field.name, getattr(part, field.name))
        for field in dataclasses.fields(part)
        if type(getattr(part, field.name)) in (int, float) or getattr(part, field.name) != _default(field)
    ]
    return f"{name}({', '.join(f'{field}={_literal(value)}' for field, value in shown)})"


def _literal(value: Any) -> str:
    """A value as one would type it: 8/255 rather than 0.03137254901960784."""
    if isinstance(value, float) and len(repr(value)) > 8 and (value * 2 * 255).is_integer():
        return f"{value * 255:g}/255"
    return repr(value)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def parse_call(text: str, what: str) -> tuple[str, dict[str, Any]]:
    """Split `name(key=value, …)` into its name and its arguments."""
    usage = _usage(text, what)
    name, keywords = _split_call(text, usage)
    return name, {argument: _value(value, usage) for argument, value in keywords.items()}


def with_argument(text: str, argument: str, value: str, what: str) -> str:
    """The call with one argument replaced or added, as text: `pgd(eps=8/255)`, `steps`, `50` → `pgd(eps=8/255, steps=50)`.

    Raises:
        InputError: the text is not such a call. What its arguments are is for `build` to judge.
    """
    name, keywords = _split_call(text, _usage(text, what))
    values = {key: ast.get_source_segment(text.strip(), node) for key, node in keywords.items()} | {argument: value}
    return f"{name}({', '.join(f'{key}={content}' for key, content in values.items())})"


def parse_number(text: str, what: str) -> float:
    """A number, or numbers with + − * / between them, such as `8/255`.

    Raises:
        InputError: it is something else.
    """
    usage = f"{what} must be a number such as 8/255, got {text!r}"
    return _number(_parse(text.strip(), usage), usage)


def split_list(text: str, what: str) -> list[str]:
    """The elements of `value, value, …`, as text; commas inside calls, tuples and strings separate nothing.

    Raises:
        InputError: it cannot be parsed, or is empty.
    """
    usage = f"{what} must be a list of values with commas between them, got {text!r}"
    listed = f"[{text}]"
    node = _parse(listed, usage)
    if not isinstance(node, ast.List) or not node.elts:
        raise InputError(usage)
    return [ast.get_source_segment(listed, element) or "" for element in node.elts]


def _usage(text: str, what: str) -> str:
    return f"a {what} must be a name with keyword arguments, such as name(key=1/2), got {text!r}"


def _parse(text: str, usage: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(usage) from error


def _split_call(text: str, usage: str) -> tuple[str, dict[str, ast.expr]]:
    node = _parse(text.strip(), usage)
    if isinstance(node, ast.Name):
        return node.id, {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise InputError(usage)
    if any(keyword.arg is None for keyword in node.keywords):
        raise InputError(usage)
    return node.func.id, {str(keyword.arg): keyword.value for keyword in node.keywords}


def _value(node: ast.expr, usage: str) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str | None):
        return node.value
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_value(element, usage) for element in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(node.operand, usage)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        try:
            return _OPERATORS[type(node.op)](_number(node.left, usage), _number(node.right, usage))
        except (ZeroDivisionError, OverflowError) as error:
            raise InputError(f"{usage}: {error}") from error
    raise InputError(f"{usage}: values must be literals or fractions of numbers")


def _number(node: ast.expr, usage: str) -> int | float:
    value = _value(node, usage)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{usage}: {value!r} is not a number")
    return value


def near_name(name: str, valid: Iterable[str]) -> str:
    """`, did you mean …` where a valid name is near, else nothing."""
    near = get_close_matches(name, list(valid), n=1)
    return f", did you mean {near[0]}" if near else ""


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in get_args(hint))
    if origin is tuple:
        inner = get_args(hint)
        if not isinstance(value, tuple):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(_fits(element, inner[0]) for element in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)


def _describe(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    names = {int: "an integer", float: "a number", bool: "True or False", str: "a string", types.NoneType: "None"}
    return names.get(hint, f"a {getattr(hint, '__name__', hint)}")
