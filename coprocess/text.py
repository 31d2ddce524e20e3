"""Text of others, made harmless for a terminal, a log and a status; and numbers of things in words."""

from __future__ import annotations

import re


def printable(text: str) -> str:
    """`text` with escapes in place of control characters, and of halves of surrogate pairs."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def indented(text: str) -> str:
    """`text`, of which no line but the first can pass for a line of our own."""
    return text.replace("\n", "\n    ")


def block(text: str) -> str:
    """`text` of several lines, such as a traceback, of which none begins where a line of our own does."""
    return "\n".join(map(_block_line, text.split("\n")))


def _block_line(line: str) -> str:
    line = "\t".join(map(printable, line.split("\t")))
    is_ours = not line or line.startswith((" ", "\t")) or line == "Traceback (most recent call last):"
    return line if is_ours else f"  {line}"


def terminal_text(text: str) -> str:
    """`text` of several lines, perhaps styled, with escapes as JSON has them for what else a terminal obeys.

    That is control characters, marks of writing direction, and what is not seen at all.
    """
    return text if text.isprintable() else _OBEYED.sub(_escaped, text)


#: Our own styles are kept: bold, dim, colours and their end.
_OBEYED = re.compile(r"(?P<style>\x1b\[(?:0|1|2|3[1-6])m)|[^\n\t -~]")


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    if found["style"] or character.isprintable():
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def counted(number: int, noun: str) -> str:
    """`1 recording`, `2 recordings`, `2 addresses`."""
    more = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else more}"
