"""The command compare-pcap: what it prints, what it refuses, and what it keeps."""

import json
import shlex

import pandas as pd
import pytest

import colosim
from colosim import cli
from tests.captures import CLIENT, GUEST, Pair, pcap, udp


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with two captures: 40 datagrams, of which three differ."""
    monkeypatch.chdir(tmp_path)
    pair = Pair()
    for i in range(40):
        pair.ours(100 * i, udp(b"number %d" % i))
        theirs = b"numbeR %d" if i in (5, 6, 30) else b"number %d"
        pair.theirs(100 * i + 3, udp(theirs % i))
    pair.write(tmp_path)
    (tmp_path / "empty.pcap").write_bytes(b"")
    (tmp_path / "none.pcap").write_bytes(pcap([]))
    (tmp_path / "wifi.pcap").write_bytes(pcap(pair.primary, link=105))
    (tmp_path / "short.pcap").write_bytes(pcap(pair.primary, snap=40))
    (tmp_path / "junk.pcap").write_bytes(bytes(range(256)))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    return tmp_path


@pytest.fixture
def colosim_main(capsys):
    """Run the command in this process: (exit status, stdout, stderr)."""

    def run(arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["compare-pcap", *shlex.split(arguments)])
        return (ended.value.code, *capsys.readouterr())

    return run


ERRORS = [
    # arguments, what the line says
    ("p.pcap", "SECONDARY"),
    ("missing.pcap s.pcap", "missing.pcap: cannot be read: No such file"),
    ("p.pcap folder", "folder: is a directory; give a capture file"),
    ("p.pcap /dev/zero", "/dev/zero: is not a regular file"),
    ("empty.pcap s.pcap", "empty.pcap: is empty"),
    ("none.pcap s.pcap", "none.pcap: holds no frames"),
    ("p.pcap junk.pcap", "junk.pcap: is no capture file (pcap or pcapng)"),
    ("p.pcap wifi.pcap", "wifi.pcap: has link type 105 (802.11), not Ethernet (1)"),
    ("p.pcap short.pcap", "short.pcap: 40 frames of the guest are not whole, frame 1 has 40 of 50"),
    ("p.pcap s.pcap --mode loose", "--mode"),
    ("p.pcap s.pcap --secondary-numbers mine", "--secondary-numbers"),
    ("p.pcap s.pcap --compare-timeout 3", "a time needs a unit"),
    ("p.pcap s.pcap --compare-timeout '0 s'", "compare_timeout_s must be positive"),
    ("p.pcap s.pcap --compare-timeout '-1 s'", "compare_timeout_s must be positive"),
    ("p.pcap s.pcap --checkpoint-pause '-1 s'", "checkpoint_pause_s must not be negative"),
    ("p.pcap s.pcap --checkpoint-pause nan", "--checkpoint-pause"),
    ("p.pcap s.pcap --offset '1 h'", "s.pcap: begins after p.pcap ends, by 3,596.103 s; if they"),
    ("p.pcap s.pcap --offset=-1h", "s.pcap: ends before p.pcap begins, by 3,596.097 s; if they"),
    ("p.pcap s.pcap --offset auto", "s.pcap: holds no frame of a client that is in the primary's"),
    (f"p.pcap s.pcap --guest {CLIENT}", f"has no frame from {CLIENT}, only from {GUEST}"),
    ("p.pcap s.pcap --guest eth0", "'eth0' is no MAC address"),
    ("p.pcap s.pcap --first -1", "--first"),
    ("p.pcap s.pcap --out folder", "folder: is a directory that no run wrote"),
    ("p.pcap s.pcap --out p.pcap", "p.pcap: is a file"),
    ("p.pcap s.pcap --out /proc/run", "/proc/run: cannot be written"),
]


@pytest.mark.parametrize(("arguments", "says"), ERRORS)
def test_every_error_is_one_clear_line(here, colosim_main, arguments, says):
    before = sorted(here.rglob("*"))
    status, out, err = colosim_main(arguments)
    assert (status, out) == (2, "")
    [line] = err.splitlines()
    assert line.startswith("colosim: ")
    assert says in line
    assert sorted(here.rglob("*")) == before


def test_it_says_what_it_took_what_became_of_it_and_where_it_differs(here, colosim_main):
    status, out, err = colosim_main("p.pcap s.pcap --first 2")
    assert (status, err) == (0, "")
    assert f"p.pcap and s.pcap: guest {GUEST}, mode strict" in out
    assert f"note: guest {GUEST}: the only source in both captures" in out
    values = dict(line.split()[:2] for line in out.splitlines() if len(line.split()) == 3)
    assert values["frames"] == "40"
    assert values["frames_by_checkpoint"] == values["checkpoints_content"] == "3"
    assert values["hold_p50_ms"] == values["hold_max_ms"] == "3.000"
    assert "the first 2 of 3 verdicts" in out
    assert (
        "0.503000 s  differs (content)  udp 10.0.0.2:53 > 10.0.0.1:5000  "
        "frame primary 6 and secondary 6  byte 5\n"
        "    primary    72 20 35                                         r 5\n"
        "    secondary  52 20 35                                         R 5\n"
    ) in out
    assert "nothing was written" in out


def test_the_first_of_the_verdicts_may_be_none(here, colosim_main):
    assert "verdicts" not in colosim_main("p.pcap s.pcap --first 0")[1]
    assert "verdicts" not in colosim_main("p.pcap p.pcap")[1]


def test_json_is_one_object_without_nan(here, colosim_main):
    status, out, err = colosim_main(
        "p.pcap s.pcap --json --mode qemu --offset '-1 ms' --checkpoint-pause 20ms "
        "--compare-timeout 2s --secondary-numbers own"
    )
    assert (status, err, out.count("\n")) == (0, "", 1)
    body = json.loads(out, parse_constant=pytest.fail)
    assert body["colosim"] == colosim.__version__
    assert body["settings"] == {
        "mode": "qemu",
        "compare_timeout_s": 2.0,
        "offset_s": -0.001,
        "numbers": "own",
        "checkpoint_pause_s": 0.02,
    }
    assert body["reasons"] == {"content": 3}
    values = {row["metric"]: row["value"] for row in body["summary"]}
    assert values["hold_max_ms"] == pytest.approx(22)
    assert len(body["verdicts"]) == 3
    assert body["verdicts"][0]["ours"] == "72 20 35"


def test_json_of_nothing_that_left_has_no_nan(here, colosim_main):
    pair = Pair()
    pair.ours(0, udp(b"mine"))
    pair.theirs(1, udp(b"hers", port=9))
    pair.write(here)
    _, out, _ = colosim_main("p.pcap s.pcap --json")
    values = {row["metric"]: row["value"] for row in json.loads(out)["summary"]}
    assert values["frames_held_at_end"] == 1
    assert values["hold_p50_ms"] is None


def test_what_it_keeps_is_what_python_gives(here, colosim_main):
    status, out, _ = colosim_main("p.pcap s.pcap --out out/compared")
    assert (status, out.splitlines()[-1]) == (0, "written to out/compared")
    found = colosim.compare_pcap("p.pcap", "s.pcap")
    kept = here / "out" / "compared"
    pd.testing.assert_frame_equal(pd.read_parquet(kept / "frames.parquet"), found.frames)
    verdicts = pd.read_csv(kept / "verdicts.csv")
    assert list(verdicts["offset"]) == list(found.verdicts["offset"]) == [5, 5, 5]
    assert len(pd.read_csv(kept / "checkpoints.csv")) == 3
    manifest = json.loads((kept / "manifest.json").read_text())
    assert manifest["guest"] == GUEST
    assert {"holds.svg", "holds.png", "summary.csv"} <= set(manifest["files"])
    assert colosim_main("p.pcap s.pcap --out out/compared")[0] == 0  # an older run is replaced


def test_progress_is_told_in_megabytes_of_both_passes(here):
    pair = Pair()
    for i in range(3_000):
        pair.both(i, udp(i.to_bytes(4, "big") * 300))
    pair.write(here)
    told: list[tuple[int, int]] = []
    colosim.compare_pcap(
        "p.pcap", "s.pcap", progress=lambda done, total: told.append((done, total))
    )
    assert {total for _, total in told} == {15}
    assert told == sorted(told)
    assert told[-1][0] == 15
