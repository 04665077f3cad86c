"""Chat messages as templates expect them. Knows no template and no tokenizer."""

from typing import Any

import msgspec

from tokenizer_svc.errors import invalid

Message = dict[str, Any]


def plain_messages(messages: list[Message]) -> list[Message]:
    """Messages whose content is a string and whose tool calls have their arguments as objects; new dicts."""
    if not messages:
        raise invalid("Messages cannot be empty.")
    return [_plain_message(message) for message in messages]


def _plain_message(message: Message) -> Message:
    plain = {name: value for name, value in message.items() if value is not None}
    plain["content"] = _plain_content(message.get("content"))
    if isinstance(plain.get("tool_calls"), list):
        plain["tool_calls"] = [_with_parsed_arguments(call) for call in plain["tool_calls"]]
    return plain


def _plain_content(content: Any) -> str:
    """Text parts are joined by one space, as SGLang joins them for templates that take strings."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(map(_text_of_part, content))
    raise invalid(f"The content of a message must be a string or a list of parts, got {type(content).__name__}.")


def _text_of_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise invalid(f"Only content parts of type 'text' are supported, got {kind!r}.")
    text = part.get("text")
    if not isinstance(text, str):
        raise invalid(f"The text of a content part must be a string, got {type(text).__name__}.")
    return text


def _with_parsed_arguments(call: Any) -> Any:
    """Clients send a tool call's arguments as JSON text; templates print them as an object."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = msgspec.json.decode(function["arguments"] or "{}")
    except msgspec.DecodeError as error:
        raise invalid(f"The arguments of tool call {function.get('name')!r} are not JSON: {error}.") from error
    return {**call, "function": {**function, "arguments": arguments}}
