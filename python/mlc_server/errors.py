"""Every error this package raises on purpose.

MlcServerError
├── UserError            bad input on the command line: three lines and exit code 2
│   ├── SourceError      a model source cannot be found, fetched or read
│   ├── FormatError      a model file or folder is broken or not supported
│   └── CompileError     the model library cannot be built for this target
└── RequestError         bad input over HTTP: an OpenAI error object and a status code
    ├── InvalidRequest   400
    ├── ContextOverflow  400, code context_length_exceeded
    ├── RequestTooLarge  413
    ├── InvalidApiKey    401, code invalid_api_key
    ├── HostNotAllowed   403
    ├── ModelNotFound    404, code model_not_found
    ├── ClientLeft       499: nobody reads the answer, only the log
    ├── GenerationFailed 500: this request failed inside the engine
    ├── QueueFull        503, with Retry-After
    └── Unavailable      503: starting, draining or dead
"""

from __future__ import annotations


class MlcServerError(Exception):
    """Base of the errors below; anything else that escapes is a bug."""


class UserError(MlcServerError):
    """Bad input on the command line, printed as three lines: what happened, seen, try."""

    def __init__(self, what: str, *, seen: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.seen = seen
        self.hint = hint

    def render(self) -> str:
        return f"error: {self.what}\nseen: {self.seen}\ntry: {self.hint}"


class SourceError(UserError):
    """A model source cannot be found, fetched or read."""


class FormatError(UserError):
    """A model file or folder is broken or of a kind that is not supported."""


class CompileError(UserError):
    """The model library cannot be built for this target."""


class RequestError(MlcServerError):
    """Bad input over HTTP. `param` names the field; `message` states limit and value."""

    status = 400
    type = "invalid_request_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class InvalidRequest(RequestError):
    """A field is missing, of the wrong type or out of range."""


class ContextOverflow(RequestError):
    """Prompt and requested tokens do not fit the context window."""

    code = "context_length_exceeded"


class RequestTooLarge(RequestError):
    """The body is larger than --max-body-size."""

    status = 413
    code = "request_too_large"


class InvalidApiKey(RequestError):
    """The request carries none of the keys of --api-key."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class HostNotAllowed(RequestError):
    """The Host header names a host this server does not stand for."""

    status = 403
    type = "permission_error"
    code = "host_not_allowed"


class ClientLeft(RequestError):
    """The client closed the connection before its request was complete."""

    status = 499
    code = "client_left"


class GenerationFailed(RequestError):
    """The engine gave this request up; others go on."""

    status = 500
    type = "server_error"
    code = "generation_failed"


class ModelNotFound(RequestError):
    """The `model` asked for is not served here."""

    status = 404
    type = "not_found_error"
    code = "model_not_found"


class QueueFull(RequestError):
    """The bounded queue has no room."""

    status = 503
    type = "server_error"
    code = "queue_full"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(RequestError):
    """The engine is starting, draining or dead."""

    status = 503
    type = "server_error"
    code = "unavailable"
