"""QEMU's own calc-dirty-rate, on a guest of which is known what it writes."""

import asyncio
import math
import subprocess
import time

import pytest

from backends.qemu.dirty_rate import measure
from backends.qemu.errors import LiveError
from backends.qemu.guest import GroundOptions, build
from backends.qemu.launch import CLOCK
from tests.live.machines import short_directory
from tests.live.pairs import QEMU, needs_qemu

PAGES, RATE_PER_S = 8_000, 8_000.0
BOOT_LIMIT_S = 180.0


def booted(directory):
    """The ground-truth guest by itself: neither pair nor network."""
    image = build(["ground"], print)
    words = image.command_line(ground=GroundOptions(pages=PAGES, rate=RATE_PER_S)) + CLOCK["tcg"]
    console = directory / "console"
    line = [QEMU, "-accel", "tcg", "-m", "128M", "-nodefaults", "-no-user-config"]
    line += ["-display", "none", "-serial", f"file:{console}"]
    line += ["-qmp", f"unix:{directory / 'qmp'},server=on,wait=off"]
    line += ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", words]
    process = subprocess.Popen(line)
    end_s = time.monotonic() + BOOT_LIMIT_S
    while not (console.exists() and "colosim: ready" in console.read_text(errors="replace")):
        assert process.poll() is None
        assert time.monotonic() < end_s, "the guest did not boot"
        time.sleep(0.1)
    return process


def written(seconds: float) -> float:
    """Distinct pages of a uniform writer."""
    return PAGES * (1 - math.exp(-RATE_PER_S * seconds / PAGES))


@needs_qemu
def test_page_sampling_finds_the_pages_that_a_known_writer_writes():
    with short_directory() as directory:
        process = booted(directory)
        try:
            socket = directory / "qmp"
            found = asyncio.run(measure(socket, [1.0, 2.0]))
            with pytest.raises(LiveError, match="needs KVM"):
                asyncio.run(measure(socket, [1.0], "dirty-bitmap"))
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
    assert found.memory_bytes == 128 * 2**20
    for point, seconds in zip(found.points, (1.0, 2.0), strict=True):
        print(point, written(seconds))
        # A busy machine gives the guest less time to write, never more.
        assert 0.2 * written(seconds) < point.pages < 1.3 * written(seconds)
        assert point.low <= point.pages <= point.high
    assert found.points[0].pages < found.points[1].pages * 1.3


@pytest.mark.parametrize(
    ("times", "mode", "why"),
    [
        ([1.0], "guess", "unknown"),
        ([], "page-sampling", "no time"),
        ([61.0], "page-sampling", "60 s"),
    ],
)
def test_what_cannot_be_measured_is_said_before_qemu_is_asked(tmp_path, times, mode, why):
    with pytest.raises(LiveError, match=why):
        asyncio.run(measure(tmp_path / "qmp", times, mode))


def test_no_socket_is_said(tmp_path):
    with pytest.raises(LiveError, match="is no socket"):
        asyncio.run(measure(tmp_path / "qmp", [1.0]))
