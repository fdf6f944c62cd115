"""What every test shares: Hypothesis profiles, chosen by COLOSIM_PROFILE, and what was counted."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# No deadline: two cores are shared with other work, so wall-clock time of one example says nothing.
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,  # one commit gives one answer
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "campaign",
    deadline=None,
    max_examples=2_000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("COLOSIM_PROFILE", "ci"))

# Figures are drawn into files, also where a display happens to exist. Set before matplotlib loads.
os.environ["MPLBACKEND"] = "Agg"


@pytest.fixture
def colosim_main(capsys):
    """Run the command in this process: (exit status, stdout, stderr)."""

    def run(*arguments):
        from colosim import cli

        with pytest.raises(SystemExit) as ended:
            cli.main(list(map(str, arguments)))
        return (ended.value.code, *capsys.readouterr())

    return run


def pytest_terminal_summary(terminalreporter):
    """Shows what tests recorded as "counted": how much was tried, and what was left out."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    counted = [
        value for report in reports for name, value in report.user_properties if name == "counted"
    ]
    if counted:
        terminalreporter.section("counted")
        for line in counted:
            terminalreporter.line(line)
