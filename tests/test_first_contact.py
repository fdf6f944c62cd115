"""What a stranger meets first: no command, init, keys explained, completion, a terminal or none."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import click
import pytest

from colosim import cli
from colosim.protocol.policies import POLICIES
from colosim.scenario import Scenario, ScenarioError
from colosim.starting import shells
from colosim.starting.keys import explained, names, tables
from colosim.starting.template import KINDS, commands, scenario_text
from tests.small import write
from tests.terminal import Terminal


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a small scenario."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "small.toml")
    return tmp_path


def execute(*arguments, **more):
    line = [sys.executable, "-m", "colosim.cli", *arguments]
    return subprocess.run(line, check=False, capture_output=True, text=True, timeout=300, **more)


# -- no command ----------------------------------------------------------------------------------


def test_no_command_says_what_to_do_next(here, colosim_main):
    status, out, err = colosim_main()
    assert (status, err) == (0, "")
    assert len(out.splitlines()) < 12
    assert max(map(len, out.splitlines())) <= 100
    said = re.findall(r"^  (colosim [^&]*?)(?: {3,}.*| && .*)?$", out, re.MULTILINE)
    assert [line.split()[1] for line in said] == ["init", "compare", "doctor", "init", "--help"]
    for line in said:  # each is a command that there is, with arguments that it takes
        words = line.split()[1:]
        if words[0] in cli.cli.commands:
            cli.cli.commands[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("what", ["import colosim", "from colosim import cli; cli.cli"])
def test_first_import_loads_nothing_heavy(what):
    heavy = ["numpy", "pandas", "matplotlib", "pydantic", "simpy", "scipy", "joblib", "rich"]
    own = ["colosim.scenario", "colosim.protocol", "colosim.api", "backends"]
    code = f"import sys; {what}; print(sorted({{*{heavy + own!r}}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


# -- init ----------------------------------------------------------------------------------------


def test_kinds_on_the_command_line_are_those_there_are():
    [kinds] = [each for each in cli.cli.commands["init"].params if each.name == "kind"]
    assert isinstance(kinds.type, click.Choice)
    assert list(kinds.type.choices) == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("everything", [False, True])
def test_a_new_scenario_is_possible_and_says_what_its_kind_gives(kind, everything):
    text = scenario_text(kind, "mine.toml", everything)
    assert max(map(len, text.splitlines())) <= 100
    mapping = tomllib.loads(text)
    scenario = Scenario.from_mapping(mapping)
    assert mapping["name"] == scenario.name == "mine"
    for path, value in KINDS[kind].given.items():
        found = mapping
        for part in path.split("."):
            found = found[part]
        assert found == value
    assert [dict(fault) for fault in KINDS[kind].faults] == mapping.get("fault", [])


def uncommented(text):
    """The file with every key that has a default given, its tables too."""
    lines = []
    for line in text.splitlines():
        given = re.match(r"# (\[+[a-z._]+\]+$|[a-z_]+ = (?!\.\.\.))", line)
        lines.append(line[2:] if given else line)
    return "\n".join(lines)


#: tables that mean something by being there
OPTIONAL = ("disk", "guest.volume", "availability.takeover", "availability.resync")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_commented_out_are_the_defaults(kind):
    text = scenario_text(kind, "mine.toml", everything=True)
    mapping = tomllib.loads(uncommented(text))
    for table in OPTIONAL:
        if not any(path.startswith(table) for path in KINDS[kind].given):
            *above, name = table.split(".")
            del (mapping[above[0]] if above else mapping)[name]
    given = Scenario.from_mapping(mapping)
    assert given.to_mapping() == Scenario.from_mapping(tomllib.loads(text)).to_mapping()


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_in_the_whole_scenario(kind):
    """But for those of other forms of [workload] and [memory], and of tables of which are many."""
    found, table = set(), ""
    for line in scenario_text(kind, "mine.toml", everything=True).splitlines():
        if header := re.fullmatch(r"(?:# )?\[+([a-z._]+)\]+", line):
            table = header[1]
        elif key := re.match(r"(?:# )?([a-z_]+) = ", line):
            found.add(f"{table}.{key[1]}".lstrip("."))
    known = {key.path for table in tables() for key in table.keys if not table.is_list}
    missing = {path for path in known - found if not path.startswith(("workload.", "memory."))}
    assert missing == set()


@pytest.mark.parametrize("kind", KINDS)
def test_init_writes_a_scenario_that_runs_as_it_is(here, colosim_main, kind):
    status, out, err = colosim_main("init", f"{kind}.toml", "--kind", kind)
    assert (status, err) == (0, "")
    assert f"written: {kind}.toml; next:" in out
    for command in commands(f"{kind}.toml", kind):
        assert f"  {command}" in out
        words = shlex.split(command)[1:]
        cli.cli.commands[words[0]].make_context(words[0], words[1:])
    status, out, err = colosim_main("simulate", f"{kind}.toml", "--replications", 1)
    assert (status, err) == (0, "")
    assert "FLAG" not in out
    assert "VIOLATION" not in out


def test_init_overwrites_nothing(here, colosim_main):
    before = (here / "small.toml").read_bytes()
    status, out, err = colosim_main("init", "small.toml")
    assert (status, out) == (2, "")
    assert err == "colosim: small.toml: is there already; give another name, or remove it\n"
    assert (here / "small.toml").read_bytes() == before


@pytest.mark.parametrize("file", ["missing/x.toml", "/proc/x.toml", "/"])
def test_init_where_nothing_can_be_written(here, colosim_main, file):
    status, out, err = colosim_main("init", file)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"colosim: {file}: ")


def test_init_leaves_nothing_half_written(here, colosim_main):
    """A limit on the size of files stands for a full disk."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        status, _, err = colosim_main("init", "new.toml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert status == 2
    assert err == "colosim: new.toml: cannot be written: File too large\n"
    assert not (here / "new.toml").exists()


