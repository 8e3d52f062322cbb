"""The machine under every tool-call parser.

A format is a coroutine that reads one character at a time, so that how the text is cut into pieces
cannot change what is found. Reading a call is an attempt: if the text turns out not to be one, what
was read goes to the user as it stands.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Generator
from typing import NoReturn, TypeVar

from mlc_server.text.tools.events import CallArguments, CallStarted, Content, Event, merged

_T = TypeVar("_T")
# Yields when it needs the next character; "" is the end of the text, again and again.
Steps = Generator[None, str, _T]

SPACE = frozenset(" \t\r\n")


class NotACallError(Exception):
    """What is being read is no tool call."""


class CallParser(ABC):
    """Takes a model's text apart into content and calls. Feed it, then finish it; then it is done.

    `names` are the functions that can be called; a call of another one is content. With `eager`, a
    call is reported while it is being written: for text that a grammar holds to the format. Without
    it, a call is reported when it is complete, so that nothing need be taken back.
    """

    def __init__(self, names: Collection[str], *, eager: bool = False) -> None:
        self._names = frozenset(names)
        self._eager = eager
        self._events: list[Event] = []
        self._ended = False
        self._put_back = ""
        self._num_calls = 0
        self._cut_short = False
        # The attempt under way: what it has read but not reported, what it found but not reported.
        self._raw: list[str] | None = None
        self._found: list[Event] = []
        self._first_call = 0
        self._writing_call = False
        self._steps = self._run()
        next(self._steps)

    def feed(self, text: str) -> list[Event]:
        """What more text tells; neighbouring events of one kind come as one."""
        for character in text:
            self._steps.send(character)
        return self._take()

    def finish(self) -> list[Event]:
        """What the end of the text tells."""
        self._ended = True
        try:
            self._steps.send("")
        except StopIteration:
            return self._take()
        raise AssertionError("a parser reads on after the end")

    @property
    def num_calls(self) -> int:
        """Calls reported so far."""
        return self._num_calls

    @property
    def cut_short(self) -> bool:
        """Whether a reported call ended before its arguments did."""
        return self._cut_short

    def _take(self) -> list[Event]:
        events, self._events = merged(self._events), []
        return events

    # For formats

    @abstractmethod
    def _run(self) -> Steps[None]:
        """Reads the whole text."""

    def _read(self) -> Steps[str]:
        """The next character, "" at the end."""
        if self._put_back:
            character, self._put_back = self._put_back, ""
        elif self._ended:
            return ""
        else:
            character = yield
        if self._raw is not None:
            self._raw.append(character)
        return character

    def _read_past_space(self) -> Steps[str]:
        while True:
            character = yield from self._read()
            if character not in SPACE:
                return character

    def _unread(self, character: str) -> None:
        """The last character read will be read again; the end is anyway."""
        if character:
            self._put_back = character
            if self._raw:
                self._raw.pop()

    def _refuse(self, character: str) -> NoReturn:
        """Ends the attempt before the character just read, or with "" after it."""
        self._unread(character)
        raise NotACallError

    def _content(self, text: str) -> None:
        if text:
            self._events.append(Content(text))

    def _start_call(self, name: str) -> int:
        """Reports a call and returns its index."""
        index = self._num_calls
        self._num_calls += 1
        self._writing_call = True
        self._report(CallStarted(index, name))
        return index

    def _add_arguments(self, index: int, text: str) -> None:
        self._report(CallArguments(index, text))

    def _end_call(self) -> None:
        self._writing_call = False

    def _commit(self) -> None:
        """What the attempt has found so far is right, whatever follows."""
        self._events.extend(self._found)
        self._found.clear()
        self._first_call = self._num_calls
        self._raw = []

    def _attempt(self, reading: Steps[None], opening: str) -> Steps[bool]:
        """Runs `reading`; False if it was no call. `opening` is text that belongs to the call."""
        self._raw = [opening]
        self._first_call = self._num_calls
        try:
            yield from reading
        except NotACallError:
            self._give_up()
            return False
        self._commit()
        self._raw = None
        return True

    def _report(self, event: Event) -> None:
        if self._eager:
            self._events.append(event)
            self._first_call = self._num_calls
            self._raw = []
        else:
            self._found.append(event)

    def _give_up(self) -> None:
        self._found.clear()
        self._num_calls = self._first_call
        reported = self._writing_call and self._eager
        self._writing_call = False
        self._cut_short |= reported
        # The beginning of a call that a grammar holds to is no text for the user.
        if not (self._eager and self._ended):
            self._content("".join(self._raw or ()))
        self._raw = None
