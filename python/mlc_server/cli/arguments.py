"""argparse whose errors are UserErrors: three lines, with the nearest flag for a misspelt one."""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from mlc_server.errors import UserError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError and never guesses a flag from its beginning."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def parse_known_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuses unknown flags here, where the flags of this very command are known."""
        parsed, unknown = super().parse_known_args(args, namespace)
        for argument in unknown:
            self._refuse(argument)
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        raise UserError(
            message, seen=self.usage or self.prog, hint=f"{self.prog} --help lists the options"
        )

    def _refuse(self, argument: str) -> NoReturn:
        flag = argument.partition("=")[0]
        hint = f"{self.prog} --help lists the options"
        if not flag.startswith("-"):
            raise UserError(f"unexpected argument {argument}", seen=argument, hint=hint)
        close = difflib.get_close_matches(flag, list(self._option_string_actions), n=1, cutoff=0.6)
        if close:
            hint = f"did you mean {close[0]}?"
        raise UserError(f"unknown flag {flag}", seen=argument, hint=hint)


def integer(low: int, high: int, *, none: int | None = None) -> Callable[[str], int]:
    """An argparse type for whole numbers in a range. `none` is what "None" and "auto" stand for."""

    def parse(text: str) -> int:
        if none is not None and text.lower() in {"none", "auto"}:
            return none
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number {low} to {high}, not {text}")
        return value

    return parse


_SIZE = re.compile(r"(\d{1,12})\s*([kmg]?)(i?b)?", re.IGNORECASE)


def size_in_bytes(text: str) -> int:
    """An argparse type for sizes: 4194304, 4M, 4MiB."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"must be a size such as 4MiB, not {text}")
    shift = 10 * " kmg".index(match[2].lower() or " ")
    return int(match[1]) << shift


def json_strings(text: str) -> tuple[str, ...]:
    """An argparse type for a JSON list of strings, such as ["*"]."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise argparse.ArgumentTypeError(
            f'must be a JSON list of strings such as ["*"], not {text}'
        )
    return tuple(value)
