"""How Windows programs take their command line apart: CommandLineToArgvW's rules, and the C runtime's."""

from __future__ import annotations


def command_line_to_argv(line: str) -> list[str]:
    """What CommandLineToArgvW makes of a command line (but for an empty one, where it tells its own path).

    Microsoft's rules, as Wine's shell32 and ReactOS have them: the program's name ends at the next quote if it begins
    with one, else at the first character up to a blank; in the rest 2n backslashes and a quote are n backslashes and a
    switch, 2n+1 are n backslashes and a quote, and in quotes two quotes are one.
    """
    if not line:
        return []
    if line[0] == '"':
        end = line.find('"', 1)
        program, rest = (line[1:], "") if end < 0 else (line[1:end], line[end + 1 :])
    else:
        end = next((index for index, character in enumerate(line) if character <= " "), len(line))
        program, rest = line[:end], line[end:]
    return [program, *_arguments(rest)]


def _arguments(rest: str) -> list[str]:
    found: list[str] = []
    index = 0
    while index < len(rest):
        if rest[index] in " \t":
            index += 1
            continue
        argument, index = _argument(rest, index)
        found.append(argument)
    return found


def _argument(rest: str, index: int) -> tuple[str, int]:
    text = ""
    quoted = False
    while index < len(rest):
        character = rest[index]
        if character in " \t" and not quoted:
            break
        if character == "\\":
            count = len(rest[index:]) - len(rest[index:].lstrip("\\"))
            index += count
            if index < len(rest) and rest[index] == '"':
                text += "\\" * (count // 2)
                if count % 2:
                    text += '"'
                    index += 1
            else:
                text += "\\" * count
        elif character == '"':
            index += 1
            if quoted and index < len(rest) and rest[index] == '"':
                text += '"'
                index += 1
            else:
                quoted = not quoted
        else:
            text += character
            index += 1
    return text, index
