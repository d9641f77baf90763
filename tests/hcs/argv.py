"""How Windows programs take their command line apart: CommandLineToArgvW's rules."""

from __future__ import annotations


def command_line_to_argv(line: str) -> list[str]:
    """What CommandLineToArgvW makes of a command line (but for an empty one, where it tells its own path).

    Microsoft's rules, as Wine's shell32 has them: the program's name ends at the next quote if it begins with one, else
    at the first character up to a blank; in the rest 2n backslashes and a quote are n backslashes and a switch, 2n+1
    are n backslashes and a quote. Of quotes in a row programs think differently (the C runtime takes two in quotes for
    one, and stays inside): nobody should write them.
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
    quotes = 0  # of those that are not meant: odd is inside, and every third in a row is meant after all
    while index < len(rest):
        character = rest[index]
        if character in " \t" and not quotes:
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
            while index < len(rest) and rest[index] == '"':
                quotes += 1
                if quotes == 3:
                    text += '"'
                    quotes = 0
                index += 1
            if quotes == 2:
                quotes = 0
        else:
            text += character
            index += 1
    return text, index
