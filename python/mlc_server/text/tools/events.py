"""What a parser finds in a model's text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The call number `index`, from 0, names its function."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments. All of a call's fragments together are one JSON object."""

    index: int
    text: str


Event = Content | CallStarted | CallArguments


def merged(events: Iterable[Event]) -> list[Event]:
    """The same events with neighbours that continue each other made one."""
    whole: list[Event] = []
    for event in events:
        last = whole[-1] if whole else None
        if isinstance(event, Content) and isinstance(last, Content):
            whole[-1] = Content(last.text + event.text)
        elif (
            isinstance(event, CallArguments)
            and isinstance(last, CallArguments)
            and event.index == last.index
        ):
            whole[-1] = CallArguments(event.index, last.text + event.text)
        else:
            whole.append(event)
    return whole