def test_odd_file_names_are_quoted_and_make_a_name(here, colosim_main):
    status, out, _ = colosim_main("init", ".my web (2).toml", "--kind", "failover")
    assert status == 0
    assert "simulate '.my web (2).toml' --out out/my-web--2-" in out
    assert tomllib.loads((here / ".my web (2).toml").read_text())["name"] == "my-web--2-"


# -- keys explained ------------------------------------------------------------------------------


def test_every_key_has_a_unit_and_a_meaning():
    keys = [key for table in tables() for key in table.keys]
    assert len(keys) > 300
    assert [key.path for key in keys if not (key.meaning and key.value)] == []


def test_defaults_are_those_of_a_scenario_that_gives_nothing():
    assert 'default "1 Gbit/s"' in explained("link.bandwidth")
    assert 'default "6 h"' in explained("availability.host_repair.mean")
    assert 'default "100 ms"' in explained("policy.remus.interval")
    assert "required" in explained("workload.rate")
    assert "required" in explained("duration")
    assert "default" not in explained("name").partition(":")[0]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("link.bandwith", "did you mean link.bandwidth?"),
        ("rate", "did you mean workload.rate?"),
        ("", "is no key"),
        ("x" * 10_000, "is no key"),
    ],
)
def test_a_key_that_is_none_is_one_clear_line(wrong, says):
    with pytest.raises(ScenarioError, match=re.escape(says)) as raised:
        explained(wrong)
    assert "\n" not in str(raised.value)


def test_schema_explains_a_table(colosim_main):
    status, out, err = colosim_main("schema", "[link]")
    assert (status, err) == (0, "")
    assert out.startswith("[link]: replication link\n    link.bandwidth (")
    assert colosim_main("schema", "lnk")[0] == 2


def test_a_key_that_chooses_a_form_says_by_which_word(colosim_main):
    _, out, _ = colosim_main("schema", "memory.kind")
    said = re.findall(r"^memory.kind \((\w+); required\): ", out, re.MULTILINE)
    assert said == ["measured", "uniform", "zipf", "sequential"]


# -- completion ----------------------------------------------------------------------------------


def asked(line):
    """What bash is told for a line that ends where the cursor is."""
    words = line.split(" ")
    given = {"_COLOSIM_COMPLETE": "bash_complete", "COMP_WORDS": line}
    done = execute(env={**os.environ, **given, "COMP_CWORD": str(len(words) - 1)})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_commands_options_policies_and_keys_are_completed():
    assert asked("colosim comp") == ["plain,compare", "plain,compare-pcap", "plain,completion"]
    assert asked("colosim simulate x.toml --pol") == ["plain,--policy"]
    assert asked("colosim simulate x.toml --policy r") == ["plain,remus"]
    assert asked("colosim compare x.toml --policies none,r") == ["plain,none,remus"]
    assert asked("colosim schema policy.remus.") == ["plain,policy.remus.interval"]
    assert asked("colosim replay ou") == ["dir,ou"]
    assert asked("colosim simulate sm") == ["file,sm"]


