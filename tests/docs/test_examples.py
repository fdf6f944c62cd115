"""What the pages show is what happens: sessions and commands are run, options are known."""

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from colosim import cli
from tests.docs.examples import FLAGS, blocks, calls, commands, differs

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = [page for page in PAGES if any(block.runs for block in blocks(page))]


def name(page):
    return str(page.relative_to(ROOT))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty directory where ``colosim`` is this one."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "here").mkdir()
    shim = tmp_path / "bin" / "colosim"
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m colosim.cli "$@"\n')
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def sh(line):
    return subprocess.run(
        ["bash", "-euc", line],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("page", RUN, ids=name)
def test_what_a_page_shows_happens(here, page):
    if page.stem == "api":  # its sessions begin with a scenario that is there
        sh("colosim init web.toml")
    session = {"__name__": "__main__"}
    for block in blocks(page):
        if block.kind == "pycon":
            where = f"{name(page)}:{block.number}"
            test = doctest.DocTestParser().get_doctest(
                block.text, session, where, str(page), block.number
            )
            told: list[str] = []
            runner = doctest.DocTestRunner(verbose=False, optionflags=FLAGS)
            runner.run(test, out=told.append, clear_globs=False)
            session = test.globs
            assert not runner.failures, "".join(told)
        for command in block.commands if block.runs else ():
            done = sh(command.line)
            assert done.returncode == 0, f"{command.line}\n{done.stdout}"
            assert not differs(command.expected, done.stdout), command.line


def known(words):
    """Whether colosim has this command with these options; click's words if not."""
    command = cli.cli.commands.get(words[0])
    if command is None:
        return "" if words[0].startswith("-") else f"no command {words[0]}"
    try:
        command.make_context(words[0], list(words[1:]))
    except click.exceptions.Exit:  # --help
        return ""
    except click.ClickException as error:
        return error.format_message()
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_that_a_page_names_are_known(page):
    wrong = []
    for block in blocks(page):
        for words in calls(block.text):
            schematic = any(re.search(r"^[\[{<]|\.\.\.$|^[A-Z]+$", word) for word in words)
            awaited = {"size", "report", "export", "--scheduler"}  # come with other branches
            if schematic or words[0] in awaited - {*cli.cli.commands}:
                continue
            if "--scheduler" in words and "scheduler" not in {
                each.name for each in cli.cli.commands["sweep"].params
            }:
                continue
            if why := known(words):
                wrong.append(f"{' '.join(words)}: {why}")
    assert wrong == []


def test_an_unknown_command_or_option_is_found():
    assert known(["simulat", "x"]) == "no command simulat"
    assert "--sed" in known(["simulate", "x.toml", "--sed", "1"])
    assert known(["simulate", "x.toml", "--seed", "1"]) == ""
    text = "$ colosim simulate a.toml # why\n.venv/bin/colosim doctor && colosim policies | head\n"
    assert list(calls(text)) == [["simulate", "a.toml"], ["doctor"], ["policies"]]


def test_a_wrong_output_is_found():
    [first, second] = commands("$ one\na 1\n...\nz\n$ two <<END\n> x\n> END\n")
    assert (first.line, second.line) == ("one", "two <<END\nx\nEND")
    assert differs(first.expected, "a  1\nb\nc\nz\n") == ""
    assert differs(first.expected, "a 2\nb\nz\n")
    assert differs(second.expected, "anything") == ""


def test_docstrings_that_are_sessions_run():
    import colosim
    from colosim import units

    for module in (units, colosim):
        assert doctest.testmod(module, optionflags=FLAGS).failed == 0
    assert doctest.testmod(units).attempted > 0


def test_the_policy_of_the_guide_is_one(here):
    """Saved where the guide says, it is known everywhere, and a simulation runs under it."""
    page = ROOT / "docs" / "howto" / "write-a-policy.md"
    [code] = [block.text for block in blocks(page) if block.kind == "python"]
    for package in ("colosim", "backends"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, here / package, ignore=ignore)
    (here / "colosim" / "protocol" / "policies" / "thrifty.py").write_text(code)
    env = f"export PYTHONPATH={here}; "
    done = sh(env + "colosim schema policy.thrifty")
    assert "policy.thrifty.small_kib (count" in done.stdout
    done = sh(
        env + "colosim init web.toml && colosim compare web.toml --policies remus,thrifty "
        "--replications 1 --json > found.json"
    )
    assert done.returncode == 0, done.stdout
    text = (here / "found.json").read_text()
    rates = dict(
        re.findall(r'"policy": "(\w+)", "metric": "checkpoints_per_s",[^}]*?"mean": ([\d.]+)', text)
    )
    assert float(rates["thrifty"]) != float(rates["remus"])
    assert '"violations": []' in text
