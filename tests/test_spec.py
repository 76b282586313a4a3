"""Calls on the command line are parsed, checked, and never evaluated."""

from dataclasses import dataclass
from typing import Literal

import pytest

from cannonade.errors import InputError
from cannonade.spec import build, call_text, parse_call, parse_number


@dataclass(frozen=True, kw_only=True)
class Part:
    eps: float = 0.1
    steps: int = 5
    mode: Literal["a", "b"] = "a"
    names: tuple[str, ...] = ()
    size: int | None = None


def make(text):
    return build(text, {"part": Part, "other": Part}, "thing")


def test_calls():
    assert make("part") == Part()
    assert make(" part() ") == Part()
    assert make("part(eps=8/255, steps=3, mode='b', names=('x', 'y'), size=None)") == Part(
        eps=8 / 255, steps=3, mode="b", names=("x", "y")
    )
    assert make("part(eps=-(1+2)*3/4)").eps == -(1 + 2) * 3 / 4
    assert make("part(eps=1)").eps == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prt", "did you mean part"),
        ("nothing", "one of: other, part"),
        ("part(epz=1)", "did you mean eps"),
        ("part(foo=1)", "its arguments: eps, steps, mode, names, size"),
        ("part(eps='x')", "eps must be a number, got 'x'"),
        ("part(steps=1.5)", "steps must be an integer"),
        ("part(steps=True)", "steps must be an integer"),
        ("part(mode='c')", "mode must be 'a' or 'b'"),
        ("part(names=(1,))", "names must be"),
        ("part(size='x')", "an integer or None"),
        ("part(1)", "keyword arguments"),
        ("part(eps=1/0)", "division by zero"),
        ("part(eps=__import__('os').getcwd())", "literals"),
        ("part(eps=(lambda: 1)())", "literals"),
        ("part(eps=2**99)", "literals"),
        ("part(eps='a'+'b')", "not a number"),
        ("part(**{})", "keyword arguments"),
        ("a.b(c=1)", "keyword arguments"),
        ("part(eps=", "must be a name"),
        ("", "must be a name"),
        ("(" * 500, "must be a name"),
    ],
)
def test_bad_calls(text, words):
    with pytest.raises(InputError, match=words.replace("(", r"\(").replace(")", r"\)")):
        make(text)


def test_nothing_is_evaluated(tmp_path):
    target = tmp_path / "written"
    with pytest.raises(InputError):
        parse_call(f"part(eps=open({str(target)!r}, 'w'))", "thing")
    assert not target.exists()


def test_call_text_is_what_one_would_type():
    part = make("part(eps=8/255, mode='b')")
    assert call_text("part", part) == "part(eps=8/255, steps=5, mode='b')"
    assert make(call_text("part", part)) == part


def test_numbers():
    assert parse_number(" 8/255 ", "eps") == 8 / 255
    assert parse_number("-3", "eps") == -3
    for text in ("", "eps", "True", "1/255, 2", "'1'", "f(1)", "1/0"):
        with pytest.raises(InputError, match="eps must be a number such as 8/255"):
            parse_number(text, "eps")
