"""Quoting: other people's text as harmless data in a prompt.

What is quoted stands inside a fence drawn at random for each request. Before, it is rid of all that
is invisible, of chat-template tokens and of the fence itself, so that nothing in it can pass for
our own words or for the model's markup. Knows text only; it knows nothing of blocks or budgets.
"""

from __future__ import annotations

import re
import secrets
import string
import unicodedata

from copersona.errors import ConfigError

_MIN_FENCE = 8
"""Letters of a fence: 37 bits, and few tokens, since it stands around every example of others."""

_TEMPLATE_TOKENS = re.compile(
    r"""
      [<＜]\s?[|｜][^<>＜＞|｜\n]{1,64}[|｜]\s?[>＞]          # <|im_start|>, <｜User｜>
    | \[\s?/?\s?(?:INST|SYS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT)\s?\]
    | <<\s?/?\s?SYS\s?>>
    | <\s?/?\s?(?:s|bos|eos|pad|unk|sep|cls|mask|think|system|assistant|user|human|im_start|im_end
        |tool_call|tool_response|tool_calls|tools|function_calls?|(?:start|end)_of_turn
        |(?:begin|end)_of_text|endoftext|(?:start|end)_header_id|eot_id)\s?>
    | ^[ \t>*]{0,8}\#{1,6}[ \t]*
        (?:system|instructions?|assistant|user|human|response|input)\b[ \t]*:?
    | ^[ \t>*]{0,8}(?:system|assistant|user|human|developer|tool)[ \t*]{0,4}:
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_TOKEN_SIGNS = re.compile("[][<>＜＞|｜#:]")
_PASSES = 8
_LINE_BREAKS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_HIDDEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\U000e0100-\U000e01ef]"
)


def sanitise(text: str, fence: str) -> str:
    """A user's text as harmless data: nothing invisible, no chat-template token, no fence.

    What is removed leaves nothing behind, and removal is repeated so that two halves cannot meet
    and form a token anew. A text that keeps forming them was built to: it loses every sign that
    such tokens are made of.
    """
    text = _LINE_BREAKS.sub("\n", text)
    if not text.isascii() or not text.isprintable():
        text = "".join(filter(_is_visible, _HIDDEN.sub("", text)))
    for _ in range(_PASSES):
        if not _TOKEN_SIGNS.search(text):  # no token is without one, and most texts are
            return _without(fence, text).strip()
        cleaned = _without(fence, _TEMPLATE_TOKENS.sub("", text))
        if cleaned == text:
            return text.strip()
        text = cleaned
    return _without(fence, _TOKEN_SIGNS.sub(" ", text)).strip()


def _without(fence: str, text: str) -> str:
    if fence.lower() not in text.lower():
        return text
    pattern = re.compile(re.escape(fence), re.IGNORECASE)
    while pattern.search(text):
        text = pattern.sub("", text)
    return text


def _is_visible(character: str) -> bool:
    if character in "\n\t":
        return True
    return unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co"}


def quote(text: str, fence: str) -> str:
    """The same in one line."""
    return " ".join(sanitise(text, fence).split())


def draw_fence(given: str | None = None) -> str:
    """The mark around quoted text of one request, drawn at random unless given.

    Raises:
        ConfigError: the given one is too simple, or not of letters and digits.
    """
    if given is None:
        return "".join(secrets.choice(string.ascii_lowercase) for _ in range(_MIN_FENCE))
    if len(given) < _MIN_FENCE or not given.isalnum() or not given.isascii():
        raise ConfigError(f"fence {given!r} needs {_MIN_FENCE} or more letters and digits")
    return given
