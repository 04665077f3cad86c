"""Chat messages, from the parts that clients may send to the plain strings that chat templates expect."""

from typing import Any

from gateway.errors import bad_request


def template_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with every content as a string; raises a 400 for parts that are no text."""
    return [_template_message(message) for message in messages]


def _template_message(message: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(message.get("role"), str):
        raise bad_request("Every message needs a role.", param="messages")
    content = message.get("content")
    if content is None or isinstance(content, str):
        return message
    if not isinstance(content, list):
        raise bad_request("The content of a message must be a text or a list of parts.", param="messages")
    return message | {"content": " ".join(map(_text_of, content))}


def _text_of(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        text: str = part["text"]
        return text
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    if kind == "text":
        raise bad_request("A content part of type text must have its text as a string.", param="messages")
    raise bad_request(f"Content of type {kind} is not supported: only text is.", param="messages")
