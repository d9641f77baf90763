"""`longshore completion`: prints a completion script for a shell. `completion_words.py` gives the words."""

from __future__ import annotations

from ..arguments.parser import Arguments, UsageError, Verb

BASH = r"""# longshore completion for bash
_longshore() {
    local cur words cword line IFS=$'\n'
    COMPREPLY=()
    if declare -F _get_comp_words_by_ref >/dev/null; then
        _get_comp_words_by_ref -n := cur words cword
    else
        words=("${COMP_WORDS[@]}") cword=$COMP_CWORD cur=${COMP_WORDS[COMP_CWORD]}
    fi
    while IFS= read -r line; do
        COMPREPLY+=("${line%%$'\t'*}")
    done < <("${words[0]}" __complete "${words[@]:1:cword}" 2>/dev/null)
    if declare -F __ltrim_colon_completions >/dev/null; then
        __ltrim_colon_completions "$cur"
    fi
}
complete -o bashdefault -o default -F _longshore longshore
"""

ZSH = r"""#compdef longshore
# longshore completion for zsh
_longshore() {
    local -a found
    local value text
    while IFS=$'\t' read -r value text; do
        found+=("${value//:/\\:}:$text")
    done < <("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    if (( $#found )); then
        _describe -V longshore found
    else
        _files
    fi
}
if [ "$funcstack[1]" = _longshore ]; then _longshore; else compdef _longshore longshore; fi
"""

FISH = r"""# longshore completion for fish
function __longshore_complete
    set -l words (commandline -opc)
    set -l found (longshore __complete $words[2..-1] (commandline -ct) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c longshore -f -k -a '(__longshore_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def show(args: Arguments) -> int:
    script = SCRIPTS.get(args.shell)
    if script is None:
        raise UsageError(f"there is no completion for {args.shell!r}", hint=f"use one of: {', '.join(SCRIPTS)}")
    print(script, end="")
    return 0


VERB = Verb(
    "completion",
    "Print a completion script: verbs, options, names of containers.",
    arguments=["SHELL"],
    simple=show,
    text="SHELL is bash, zsh or fish.",
    examples=[
        ('eval "$(longshore completion bash)"', "for this shell; or in ~/.bashrc"),
        ("longshore completion zsh > ~/.zfunc/_longshore", "with ~/.zfunc in $fpath"),
        ("longshore completion fish > ~/.config/fish/completions/longshore.fish", "for fish"),
    ],
)
