"""What a shell may complete on the command line of colosim."""

from __future__ import annotations

import click
from click.shell_completion import (
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
)

#: where each shell wants its script
WHERE = {
    "bash": 'add to ~/.bashrc: eval "$(colosim completion bash)"',
    "zsh": 'add to ~/.zshrc, after compinit: eval "$(colosim completion zsh)"',
    "fish": "colosim completion fish > ~/.config/fish/completions/colosim.fish",
}


def _changed(kind: type[ShellComplete], *changes: tuple[str, str]) -> str:
    """The script of click's with other parts; those that it has not are left alone."""
    text = kind.source_template
    for theirs, ours in changes:
        text = text.replace(theirs, ours)
    return text


@add_completion_class
class _Fish(FishComplete):
    """Values may hold commas ("none,remus"); and what is asked is the program that was typed."""

    source_template = _changed(
        FishComplete,
        ('string split ","', 'string split --max 1 ","'),
        ("(commandline -t) %(prog_name)s)", "(commandline -t) (commandline -opc)[1])"),
    )


@add_completion_class
class _Zsh(ZshComplete):
    """What is asked is the program that was typed, which need not be on the PATH."""

    source_template = _changed(
        ZshComplete,
        ("    (( ! $+commands[%(prog_name)s] )) && return 1\n", ""),
        ("zsh_complete %(prog_name)s)", "zsh_complete ${~words[1]})"),
    )


def script(command: click.Command, shell: str) -> str:
    """The script that makes a shell ask colosim."""
    found = get_completion_class(shell)
    assert found is not None
    complete = found(command, {}, "colosim", "_COLOSIM_COMPLETE")
    text = complete.source_template % complete.source_vars()  # `source` would run bash to ask it
    return f"# {WHERE[shell]}\n{text}"


def policy(_context: click.Context, _parameter: click.Parameter, word: str) -> list[CompletionItem]:
    """One policy, or the last of several between commas."""
    from colosim.protocol.policies import POLICIES

    before, comma, last = word.rpartition(",")
    taken = before.split(",")
    return [
        CompletionItem(f"{before}{comma}{name}", help=each.summary)
        for name, each in POLICIES.items()
        if name.startswith(last) and name not in taken
    ]


def key(_context: click.Context, _parameter: click.Parameter, word: str) -> list[CompletionItem]:
    """A table or a key of a scenario, a part between dots at a time."""
    from colosim.starting.keys import names

    known = [name.split(".") for name in names() if name.startswith(word)]
    parts = word.count(".") + 1
    found = {".".join(name[:parts]) for name in known}
    if len(found) == 1:  # a table alone would be taken for all that there is to type
        found |= {".".join(name[: parts + 1]) for name in known}
    return [CompletionItem(name) for name in sorted(found)]


def directory(
    _context: click.Context, _parameter: click.Parameter, word: str
) -> list[CompletionItem]:
    """A directory; the shell knows which there are."""
    return [CompletionItem(word, type="dir")]
