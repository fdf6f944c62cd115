"""The command ``colosim``.

Results go to stdout, all else to stderr.  Exit status: 0 done, 1 a replay or a genuine pair's log
differs, a point of a sweep failed, an exploration found a violation or the doctor a fault, 2
something given cannot be used, 70 a defect of colosim, 130 Ctrl-C, 143 SIGTERM, which ends a
command as Ctrl-C does.
Whatever takes time to import is imported by the command that needs it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any, NoReturn, cast

import click

from colosim import __version__, showing
from colosim.showing import say
from colosim.sizing.command import size
from colosim.starting import shells

if TYPE_CHECKING:
    import pandas as pd


_Command = Callable[..., Any]


def _options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Several options as one decorator."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_POLICY = click.option(
    "--policy",
    metavar="NAME",
    shell_complete=shells.policy,
    help="Instead of the scenario's policy.",
)
_FILE = click.argument("file", type=click.Path(path_type=Path))
_JOBS = click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(1),
    help="Processes; default as many as are worth it.",
)
_RUN = _options(
    click.option(
        "--seed",
        metavar="N",
        type=click.IntRange(0, 2**63 - 1),
        help="Instead of the scenario's seed.",
    ),
    click.option(
        "--replications",
        metavar="N",
        type=click.IntRange(1),
        help="Instead of the scenario's number of runs.",
    ),
    click.option(
        "--fidelity",
        type=click.Choice(["response", "packet", "epoch"]),
        help="Instead of the scenario's fidelity.",
    ),
    click.option(
        "--out",
        metavar="DIR",
        shell_complete=shells.directory,
        help="Directory to write; new, empty, or an older run.",
    ),
    click.option(
        "--trace",
        type=click.Choice(["none", "first", "all"]),
        default="first",
        show_default=True,
        help="Replications to write traces of, with --out.",
    ),
    click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout."),
    _JOBS,
)


def _seconds(context: click.Context, parameter: click.Parameter, text: str) -> float:
    """A time with its unit, such as "3 s" or "-5 ms"."""
    from colosim.units import TIME, UnitError

    text = text.strip()
    sign = -1 if text.startswith("-") else 1
    try:
        return sign * TIME.parse(text.removeprefix("-")) / 1e9
    except UnitError as error:
        raise click.BadParameter(f"{text}: {error}", context, parameter) from None


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="'colosim COMMAND --help' says more, with an example.",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """What would COLO, Remus or micro-checkpointing cost your workload, and does it survive?

    FILE is a scenario in TOML; 'colosim schema' lists all it may say.
    """
    if context.invoked_subcommand is None:
        click.echo(_NEXT)


_NEXT = """\
colosim: what would COLO, Remus or micro-checkpointing cost your workload, and does it survive?

  colosim init web.toml         a scenario to begin with, every key explained; --kind for others
  colosim compare web.toml      none, Remus and COLO side by side, simulated
  colosim doctor                can this machine run real guests? it tries
  colosim init --kind live pair.toml && colosim live pair.toml
                                two real QEMU guests; one is killed, the other goes on
  colosim --help                all commands; 'colosim COMMAND --help' has an example of each
