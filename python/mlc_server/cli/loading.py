"""The model loads on a thread of its own while the main one imports what serves it."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from mlc_server.cli.launch import LoadedModel, load_model
from mlc_server.cli.phases import Phases
from mlc_server.settings import ServerSettings


class Loading:
    """A model being loaded from now on. `future` brings it, or what kept it from loading."""

    def __init__(self, settings: ServerSettings, phases: Phases) -> None:
        self.phases = phases
        self.future: Future[LoadedModel] = Future()
        # Unlike an executor's, a daemon thread does not hold up the exit.
        self._thread = threading.Thread(
            target=self._load, args=(settings,), name="load-model", daemon=True
        )
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the thread is still at work."""
        return self._thread.is_alive()

    def _load(self, settings: ServerSettings) -> None:
        self.future.set_running_or_notify_cancel()
        try:
            loaded = load_model(settings, self.phases)
        except BaseException as raised:  # handed over to who waits for it
            self.future.set_exception(raised)
        else:
            self.future.set_result(loaded)
