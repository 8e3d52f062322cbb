"""The formats in which models write calls, by the name --tool-call-parser gives them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from mlc_server.text.tools.json_calls import JsonCallParser
from mlc_server.text.tools.parser import SPACE, CallParser, Steps
from mlc_server.text.tools.pythonic import EnforcedPythonicCalls, PythonicCalls


class MarkedParser(JsonCallParser):
    """Calls that a marker announces, anywhere in the text. Space before a marker belongs to it."""

    marker = ""

    def _run(self) -> Steps[None]:
        space = held = ""
        while True:
            character = yield from self._read()
            if not character:
                break
            held += character
            while held and not self.marker.startswith(held):
                if held[0] in SPACE:
                    space += held[0]
                else:
                    self._content(space + held[0])
                    space = ""
                held = held[1:]
            if held == self.marker:
                yield from self._attempt(self._calls(), opening=space + held)
                space = held = ""
        # Space after a call separates it from nothing.
        self._content(held if self.num_calls and not held else space + held)

    def _calls(self) -> Steps[None]:
        """What the marker announces."""
        raise NotImplementedError


class HermesParser(MarkedParser):
    """<tool_call>{"name": ..., "arguments": {...}}</tool_call>, as Hermes and Qwen write it; a list
    of calls between the tags is read too. The last closing tag may be missing."""

    marker = "<tool_call>"
    closing = "</tool_call>"

    def _calls(self) -> Steps[None]:
        character = yield from self._read_past_space()
        if character == "{":
            yield from self._call_object()
        elif character == "[":
            yield from self._call_list()
        else:
            self._refuse(character)
        character = yield from self._read_past_space()
        for expected in self.closing:
            if not character:
                return
            if character != expected:
                self._refuse(character)
            if expected != ">":
                character = yield from self._read()


class MistralParser(MarkedParser):
    """[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...], or a name and then its arguments:
    [TOOL_CALLS]name[ARGS]{...}, the second marker left out by some."""

    marker = "[TOOL_CALLS]"
    arguments_marker = "[ARGS]"

    def _calls(self) -> Steps[None]:
        character = yield from self._read_past_space()
        if character == "[":
            yield from self._call_list()
            return
        name = ""
        while character and character not in SPACE and character not in "{[" and len(name) < 256:
            name += character
            character = yield from self._read()
        if name not in self._names:
            self._refuse(character)
        if character == "[":
            for expected in self.arguments_marker[1:]:
                character = yield from self._read()
                if character != expected:
                    self._refuse(character)
            character = yield from self._read_past_space()
        elif character in SPACE:
            character = yield from self._read_past_space()
        if character != "{":
            self._refuse(character)
        self._unread(character)
        index = self._start_call(name)
        yield from self._value(lambda text: self._add_arguments(index, text))
        self._end_call()


class LineParser(CallParser):
    """Calls that stand at the beginning of a line, without a marker. What looks like one and is not
    is content; commas and semicolons between calls are not."""

    # Whether any line may begin with a call, or only the text.
    any_line = True

    def _run(self) -> Steps[None]:
        held, line_starts, after_call = "", True, False
        while True:
            character = yield from self._read()
            if not character:
                break
            if character in SPACE or (after_call and character in ";,"):
                held += character
                line_starts |= character == "\n" and self.any_line
            elif (line_starts or after_call) and self._may_begin(character):
                self._unread(character)
                after_call = yield from self._attempt(self._calls(), opening=held)
                held, line_starts = "", False
            else:
                self._content(held + character)
                held, line_starts, after_call = "", False, False
        if not after_call:
            self._content(held)

    def _may_begin(self, character: str) -> bool:
        """Whether a call may begin with this character."""
        raise NotImplementedError

    def _calls(self) -> Steps[None]:
        """What begins there."""
        raise NotImplementedError


class Llama3JsonParser(LineParser, JsonCallParser):
    """{"name": ..., "parameters": {...}}, as Llama 3.1 writes it; "; " separates several."""

    def _may_begin(self, character: str) -> bool:
        return character == "{"

    def _calls(self) -> Steps[None]:
        yield from self._read()
        yield from self._call_object()


class EnforcedLlama3JsonParser(Llama3JsonParser):
    """The same as a grammar writes it."""

    any_line = False


class PythonicParser(LineParser, PythonicCalls):
    """[f(a=1), g(b="x")], as Llama 3.2 and 4 and Gorilla write it."""

    def _may_begin(self, character: str) -> bool:
        return character == "[" or any(name.startswith(character) for name in self._names)

    def _calls(self) -> Steps[None]:
        yield from self._python_calls()


class EnforcedPythonicParser(LineParser, EnforcedPythonicCalls):
    """The same as a grammar writes it, read while it is being written."""

    any_line = False

    def _may_begin(self, character: str) -> bool:
        return character == "["

    def _calls(self) -> Steps[None]:
        yield from self._enforced_calls()


PARSERS: Mapping[str, type[CallParser]] = MappingProxyType(
    {
        "hermes": HermesParser,
        "llama3_json": Llama3JsonParser,
        "mistral": MistralParser,
        "pythonic": PythonicParser,
    }
)
_ENFORCED: Mapping[str, type[CallParser]] = MappingProxyType(
    {"llama3_json": EnforcedLlama3JsonParser, "pythonic": EnforcedPythonicParser}
)


def make_parser(format_: str, names: Collection[str], *, enforced: bool) -> CallParser:
    """A parser of a format; `enforced`: a grammar holds the text to it."""
    if not enforced:
        return PARSERS[format_](names)
    return _ENFORCED.get(format_, PARSERS[format_])(names, eager=True)