#: of which neither looks at the context, nor at the parameter
ASKED = (click.Context(cli.cli), click.Argument(["any"]))


def test_policies_that_were_named_are_not_offered_again():
    offered = [each.value for each in shells.policy(*ASKED, "none,remus,")]
    assert offered == [f"none,remus,{name}" for name in POLICIES if name not in ("none", "remus")]


def test_keys_are_offered_a_part_at_a_time():
    offered = [each.value for each in shells.key(*ASKED, "")]
    assert offered == sorted({name.partition(".")[0] for name in names()})


#: what is not as click has it, which no longer happens if click writes other scripts
OURS = {"zsh": "zsh_complete ${~words[1]})", "fish": 'string split --max 1 ","'}
SHELLS = {
    "bash": ["bash", "-n"],
    "zsh": ["zsh", "-n"],
    "fish": ["fish", "--no-execute"],
}


@pytest.mark.parametrize("shell", shells.WHERE)
def test_the_script_is_one_that_its_shell_can_read(here, colosim_main, shell):
    status, out, err = colosim_main("completion", shell)
    assert (status, err) == (0, "")
    first, rest = out.split("\n", 1)
    assert first == f"# {shells.WHERE[shell]}"
    assert f"_COLOSIM_COMPLETE={shell}_complete" in rest
    assert OURS.get(shell, "") in rest
    (here / "script").write_text(out)
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    subprocess.run([*SHELLS[shell], "script"], check=True, timeout=300)


def test_a_table_that_is_alone_is_offered_with_what_is_in_it():
    offered = [each.value for each in shells.key(*ASKED, "lin")]
    assert offered[0] == "link"
    assert "link.bandwidth" in offered


#: what is typed before the tabulator key -> what stands there then
TYPED = {
    "simul": "simulate",
    "compare small.toml --policies none,r": "none,remus",
    "schema policy.remus.": "policy.remus.interval",
    "simulate sm": "small.toml",
    "report fol": "folder/",
}


@pytest.fixture
def program(here, colosim_main):
    """A program colosim that is not on the PATH, a directory, and a shell's script."""
    (here / "colosim").write_text(f'#!/bin/sh\nexec {sys.executable} -m colosim.cli "$@"\n')
    (here / "colosim").chmod(0o755)
    (here / "folder").mkdir()
    for shell in shells.WHERE:
        (here / f"script.{shell}").write_text(colosim_main("completion", shell)[1])
    return "./colosim"


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_completes_what_is_typed(program):
    asks = [f"complete -C {shlex.quote(f'{program} {typed}')}; echo" for typed in TYPED]
    line = ["fish", "--no-config", "-c", "; ".join(["source script.fish", *asks])]
    done = subprocess.run(line, check=True, capture_output=True, text=True, timeout=300)
    assert done.stderr == ""
    answers = [each.split("\t")[0] for each in done.stdout.strip().split("\n\n")]
    assert answers == list(TYPED.values())


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_completes_what_is_typed(program):
    with Terminal("zsh", "-f", "-i") as zsh:
        zsh.type("PS1=; autoload -Uz compinit; compinit -u -D; source script.zsh; echo so''urced\n")
        zsh.until(r"\nsourced")
        for typed, becomes in TYPED.items():
            zsh.type(f"{program} {typed}\t")
            zsh.until(rf"{re.escape(becomes)}[ /]?$")
            zsh.type("\x15")  # kill the line


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_by_the_script(here, colosim_main):
    _, script, _ = colosim_main("completion", "bash")
    (here / "colosim").write_text(f'#!/bin/sh\nexec {sys.executable} -m colosim.cli "$@"\n')
    (here / "colosim").chmod(0o755)
    ask = (
        "COMP_WORDS=(colosim compare small.toml --policies none,r); COMP_CWORD=4\n"
        '_colosim_completion ./colosim\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script + ask], check=True, capture_output=True, text=True
    )
    assert done.stdout == "none,remus\n"


# -- terminals, pipes, disks ---------------------------------------------------------------------


