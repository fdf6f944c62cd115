"""`colosim calibrate` and `colosim validate` as a user meets them."""

from __future__ import annotations

import pytest

from colosim import cli
from tests.calibration.as_live import live


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The runs that the examples in the help name."""
    monkeypatch.chdir(tmp_path)
    runs = {"r50": "50 ms", "r200": "200 ms", "r100": "100 ms", "r100-slow-link": "100 ms"}
    for name, interval in runs.items():
        link = {"bandwidth": "200 Mbit/s"} if "slow" in name else {}
        live(tmp_path / "out" / name, "remus", interval, duration="10 s", link=link)
    live(tmp_path / "out" / "none", "none", duration="5 s")
    return tmp_path


def run(capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments.split())
    out, err = capsys.readouterr()
    return exit_.value.code, out, err


def test_the_examples_in_help_are_true(here, capsys):
    calibrate, validate = (
        str(cli.cli.commands[name].epilog).removeprefix("Example: colosim ")
        for name in ("calibrate", "validate")
    )
    status, out, _ = run(capsys, calibrate)
    assert status == 0
    assert out.endswith("written: redis.toml\n")
    assert "models of dirty pages" in out
    assert run(capsys, calibrate)[0] == 0  # an older calibration may be replaced
    again = run(capsys, f"{validate} out/r50 --replications 3 --out validation --jobs 1")
    assert again[0] == 0
    assert "median error of what was predicted: " in again[1]
    assert "written to validation" in again[1]
    assert again[1].count("fitted") >= 6
    assert (here / "validation" / "validation.csv").exists()


def test_what_is_missing_of_a_run_is_one_line(here, capsys):
    (here / "out" / "r50" / "a.saves").unlink()
    status, out, err = run(capsys, "calibrate out/r50 out/r200 out/none --out x.toml")
    assert (status, out) == (2, "")
    [line] = err.splitlines()
    assert "out/r50: holds no a.saves; give runs of the wire engine by this version" in line
    (here / "out" / "r50" / "manifest.json").write_text("{")
    _, _, err = run(capsys, "calibrate out/r50 --out x.toml")
    assert "out/r50: cannot be read: " in err