"""


@cli.command(epilog="Example: colosim init web.toml --kind web")
@click.argument("file", required=False, default="scenario.toml", type=click.Path(path_type=Path))
@click.option(
    "--kind",
    type=click.Choice(["web", "batch", "disk", "failover", "live"]),
    default="web",
    show_default=True,
    help="What it is about; live: two real guests.",
)
@click.option("--all", "everything", is_flag=True, help="Every key there is, with its default.")
def init(file: Path, kind: str, everything: bool) -> int:
    """Write a scenario to begin with, its keys explained; never over a file.

    FILE is scenario.toml if none is given. It runs as it is; then put in your own numbers.
    """
    from colosim.starting.template import commands, write_scenario

    write_scenario(file, kind, everything)
    click.echo(f"written: {file}; next:")
    for command in commands(str(file), kind):
        click.echo(f"  {command}")
    return 0


@cli.command(epilog="Example: colosim simulate web.toml --policy remus --out out/web-remus")
@_FILE
@_POLICY
@_RUN
def simulate(file: Path, policy: str | None, as_json: bool, **options: Any) -> int:
    """Simulate a scenario under one policy."""
    from colosim import api

    run = partial(api.simulate, file, policy, **options)
    return showing.shown(run, showing.runs(as_json), options["out"])


@cli.command(epilog="Example: colosim compare web.toml --policies none,remus,colo --json")
@_FILE
@click.option(
    "--policies",
    metavar="NAMES",
    default="none,remus,colo",
    show_default=True,
    shell_complete=shells.policy,
    help="Separated by commas; differences are taken from the first.",
)
@_RUN
def compare(file: Path, policies: str, as_json: bool, **options: Any) -> int:
    """Simulate a scenario under several policies that meet the same random draws."""
    from colosim import api

    names = [name.strip() for name in policies.split(",")]
    run = partial(api.compare, file, names, **options)
    return showing.shown(run, showing.runs(as_json), options["out"])


@cli.command(epilog="Example: colosim availability web.toml --policies none,colo --out out/years")
@_FILE
@click.option(
    "--policies",
    metavar="NAMES",
    default="none,remus,colo",
    show_default=True,
    shell_complete=shells.policy,
    help="Separated by commas.",
)
@click.option(
    "--seed", metavar="N", type=click.IntRange(0, 2**63 - 1), help="Instead of the scenario's seed."
)
@click.option(
    "--cycles",
    metavar="N",
    type=click.IntRange(10, 10_000_000),
    default=50_000,
    show_default=True,
    help="Simulated cycles of failure and recovery for each policy.",
)
@click.option(
    "--out",
    metavar="DIR",
    shell_complete=shells.directory,
    help="Directory to write; new, empty, or an older run.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@_JOBS
def availability(file: Path, policies: str, as_json: bool, **options: Any) -> int:
    """Say what a year comes to: downtime, outages, lost work, and what causes them.

    Simulates each fault of the table [availability] for how long clients see nothing, and makes
    years of that, of failure rates and of repairs: exactly, as if all times were exponential
    (markov), and by simulated cycles with the given distributions, in which rare failures are made
    likely (monte carlo).
    """
    from colosim import dependability

    names = [name.strip() for name in policies.split(",")]
    run = partial(dependability.availability, file, names, **options)
    return showing.shown(run, showing.years(as_json), options["out"])


@cli.command(epilog="Example: colosim live experiments/live/ground.toml --out out/live")
@_FILE
@_POLICY
@click.option(
    "--seed", metavar="N", type=click.IntRange(0, 2**63 - 1), help="Instead of the scenario's seed."
)
@click.option(
    "--out",
    metavar="DIR",
    shell_complete=shells.directory,
    help="Directory to write; new, empty, or an older run.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--watch", is_flag=True, help="Show on stderr what happens, as it happens.")
def live(file: Path, as_json: bool, out: str | None, watch: bool, **options: Any) -> int:
    """Run a scenario on two real QEMU guests of this machine.

    One protects the other by the same state machines, over COLO's own wire protocol. Needs no
    root and no KVM. The scenario's [guest], [client] and [[fault]] tables say what runs, who talks
    to it and what goes wrong.
    """
    from colosim import api

    options["say"] = say
    if watch:
        from colosim.watching.onlooker import Onlooker

        looker = options["looker"] = Onlooker()
        options["say"] = looker.say
    run = partial(api.live, file, out=out, **options)
    return showing.shown(run, showing.runs(as_json, phases=True), out)


@cli.command(
    epilog="Example: colosim agent --listen 10.0.0.2:7070 --secret-file ~/.config/colosim.secret"
)
@click.option(
    "--listen", metavar="ADDRESS:PORT", required=True, help="Where the runner connects to."
)
@click.option(
    "--secret-file",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="The secret that the runner must have too; 16 bytes or more, mode 600.",
)
@click.option(
    "--directory",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where guest memory and received files are; default /dev/shm, and the user's cache.",
)
def agent(listen: str, secret_file: Path, directory: Path | None) -> int:
    """Let a runner on another machine have hosts here, as its scenario's [hosts] says.

    Starts QEMU and a node for one runner at a time, and ends them, and all they left, when it goes.
    Whoever has the secret may start programs as this user. The secret is never sent, but nothing
    is encrypted: use a private network, WireGuard or an ssh tunnel. Ctrl-C or SIGTERM end it.
    """
    from backends.qemu.host_agent import AgentOptions, run_agent

    run_agent(AgentOptions(listen, secret_file.expanduser(), directory), say)
    return 0


@cli.command(epilog="Example: colosim doctor --qemu /opt/qemu/bin/qemu-system-x86_64")
@click.argument("file", required=False, metavar="[SCENARIO]", type=click.Path(path_type=Path))
@click.option(
    "--qemu",
    "qemus",
    multiple=True,
    metavar="PROGRAM",
    default=["qemu-system-x86_64"],
    show_default=True,
    help="QEMU to look at; may be given again.",
)
@click.option("--no-test", is_flag=True, help="Without the self-test with real guests.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(file: Path | None, qemus: Sequence[str], no_test: bool, as_json: bool) -> int:
    """Say what this machine can do live, by trying; or what is unsafe in a scenario.

    Ends with a self-test: protect a real guest, checkpoint it, kill it, take over. Exit status is 1
    if live runs do not work here, or the scenario has a setting that defeats protection.
    """
    import asyncio

    from backends.qemu import doctor
    from backends.qemu.findings import lines_of
    from backends.qemu.unsafe import unsafe

    if file is None:
        found = asyncio.run(doctor.examine(qemus, say, tests=not no_test))
        click.echo(found.to_json() if as_json else "\n".join(found.lines()))
        return 0 if found.works else 1
    import json
    from dataclasses import asdict

    from colosim.scenario import load_scenario

    findings = unsafe(load_scenario(file))
    if as_json:
        click.echo(json.dumps({"scenario": str(file), "findings": [asdict(f) for f in findings]}))
    else:
        click.echo("\n".join(lines_of(findings)) or "nothing unsafe was found")
    return 1 if any(finding.status == "fail" for finding in findings) else 0


@cli.command(epilog="Example: colosim watch out/live --speed 10x --from 4s")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--speed",
    metavar="N|max",
    default="1x",
    show_default=True,
    help="Times as fast as it was: 10x, 0.1x, or max for as fast as can be.",
)
@click.option(
    "--from", "from_s", metavar="TIME", callback=_seconds, default="0 s", help="Where to begin."
)
@click.option(
    "--policy",
    metavar="NAME",
    shell_complete=shells.policy,
    help="Of a scenario: instead of its own.",
)
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0, 2**63 - 1),
    help="Of a scenario: instead of its own.",
)
def watch(run: Path, speed: str, from_s: float, policy: str | None, seed: int | None) -> int:
    """Show a run again: checkpoints, pauses, dirty pages, held output, faults and failover.

    RUN is a directory that 'colosim live --out' or 'colosim simulate --out' wrote, a trace in it,
    or a scenario in TOML, which is then simulated. For a run that goes on: colosim live --watch.
    """
    from colosim.watching.command import watch as show

    show(run, speed, from_s, policy, seed)
    return 0


_LIVE_RUNS = click.argument(
    "runs", nargs=-1, required=True, metavar="RUN...", shell_complete=shells.directory
)


@cli.command(epilog="Example: colosim calibrate out/r50 out/r200 out/none --out redis.toml")
@_LIVE_RUNS
@click.option("--out", metavar="SCENARIO.toml", required=True, help="Scenario file to write.")
def calibrate(runs: Sequence[str], out: str) -> int:
    """Turn live runs into a scenario for the simulator.

    RUN is a directory that 'colosim live --out' wrote. Give runs of one guest at two checkpoint
    intervals or more, and for a service one with policy none. Runs of policy colo say why guests
    differ; give two of different load. The file says of every number where it came from; beside it
    go NAME.calibration.json and, where dirty pages are a measured curve, NAME.pages.csv.
    """
    from colosim.calibration import calibrate as run

    found = run(runs, out)
    click.echo(f"{found.runs.drop(columns='fingerprint').to_string(index=False)}\n")
    click.echo("models of dirty pages; score: mean error at a run left out of the fit")
    click.echo(f"{found.memory.sort_values('score').round(4).to_string(index=False)}\n")
    click.echo(f"{found.numbers.to_string(index=False)}\n")
    if len(found.hazards):
        click.echo("why the guests were checkpointed; exact 95 % intervals")
        hazards = found.hazards.round({"exposure": 1, "log_likelihood": 1})
        click.echo(f"{hazards.to_string(index=False, float_format='{:.4g}'.format)}\n")
        if not found.hazards["events"].any():
            click.echo("no mismatch was seen: the rate in the file is an upper bound (95 %)")
    click.echo(f"written: {found.path}")
    return 0


@cli.command(epilog="Example: colosim validate redis.toml out/r100 out/r100-slow-link")
@_FILE
@_LIVE_RUNS
@click.option(
    "--out",
    metavar="DIR",
    shell_complete=shells.directory,
    help="Directory for validation.csv and a figure.",
)
@click.option(
    "--replications",
    metavar="N",
    type=click.IntRange(2),
    default=20,
    show_default=True,
    help="Simulated runs for each live one.",
)
@_JOBS
def validate(file: Path, runs: Sequence[str], **options: Any) -> int:
    """Predict live runs with a calibrated scenario, and compare.

    Each RUN's own policy, load and link are simulated with FILE's costs, memory and service times.
    A run that FILE was calibrated on is marked as fitted, for that proves nothing.
    """
    from colosim.calibration import readable
    from colosim.calibration import validate as run

    found = run(file, runs, **options)
    click.echo(f"{readable(found).to_string(index=False)}\n")
    medians = found.median_errors()
    medians["median_error"] = [f"{each:.1%}" for each in medians["median_error"]]
    medians["inside"] = [f"{each:.0%}" for each in medians["inside"]]
    click.echo(f"{medians.to_string(index=False)}\n")
    if found.median_error == found.median_error:  # not NaN
        click.echo(f"median error of what was predicted: {found.median_error:.1%}")
    if options["out"]:
        click.echo(f"written to {options['out']}")
    return 0


@cli.command("import-qemu-log", epilog="Example: colosim import-qemu-log p.log s.log --out pair")
@click.argument("primary", type=click.Path(path_type=Path))
@click.argument("secondary", required=False, type=click.Path(path_type=Path))
@click.option(
    "--out",
    metavar="DIR",
    shell_complete=shells.directory,
    help="Run directory to write: phases.csv and our trace.",
)
def import_qemu_log(primary: Path, secondary: Path | None, out: str | None) -> int:
    """Read the logs of a genuine COLO pair: what each phase took, and what differs from our tables.

    Give both QEMUs '-msg timestamp=on -D FILE -trace enable=colo_* -trace enable=runstate_set'.
    With --out also our trace of the pair, for 'colosim replay'. Exit status is 1 if a message or a
    stop differs from what our protocol core does.
    """
    import pandas as pd

    from backends.qemu.qemu_log import differences, phases

    table = pd.DataFrame(phases(primary, secondary))
    # request_ns is the moment when it was sent, all others are durations
    times = table.filter(like="_ns").drop(columns="request_ns").astype(float) / 1e6
    shown = pd.DataFrame(
        {"n": times.count(), "median": times.median(), "p99": times.quantile(0.99)}
    )
    shown.index = [f"{name.removesuffix('_ns').replace('_', ' ')} (ms)" for name in times.columns]
    click.echo(shown.round(3).to_string())
    found = [] if secondary is None else differences(primary, secondary)
    if out is not None:
        found += _write_log_trace(primary, secondary, table, out)
    for difference in found[: showing.MOST_SHOWN]:
        click.secho(difference, fg="red")
    if secondary is not None or out is not None:
        click.echo(f"{len(found)} differences from our tables")
    return 1 if found else 0


def _write_log_trace(
    primary: Path, secondary: Path | None, table: pd.DataFrame, out: str
) -> list[str]:
    """Write a run directory of two logs; what differed while our nodes lived through them."""
    from backends.qemu.log_trace import trace_of
    from colosim import store

    trace = trace_of(primary, secondary)
    with store.new_directory(out) as directory:
        with store.trace_writer(directory / "trace-0.jsonl.gz") as write:
            for line in trace.lines:
                write(line)
        logs = [str(path) for path in (primary, secondary) if path is not None]
        manifest = {"kind": "log", "world": "log", "logs": logs}
        store.write(directory, manifest, {"phases.csv": table})
    return [f"trace: {difference}" for difference in trace.differences]


@cli.command(epilog="Example: colosim replay out/web-remus")
@click.argument("directory", shell_complete=shells.directory)
def replay(directory: str) -> int:
    """Feed the traces below a directory to the protocol core again.

    Every decision must be as recorded and the invariants must hold; otherwise exit status is 1.
    """
    from colosim import api

    return max(showing.replay(each) for each in api.replay(directory))


@cli.command("compare-pcap", epilog="Example: colosim compare-pcap p.pcap s.pcap --mode qemu")
@click.argument("primary", type=click.Path(path_type=Path))
@click.argument("secondary", type=click.Path(path_type=Path))
@click.option(
    "--mode",
    type=click.Choice(["strict", "qemu"]),
    default="strict",
    show_default=True,
    help="How frames are compared; qemu: as colo-compare does, defects included.",
)
@click.option(
    "--compare-timeout",
    "compare_timeout_s",
    metavar="TIME",
    callback=_seconds,
    default="3 s",
    show_default=True,
    help="How long output of one guest alone is held.",
)
@click.option(
    "--offset",
    "offset_s",
    metavar="TIME",
    callback=lambda *given: "auto" if given[-1] == "auto" else _seconds(*given),
    default="0 s",
    show_default=True,
    help="Added to the secondary's times; may be negative; auto: by frames of clients in both.",
)
@click.option(
    "--secondary-numbers",
    "numbers",
    type=click.Choice(["own", "translated", "auto"]),
    default="auto",
    show_default=True,
    help="Whose TCP sequence numbers the secondary's capture has.",
)
@click.option("--guest", metavar="MAC", help="Default: the most frequent source in both captures.")
@click.option(
    "--checkpoint-pause",
    "checkpoint_pause_s",
    metavar="TIME",
    callback=_seconds,
    default="0 s",
    show_default=True,
    help="How long a checkpoint stops the guests.",
)
@click.option(
    "--first",
    metavar="N",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="How many verdicts to show.",
)
@click.option(
    "--out",
    metavar="DIR",
    shell_complete=shells.directory,
    help="Directory to write; new, empty, or an older run.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def compare_pcap(primary: Path, secondary: Path, first: int, as_json: bool, **options: Any) -> int:
    """Say when COLO would have released a guest's output or checkpointed, and why.

    PRIMARY and SECONDARY are captures (pcap, pcapng; tcpdump, QEMU's filter-dump) of two guests
    with the same input. Each difference is assumed to cause a checkpoint. Only frames of the
    guest itself are compared.
    """
    from colosim.pcap import compare_pcap as run

    compared = partial(run, primary, secondary, **options)
    return showing.shown(compared, showing.pcaps(as_json, first), options["out"])


cli.add_command(size)


_SWEEP_EXAMPLE = """\b
Example: colosim sweep bandwidth.toml, where that file holds
  scenario = "web.toml"
  policies = ["none", "remus"]
  replications = 20
  [axes]
  "link.bandwidth" = ["1 Gbit/s", "10 Gbit/s"]
  "policy.remus.interval" = ["25 ms", "100 ms"]
"""


@cli.command(epilog=_SWEEP_EXAMPLE)
@_FILE
@click.option(
    "--out",
    metavar="DIR",
    shell_complete=shells.directory,
    help="Directory of the dataset; default out/NAME-OF-FILE.",
)
@click.option(
    "--scheduler",
    metavar="NAME",
    default="processes",
    show_default=True,
    help="Or tcp://HOST:PORT (Dask), ray, ray://HOST:PORT.",
)
@click.option(
    "--adaptive",
    is_flag=True,
    help="Further replications where intervals are wide; see [adaptive].",
)
@_JOBS
def sweep(file: Path, out: str | None, jobs: int | None, scheduler: str, adaptive: bool) -> int:
    """Vary any fields of a scenario: a grid, a list, a Latin hypercube or Sobol' points.

    The result is a dataset of Parquet files. The same command goes on with a sweep that was ended,
    and runs nothing twice.
    """
    from colosim import sweeps
    from colosim.sweeps import command

    plan = sweeps.plan(file, adaptive)
    return command.show(
        plan, sweeps.run(plan, out or Path("out", file.stem), jobs, scheduler=scheduler), say
    )


@cli.command(epilog="Example: colosim explore --what swarm --runs 100000 --out out/swarm")
@click.argument("file", required=False, metavar="[FILE]", type=click.Path(path_type=Path))
@click.option(
    "--what",
    type=click.Choice(["singles", "pairs", "swarm"]),
    default="singles",
    show_default=True,
    help="Every fault at every step; two; or drawn.",
)
@click.option(
    "--designs",
    metavar="PATTERNS",
    default="*",
    show_default=True,
    help="Such as colo/*; separated by commas.",
)
@click.option(
    "--runs",
    metavar="N",
    type=click.IntRange(1),
    default=10_000,
    show_default=True,
    help="Points of a swarm.",
)
@click.option(
    "--seed", metavar="N", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True
)
@click.option(
    "--occurrence",
    metavar="N",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Which time a step is entered.",
)
@click.option("--replays", is_flag=True, help="Hold that every run's trace replays.")
@click.option(
    "--per-first",
    metavar="N",
    type=click.IntRange(1),
    help="Of pairs: so many second faults of each first one, drawn; default all.",
)
@click.option("--live", is_flag=True, help="On real guests, some 25 s a run.")
@click.option(
    "--points",
    metavar="N",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Runs with --live.",
)
@click.option("--point", metavar="POINT", help="Run this one point and show its trace.")
@click.option(
    "--out",
    metavar="DIR",
    shell_complete=shells.directory,
    help="Directory to write; goes on with what it holds.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@_JOBS
def explore(
    file: Path | None,
    designs: str,
    point: str | None,
    as_json: bool,
    live: bool,
    points: int,
    **options: Any,
) -> int:
    """Strike a protected guest with every fault at every step, and judge what becomes of it.

    A run that breaks what its design promises is made as small as it goes and shown as a readable
    trace, with the command that runs it again; exit status is then 1. FILE is a scenario of your
    own; without it a small one is used that notices failures within some 30 ms.
    """
    from colosim.exploration import exploring

    if point is not None:
        from colosim.exploration.exploring import look
        from colosim.exploration.live import look_live
        from colosim.exploration.space import Point

        verdict, _, trace = (look_live if live else look)(Point.parse(point))
        return showing.point(verdict, trace, as_json)
    patterns = designs.split(",")
    if live:
        from colosim.exploration.live import explore_live

        patterns = ["*/upstream/*/*"] if designs == "*" else patterns
        given = {name: options[name] for name in ("seed", "out")}
        found = explore_live(points, patterns, file or "live", say=say, **given)
    else:
        found = exploring.explore(options.pop("what"), patterns, file or "quick", **options)
    showing.exploration(as_json)(found, showing.place_of(options["out"]))
    if found.interrupted:
        goes_on = "is kept, and the same command goes on with it"
        lost = "is lost but for what is shown; with --out DIR it is kept"
        say(f"interrupted; what was finished {goes_on if options['out'] else lost}")
        return 130
    return 1 if found.found.violations else 0


@cli.command(epilog="Example: colosim report out/web --out web.html")
@click.argument("directory", metavar="DIR", shell_complete=shells.directory)
@click.option("--out", metavar="FILE", help="File to write; default DIR-report.html.")
def report(directory: str, out: str | None) -> int:
    """Write one HTML file about a result: verdict, figures, tables, provenance.

    DIR is what simulate, compare, live, sweep, explore, availability or compare-pcap wrote. The
    file needs no network and nothing beside it; it can be read on a phone and printed.
    """
    from colosim.reporting import report as write

    click.echo(f"written to {write(directory, out)}")
    return 0


@cli.command(epilog="Example: colosim export --perfetto out/live --out live.perfetto-trace.gz")
@click.argument("directory", metavar="DIR", shell_complete=shells.directory)
@click.option("--perfetto", is_flag=True, required=True, help="For ui.perfetto.dev.")
@click.option(
    "--replication",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Which one; it must have a trace.",
)
@click.option("--out", metavar="FILE", help="File to write; default DIR.perfetto-trace.gz.")
def export(directory: str, perfetto: bool, replication: int, out: str | None) -> int:
    """Write a run as a timeline of both guests, the link and the clients.

    DIR is what simulate or live wrote with a trace. Needs the package perfetto:
    pip install 'colosim[perfetto]'.
    """
    from colosim.timelines import export as write

    click.echo(f"written to {write(directory, out, replication)}; open it in ui.perfetto.dev")
    return 0


@cli.command()
def policies() -> None:
    """List the policies and their parameters."""
    from colosim.protocol.combinations import REFUSED
    from colosim.protocol.policies import POLICIES

    for policy in POLICIES.values():
        click.secho(policy.name, bold=True)
        click.echo(f"    {policy.summary}")
        click.echo(f"    output waits for: {_WAITS_FOR[policy.output.value]}")
        if policy.protects():
            click.echo(f"    transfer, if none is given: {policy.transfer.value}")
        for row in REFUSED:
            if policy.name in row.of.get("policy", ()):
                others = (words for name, words in row.of.items() if name != "policy")
                refused = " and ".join(" or ".join(sorted(words)) for words in others)
                click.echo(f"    not with {refused}: {row.why}")
        for line in _parameters(policy.Params):
            click.echo(f"    {line}")


@cli.command(epilog="Example: colosim schema policy.remus")
@click.argument("key", required=False, shell_complete=shells.key)
def schema(key: str | None) -> None:
    """Explain a key or table of a scenario, such as link.bandwidth.

    Without KEY: the JSON schema of a scenario, every field with its meaning and unit.
    """
    if key is not None:
        from colosim.starting.keys import explained

        click.echo(explained(key))
        return
    import json

    from colosim.scenario import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@cli.command(epilog="Example: colosim completion bash")
@click.argument("shell", type=click.Choice(list(shells.WHERE)))
def completion(shell: str) -> None:
    """Print the script that lets a shell complete commands, options, policies and keys.

    Its first line says where it goes.
    """
    click.echo(shells.script(cli, shell))


# --------------------------------------------------------------------------------------------
# Showing

_WAITS_FOR = {
    "none": "nothing",
    "commit": "the commit of its checkpoint",
    "witness": "equal output of the secondary, else the commit of its checkpoint",
}


def _parameters(params: Any) -> list[str]:
    from dataclasses import fields

    from colosim.units import dimension_of, without_unit

    lines = []
    for parameter in fields(params):
        dimension, value = dimension_of(parameter.name), cast(int, parameter.default)
        default = dimension.format(value) if dimension else value
        unit = parameter.metadata["unit"]
        text = parameter.metadata["help"]
        lines.append(f"{without_unit(parameter.name)} ({unit}, default {default}): {text}")
    return lines


# --------------------------------------------------------------------------------------------
# Errors


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; every error is a line on stderr for each problem."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    with _sigterm_as_ctrl_c() as came:
        status = _status(given)
    sys.exit(143 if came and status == 130 else status)


def _status(given: list[str]) -> int:
    try:
        return cli.main(given, "colosim", standalone_mode=False, color=_colour()) or 0
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads any more
        return 1
    except Exception as error:
        if _is_expected(error):
            return _fail(_words(error), 2)
        if "--debug" in given:
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(f"defect: {what} (colosim --debug ... shows where)", 70)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[list[int]]:
    """Within, SIGTERM is heard as Ctrl-C: batch systems and time limits send it.  Filled then."""
    came: list[int] = []

    def hear(number: int, _: object) -> None:
        came.append(number)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a script
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)

    if current_thread() is not main_thread():
        yield came
        return
    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


#: Something that was given cannot be used; by name, for to import them all takes a second or two.
_EXPECTED = {
    "backends.qemu.errors": "LiveError",
    "colosim.calibration.errors": "CalibrationError",
    "colosim.exploration.space": "PointError",
    "colosim.model.errors": "ModelError",
    "colosim.pcap.errors": "CaptureError",
    "colosim.protocol.trace": "TraceError",
    "colosim.scenario.reading": "ScenarioError",
    "colosim.sizing.errors": "SizingError",
    "colosim.store": "StoreError",
    "colosim.sweeps.errors": "SweepError",
    "colosim.watching.errors": "WatchError",
}


def _is_expected(error: Exception) -> bool:
    """Something that was given cannot be used, or the system refuses it."""
    kinds = type(error).__mro__
    return OSError in kinds or any(_EXPECTED.get(k.__module__) == k.__name__ for k in kinds)


def _words(error: Exception) -> str:
    """What an expected error says; of the system's, what it is about."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error) or type(error).__name__  # a time-out has no words of its own
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' and '.join(named) or 'output'}: {error.strerror}"


def _colour() -> bool | None:
    """No colour where none is wanted, or understood; None: what a terminal understands."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return False if plain else None


def _fail(text: str, status: int) -> int:
    for line in text.splitlines():
        say(line)
    return status


if __name__ == "__main__":
    main()