@pytest.mark.parametrize("plain", [{"TERM": "dumb"}, {"NO_COLOR": "1", "TERM": "xterm"}])
@pytest.mark.skipif(shutil.which("script") is None, reason="there is no program script")
def test_no_colours_where_none_are_wanted(here, plain):
    shown = {}
    for name, given in {"plain": plain, "colours": {"TERM": "xterm"}}.items():
        env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        line = shlex.join([sys.executable, "-m", "colosim.cli", "policies"])
        done = subprocess.run(
            ["script", "-qec", f"stty cols 20; {line}", "/dev/null"],
            check=True,
            capture_output=True,
            env={**env, **given},
            stdin=subprocess.DEVNULL,
            timeout=300,
        )
        shown[name] = done.stdout
    assert b"remus" in shown["plain"]
    assert b"\x1b[" not in shown["plain"]
    assert b"\x1b[" in shown["colours"]


def test_a_full_disk_under_the_output_is_one_clear_line(here):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        line = [sys.executable, "-m", "colosim.cli", "simulate", "small.toml", "--out", "run"]
        done = subprocess.run(
            line, check=False, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300
        )
    assert done.returncode == 2
    assert done.stderr == "colosim: output: No space left on device\n"
    assert (here / "run" / "manifest.json").exists()  # what was computed is kept


def test_that_errors_cannot_be_told_changes_nothing(here):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        line = [sys.executable, "-m", "colosim.cli", "schema", "no.key"]
        assert subprocess.run(line, check=False, stderr=full, timeout=300).returncode == 2


def test_a_full_disk_under_a_trace_is_told_with_its_place(here, colosim_main, monkeypatch):
    def full(*_given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("colosim.store.encode_line", full)
    status, out, err = colosim_main("simulate", "small.toml", "--jobs", "1", "--out", "run")
    assert (status, out) == (2, "")
    assert err == "colosim: run: cannot be written: No space left on device\n"
    assert [path.name for path in here.iterdir()] == ["small.toml"]


@pytest.mark.parametrize("name", ["schema", "policies", "simulate small.toml --out run"])
def test_a_pipe_that_nobody_reads_is_no_error(here, name):
    line = shlex.join([sys.executable, "-m", "colosim.cli", *name.split()])
    done = subprocess.run(
        ["bash", "-c", f"{line} | true"], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.stderr == ""
    assert "--out" not in name or (here / "run" / "manifest.json").exists()


def test_ascii_is_enough(here):
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict"}
    done = execute("simulate", "small.toml", "--replications", "2", env=env)
    assert (done.returncode, done.stderr) == (0, "")


# -- files mixed up, keys in the wrong table -----------------------------------------------------


def test_a_sweep_is_not_taken_for_a_scenario_nor_the_other_way_round(here, colosim_main):
    write(here / "sweep.toml", 'scenario = "small.toml"\n[axes]\n"seed" = [1, 2]\n')
    status, _, err = colosim_main("simulate", "sweep.toml")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("colosim: sweep.toml: is a sweep file, not a scenario file; give it to")
    status, _, err = colosim_main("sweep", "small.toml")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("colosim: small.toml: is a scenario file, not a sweep file; ")


@pytest.mark.parametrize(
    ("key", "home"),
    [
        ("policy.interval", "policy.remus.interval"),
        ("bandwidth", "link.bandwidth"),
        ("divergence.service_time", "workload.service_time"),
        ("availability.fencing", "manager.fencing"),
    ],
)
def test_a_key_in_the_wrong_table_is_told_where_it_belongs(key, home):
    scenario = Scenario.from_mapping(tomllib.loads(scenario_text("web")))
    with pytest.raises(ScenarioError, match=f"{key}: unknown key here; .*{home}"):
        scenario.replace({key: "1 s"})


def test_doctor_lists_all_that_only_the_simulator_has(here, colosim_main):
    text = scenario_text("web").replace("[link]", '[link]\nblips = "1 /s"\nheartbeat_loss = 0.1')
    write(here / "web.toml", f"{text}\n[clocks]\nprimary_rate = 1.1\n")
    status, out, err = colosim_main("doctor", "web.toml")
    assert (status, err) == (1, "")
    found = re.findall(r"^fail +(\S+) +refused by a live run: (.*)\n +-> (.*)$", out, re.MULTILINE)
    assert found == [
        (key, "in simulation only", "leave it out")
        for key in ("link.heartbeat_loss", "link.blips", "clocks")
    ]


def test_as_a_module():
    command = [sys.executable, "-m", "colosim", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stderr, done.stdout.split()[0]) == ("", "colosim")
