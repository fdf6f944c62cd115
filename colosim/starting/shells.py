"""What a shell may complete on the command line of colosim."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

#: where each shell wants its script
WHERE = {
    "bash": 'add to ~/.bashrc: eval "$(colosim completion bash)"',
    "zsh": 'add to ~/.zshrc, after compinit: eval "$(colosim completion zsh)"',
    "fish": "colosim completion fish > ~/.config/fish/completions/colosim.fish",
}


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

    dots = word.count(".")
    known = [*names()]
    found = {".".join(name.split(".")[: dots + 1]) for name in known if name.startswith(word)}
    return [CompletionItem(name) for name in sorted(found)]


def directory(
    _context: click.Context, _parameter: click.Parameter, word: str
) -> list[CompletionItem]:
    """A directory; the shell knows which there are."""
    return [CompletionItem(word, type="dir")]
