"""Tools of a chat request: their definitions, the calls in its history, the choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator

from mlc_server import limits
from mlc_server.protocol.excerpt import show
from mlc_server.protocol.strict import StrictModel, fault

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=limits.MAX_NAME_LENGTH.default)]

_NAMED_FUNCTION_SCHEMA = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string"}},
        },
    },
}
CHOICE_SCHEMA = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        _NAMED_FUNCTION_SCHEMA,
        {
            "type": "object",
            "required": ["type", "allowed_tools"],
            "properties": {
                "type": {"const": "allowed_tools"},
                "allowed_tools": {
                    "type": "object",
                    "required": ["mode", "tools"],
                    "properties": {
                        "mode": {"enum": ["auto", "required"]},
                        "tools": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": limits.MAX_TOOLS.default,
                            "items": _NAMED_FUNCTION_SCHEMA,
                        },
                    },
                },
            },
        },
        {"type": "null"},
    ]
}
FUNCTION_CALL_SCHEMA = {
    "anyOf": [
        {"enum": ["none", "auto"]},
        {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
        {"type": "null"},
    ]
}
ARGUMENTS_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "object"}]}
PARAMETERS_SCHEMA = {"anyOf": [{"type": "object"}, {"type": "null"}]}


class FunctionDefinition(StrictModel):
    """A function the model may call. Without `parameters` it takes none."""

    name: FunctionName
    description: Annotated[str, Field(max_length=limits.MAX_TOOL_TEXT.default)] | None = None
    parameters: Annotated[Any, WithJsonSchema(PARAMETERS_SCHEMA)] = None
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _check_parameters(cls, parameters: Any) -> dict[str, Any] | None:
        if parameters is None:
            return None
        if not isinstance(parameters, dict):
            raise fault("", f"must be a JSON schema object; got {show(parameters)}")
        if parameters.get("type", "object") != "object":
            raise fault("type", f'must be "object"; got {show(parameters["type"])}')
        if _is_deeper(parameters, limits.MAX_TOOL_DEPTH.default):
            raise fault("", f"must be nested at most {limits.MAX_TOOL_DEPTH.default} levels deep")
        return parameters


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether objects and lists are nested in `value` more than `levels` deep."""
    layer = [value]
    for _ in range(levels + 1):
        inner = [item for item in layer if isinstance(item, (dict, list))]
        if not inner:
            return False
        layer = [
            child for item in inner for child in (item.values() if isinstance(item, dict) else item)
        ]
    return True


class Tool(StrictModel):
    """An entry of `tools`."""

    type: Literal["function"]
    function: FunctionDefinition


class CalledFunction(StrictModel):
    """What was called. `arguments` is JSON text; an object is taken too, as MLC-LLM writes it."""

    name: FunctionName
    arguments: Annotated[Any, WithJsonSchema(ARGUMENTS_SCHEMA)]

    @field_validator("arguments")
    @classmethod
    def _check_arguments(cls, arguments: Any) -> str | dict[str, Any]:
        if not isinstance(arguments, (str, dict)):
            raise fault("", f"must be a string of JSON; got {show(arguments)}")
        return arguments


class ToolCall(StrictModel):
    """A call that an assistant message of the history made."""

    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction
    # Accumulated stream deltas carry it; it says nothing the list's order does not.
    index: Annotated[int, Field(ge=0, le=limits.INT32_MAX)] | None = None


class ToolChoice(StrictModel):
    """How tools may be used: all of them, or those `allowed`. `named`: the client named the one
    function to call."""

    mode: Literal["none", "auto", "required"]
    allowed: tuple[str, ...] | None = None
    named: bool = False

    def allows(self, name: str) -> bool:
        """Whether a function may be called."""
        return self.allowed is None or name in self.allowed


def parse_choice(value: Any) -> ToolChoice | None:
    """Reads `tool_choice`; None is the default. Raises PydanticCustomError."""
    if value is None:
        return None
    if isinstance(value, str) and value in ("none", "auto", "required"):
        return ToolChoice(mode=value)  # type: ignore[arg-type]
    if not isinstance(value, dict):
        raise fault("", f'must be "none", "auto", "required" or a function; got {show(value)}')
    if value.get("type") == "allowed_tools":
        return _allowed_tools(value.get("allowed_tools"))
    if value.get("type") != "function":
        expected = '"function" or "allowed_tools"'
        raise fault("type", f"must be {expected}; got {show(value.get('type'))}")
    return ToolChoice(mode="required", allowed=(_function_name(value, ""),), named=True)


def _allowed_tools(value: Any) -> ToolChoice:
    field = "allowed_tools"
    if not isinstance(value, dict):
        raise fault(field, f"must be an object; got {show(value)}")
    mode, tools, limit = value.get("mode"), value.get("tools"), limits.MAX_TOOLS.default
    if mode not in ("auto", "required"):
        raise fault(f"{field}.mode", f'must be "auto" or "required"; got {show(mode)}')
    if not isinstance(tools, list) or not 0 < len(tools) <= limit:
        raise fault(f"{field}.tools", f"must be a list of 1 to {limit} tools; got {show(tools)}")
    names = []
    for index, tool in enumerate(tools):
        place = f"{field}.tools[{index}]."
        if not isinstance(tool, dict) or tool.get("type") != "function":
            seen = tool.get("type") if isinstance(tool, dict) else tool
            raise fault(f"{place}type", f'must be "function"; got {show(seen)}')
        names.append(_function_name(tool, place))
    return ToolChoice(mode=mode, allowed=tuple(names))


def _function_name(tool: dict[str, Any], place: str) -> str:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise fault(f"{place}function.name", f"must be the name of a function; got {show(name)}")
    return name


def parse_function_call(value: Any) -> ToolChoice | None:
    """Reads `function_call`, as `tool_choice` was once called. Raises PydanticCustomError."""
    if value is None:
        return None
    if isinstance(value, str) and value in ("none", "auto"):
        return ToolChoice(mode=value)  # type: ignore[arg-type]
    if not isinstance(value, dict):
        raise fault("", f'must be "none", "auto" or a function; got {show(value)}')
    name = value.get("name")
    if not isinstance(name, str):
        raise fault("name", f"must be the name of a function; got {show(name)}")
    return ToolChoice(mode="required", allowed=(name,), named=True)


def check_tools(tools: Sequence[Tool], choice: ToolChoice | None) -> None:
    """Names are unique and the choice is among them; raises PydanticCustomError."""
    names = _unique_names([tool.function for tool in tools], "tools[{}].function.name")
    if choice is None or (choice.mode != "required" and choice.allowed is None):
        return
    if not tools:
        raise fault("tool_choice", "only allowed together with tools")
    for index, name in enumerate(choice.allowed or ()):
        if name not in names:
            place = "" if choice.named else f"allowed_tools.tools[{index}]."
            field = f"tool_choice.{place}function.name"
            raise fault(field, f"no tool has this name; got {show(name)}")


def check_functions(functions: Sequence[FunctionDefinition], choice: ToolChoice | None) -> None:
    """The same for the fields' older names."""
    names = _unique_names(functions, "functions[{}].name")
    for name in () if choice is None else choice.allowed or ():
        if not functions:
            raise fault("function_call", "only allowed together with functions")
        if name not in names:
            raise fault("function_call.name", f"no function has this name; got {show(name)}")


def _unique_names(functions: Sequence[FunctionDefinition], field: str) -> set[str]:
    names: set[str] = set()
    for index, function in enumerate(functions):
        if function.name in names:
            raise fault(field.format(index), f"{function.name} is defined twice")
        names.add(function.name)
    return names
