"""The completion scripts of bash, zsh and fish, and how bash wants its words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kmsctl.completion import FILES, Word

BASH: Final = r"""# Completion of kmsctl for bash (4.4 or later).
_kmsctl() {
    local reply
    COMPREPLY=()
    while IFS= read -r reply; do
        if [[ $reply == $'\tFILES' ]]; then
            compopt -o default
            return
        fi
        COMPREPLY+=("$reply")
    done < <("$1" __complete bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
}
complete -F _kmsctl kmsctl
"""

ZSH: Final = r"""#compdef kmsctl
# Completion of kmsctl for zsh.
_kmsctl() {
    local -a values shown
    local reply
    for reply in "${(@f)$("${words[1]}" __complete zsh "${(@Q)words[1,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}"; do
        [[ -n $reply ]] || continue
        if [[ $reply == $'\tFILES' ]]; then
            _files
            return
        fi
        values+=("${reply%%$'\t'*}")
        shown+=("${reply/$'\t'/  -- }")
    done
    (( ${#values} )) && compadd -l -d shown -a values
}
if [[ $funcstack[1] == _kmsctl ]]; then
    _kmsctl "$@"
else
    compdef _kmsctl kmsctl
fi
"""

FISH: Final = r"""# Completion of kmsctl for fish.
function __kmsctl_complete
    set -l words (commandline -opc)
    set -l unfinished (commandline -ct)
    set -l plain (string unescape -- "$unfinished"; or echo "$unfinished")
    set -l replies ($words[1] __complete fish $words "$plain" 2>/dev/null)
    if test "$replies" = \tFILES
        __fish_complete_path "$unfinished"
    else
        printf '%s\n' $replies
    end
end
complete -c kmsctl -f -a '(__kmsctl_complete)'
"""

_SPECIAL: Final = frozenset(" \t\n|&;()<>$`\"'\\*?[]{}!")
"""Characters that bash would not take as they are, wherever they stand in a word."""


def _escaped(word: str) -> str:
    """Return a word as it is typed in bash: no more backslashes than it needs."""
    start = "\\" if word.startswith(("#", "~")) else ""
    return start + "".join(f"\\{each}" if each in _SPECIAL else each for each in word)


def split(line: str) -> tuple[list[str], str, bool]:
    """Return a command line of bash up to the cursor: its words, the last one unfinished; how that one was typed; and
    whether a quote is open in it."""
    words: list[str] = []
    word, start, quote, index = "", 0, "", 0
    while index < len(line):
        each = line[index]
        if quote:
            if each == quote:
                quote = ""
            elif each == "\\" and quote == '"' and line[index + 1 : index + 2] in ('"', "\\", "$", "`"):
                index += 1
                word += line[index]
            else:
                word += each
        elif each.isspace():
            if index > start:
                words.append(word)
            word, start = "", index + 1
        elif each == "\\":
            index += 1
            word += line[index : index + 1]
        elif each in "'\"":
            quote = each
        else:
            word += each
        index += 1
    return [*words, word], line[start:], bool(quote)


def bash_replies(found: Sequence[Word], typed: str, *, quoted: bool, breaks: str) -> list[str]:
    """Return what bash's COMPREPLY should hold. typed: the word as it stands; breaks: COMP_WORDBREAKS.

    readline replaces only what stands behind the last of the breaks, that one too if it is @ or $
    (rl_special_prefixes), and takes the rest as it is.
    """
    if any(each.text == FILES for each in found):
        return [FILES]
    if quoted:
        return [each.text for each in found if _SPECIAL.isdisjoint(each.text)]
    last = max((typed.rfind(each) for each in breaks), default=-1)
    kept = last + (typed[last : last + 1] not in ("@", "$"))
    replies = [_escaped(word.text) for word in found]
    return [reply[kept:] for reply in replies if reply.startswith(typed[:kept])]
