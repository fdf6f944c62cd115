"""The guest image, booted: every service answers, and `ground` knows what its memory should be."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import pytest

from backends.qemu.address import free_ports
from backends.qemu.guest import SERVICES, GroundOptions, GuestImage, build, cached
from backends.qemu.guest import ground as host
from backends.qemu.guest import image as image_module
from backends.qemu.guest.packages import NoPackages
from backends.qemu.guest.services import WEB_FILES, WEB_INDEX

QEMU = "qemu-system-x86_64"
BOOT_LIMIT_S = 250
ANSWER_LIMIT_S = 100
RAM_MB = 128
TOOLS = (QEMU, "apt-cache", "apt-get", "dpkg-deb", "gcc")
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.live,
    *(
        pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")
        for tool in TOOLS
    ),
]


def image_with(services: Collection[str]) -> GuestImage:
    try:
        return build(services, print)
    except NoPackages as error:
        pytest.skip(str(error))


class Guest:
    """One QEMU; its RAM is a file, its ports are forwarded from 127.0.0.1."""

    def __init__(
        self, image: GuestImage, folder: Path, append: str, ports: Collection[int]
    ) -> None:
        self.ram_path = folder / "ram"
        self.ports = dict(zip(ports, free_ports(len(ports)), strict=True))
        self._console_path = folder / "console"
        serial_path = folder / "serial"
        forwards = "".join(
            f",hostfwd=tcp:127.0.0.1:{ours}-10.0.0.2:{port}" for port, ours in self.ports.items()
        )
        ram = f"memory-backend-file,id=ram0,size={RAM_MB}M,mem-path={self.ram_path},share=on"
        argv: list[str | Path] = [
            QEMU, "-machine", "pc,memory-backend=ram0", "-accel", "tcg", "-m", str(RAM_MB),
            "-object", ram, "-nodefaults", "-display", "none", "-no-reboot",
            "-kernel", image.kernel, "-initrd", image.initrd, "-append", append,
            "-chardev", f"file,id=c0,path={self._console_path}", "-serial", "chardev:c0",
            "-chardev", f"socket,id=c1,path={serial_path},server=on,wait=off",
            "-serial", "chardev:c1",
            "-netdev", f"user,id=n0,net=10.0.0.0/24,host=10.0.0.1{forwards}",
            "-device", "virtio-net-pci,netdev=n0,romfile=",
        ]  # fmt: skip
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        try:
            self._await_boot()
            self._serial = socket.socket(socket.AF_UNIX)
            self._serial.settimeout(ANSWER_LIMIT_S)
            self._serial.connect(str(serial_path))
            self._reader = self._serial.makefile("r")
        except BaseException:
            self.close()
            raise

    def console(self) -> str:
        return self._console_path.read_text() if self._console_path.exists() else ""

    def _await_boot(self) -> None:
        end = time.monotonic() + BOOT_LIMIT_S
        while "\ncolosim: ready" not in "\n" + self.console():
            assert self.process.poll() is None, f"QEMU ended: {self.console()}"
            assert "colosim: not ready" not in self.console(), self.console()
            assert time.monotonic() < end, f"no boot in {BOOT_LIMIT_S} s: {self.console()}"
            time.sleep(0.05)

    def ready(self) -> list[str]:
        line = next(line for line in self.console().splitlines() if "colosim: ready" in line)
        return line.split()[2:]

    def ask(self, line: str) -> str:
        self._serial.sendall(line.encode() + b"\n")
        return self._reader.readline().rstrip("\n")

    def stats(self) -> dict:
        return json.loads(self.ask("stats"))

    def connect(self, port: int) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[port]), ANSWER_LIMIT_S)

    def ram(self) -> np.ndarray:
        return np.memmap(self.ram_path, dtype=np.uint8, mode="r+")

    def close(self) -> None:
        with contextlib.suppress(AttributeError):
            self._reader.close()
            self._serial.close()
        self.process.kill()
        self.process.wait(ANSWER_LIMIT_S)


@contextlib.contextmanager
def booted(services: Collection[str], ground: GroundOptions | None = None) -> Iterator[Guest]:
    image = image_with(services)
    ports = [SERVICES[name].port for name in services]
    if "ground" in services:
        ports += [host.STREAM_PORT, host.ECHO_PORT]
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        guest = Guest(image, Path(folder), image.command_line(ground=ground), ports)
        try:
            yield guest
        finally:
            guest.close()


# --- what each service must answer ---------------------------------------------------------------


def converse(guest: Guest, port: int, *exchanges: tuple[bytes, bytes]) -> None:
    with guest.connect(port) as client:
        for request, expected in exchanges:
            client.sendall(request)
            received = b""
            while len(received) < len(expected):
                more = client.recv(1 << 16)
                assert more, f"closed after {received!r}"
                received += more
            assert received == expected


def redis_answers(guest: Guest) -> None:
    converse(
        guest,
        6379,
        (b"SET k value\r\n", b"+OK\r\n"),
        (b"GET k\r\n", b"$5\r\nvalue\r\n"),
        (b"INCR n\r\n", b":1\r\n"),
    )


def memcached_answers(guest: Guest) -> None:
    converse(
        guest,
        11211,
        (b"set k 0 0 5\r\nvalue\r\n", b"STORED\r\n"),
        (b"get k\r\n", b"VALUE k 0 5\r\nvalue\r\nEND\r\n"),
    )


def ground_answers(guest: Guest) -> None:
    converse(
        guest,
        host.LINE_PORT,
        (b"ping\n", b"pong\n"),
        (b"work us=2000 bytes=70 id=q\n", host.work_answer("q", 70).encode() + b"\n"),
    )
    converse(guest, host.ECHO_PORT, (b"any\0bytes", b"any\0bytes"))
    with guest.connect(host.STREAM_PORT) as client:
        client.sendall(b"get 3000000\n")
        client.shutdown(socket.SHUT_WR)
        digest = hashlib.sha256()
        while data := client.recv(1 << 16):
            digest.update(data)
    assert digest.digest() == hashlib.sha256(host.stream(3_000_000)).digest()


def web_answers(port: int) -> Callable[[Guest], None]:
    def answers(guest: Guest) -> None:
        for path, expected in {
            "/": WEB_INDEX,
            **{f"/{name}": host.stream(size) for name, size in WEB_FILES.items()},
        }.items():
            client = http.client.HTTPConnection(
                "127.0.0.1", guest.ports[port], timeout=ANSWER_LIMIT_S
            )
            client.request("GET", path)
            response = client.getresponse()
            assert (response.status, response.read()) == (200, expected), path
            client.close()

    return answers


ANSWERS: dict[str, Callable[[Guest], None]] = {
    "ground": ground_answers,
    "redis": redis_answers,
    "memcached": memcached_answers,
    **{name: web_answers(service.port) for name, service in SERVICES.items() if service.web},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SERVICES if name != "ground"])
def test_a_service_alone_answers(name):
    with booted([name]) as guest:
        assert guest.ready() == [name]
        ANSWERS[name](guest)
        assert "colosim: ended" not in guest.console()


def test_all_services_together_answer():
    assert set(ANSWERS) == set(SERVICES)
    with booted(list(SERVICES)) as guest:
        assert guest.ready() == list(SERVICES)
        for answers in ANSWERS.values():
            answers(guest)
        assert guest.ask("verify").startswith("ok pages=2000 ")
        assert "colosim: ended" not in guest.console()


# --- ground ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ground_guest():
    with booted(["ground"], GroundOptions(pages=3_000, rate=0, seed=7, vm="one")) as guest:
        yield guest


def test_ground_answers_on_the_serial_line_and_the_network(ground_guest):
    assert ground_guest.ready() == ["ground"]
    assert ground_guest.ask("ping") == "pong"
    assert ground_guest.ask("echo a b") == "a b"
    assert ground_guest.ask("work us=1000 bytes=2000 id=z") == host.work_answer("z", 2000)
    stats = ground_guest.stats()
    assert (stats["vm"], stats["pages"], stats["seed"]) == ("one", 3000, 7)
    ground_answers(ground_guest)


@pytest.mark.parametrize("pattern", ["sequential", "uniform"])
def test_rate_and_pattern_are_as_asked(ground_guest, pattern):
    rate, size = 2_000, 3_000
    ground_guest.ask(f"set rate={rate} pattern={pattern}")
    ground_guest.ask("mark")
    time.sleep(1.0)
    stats = ground_guest.stats()
    ground_guest.ask("set rate=0")
    touches = stats["marked_touches"]
    # Of guest time: a slow host makes the guest slow, not the rate wrong. One batch either way.
    owed = rate * stats["marked_for_ns"] * 1e-9 - stats["skipped"]
    assert abs(touches - owed) < 0.02 * rate + 2
    if pattern == "sequential":
        assert stats["distinct"] == min(touches, size)
    else:
        missed = (1 - 1 / size) ** touches
        both = (1 - 2 / size) ** touches
        variance = size * missed * (1 - missed) + size * (size - 1) * (both - missed**2)
        assert abs(stats["distinct"] - size * (1 - missed)) < 5 * math.sqrt(variance)


def test_the_host_finds_the_header_and_it_follows(ground_guest):
    ground_guest.ask("set rate=0")
    stats = ground_guest.stats()
    (header,) = host.find_headers(ground_guest.ram())
    assert header.whole
    assert (header.generation, header.touches) == (stats["generation"], stats["touches"])
    ground_guest.ask("work touch=5")
    (later,) = host.find_headers(ground_guest.ram())
    assert later == header._replace(generation=header.generation + 1, touches=header.touches + 5)


def test_verify_finds_damage_done_from_outside(ground_guest):
    ground_guest.ask("set rate=0")
    ram = ground_guest.ram()
    at = host.find_page(ram, 1234)
    assert at is not None
    good = ram[at : at + host.PAGE_BYTES].copy()
    assert ground_guest.ask("verify").startswith("ok pages=3000 ")

    for offset, why in ((16, "header"), (40, "header"), (64, "fill"), (4095, "fill")):
        ram[at + offset] ^= 1
        assert ground_guest.ask("verify") == f"bad page=1234 why={why}"
        ram[at : at + host.PAGE_BYTES] = good

    # A lost update: the page as it was before its last write is intact in itself.
    ground_guest.ask("set pattern=sequential")
    ground_guest.ask("work touch=3000")
    assert ground_guest.ask("verify").startswith("ok ")
    fresh = ram[at : at + host.PAGE_BYTES].copy()
    ram[at : at + host.PAGE_BYTES] = good
    assert ground_guest.ask("verify") == "bad page=1234 why=old"
    ram[at : at + host.PAGE_BYTES] = fresh
    assert ground_guest.ask("verify").startswith("ok ")

    (header,) = host.find_headers(ram)
    ram[header.offset + 24] ^= 1
    assert ground_guest.ask("verify") == "bad page=header why=header"
    ram[header.offset + 24] ^= 1
    assert ground_guest.ask("verify").startswith("ok ")


def test_an_unknown_service_and_a_wrong_option_are_said_on_the_console():
    image = image_with(["ground"])
    append = image.command_line(ground="pages=none").replace("services=ground", "services=ground,x")
    with tempfile.TemporaryDirectory() as folder, pytest.raises(AssertionError) as caught:
        Guest(image, Path(folder), append, [])
    for line in (
        "ground: pages=none: a whole number from 1 to 16777216",
        "colosim: ended ground status 1",
        "colosim: failed ground: it ended",
        "colosim: failed x: it is not in this image, which has: ground",
    ):
        assert line in str(caught.value)


# --- the same bytes -------------------------------------------------------------------------------

SCRIPT = """
import os, sys
from backends.qemu.guest import build
image = build(["ground", "lighttpd"], lambda line: print(line, file=sys.stderr))
print(os.getuid(), image.initrd)
"""


def built_by(cache: Path, argv: list[str]) -> tuple[str, bytes]:
    """Build with an empty image cache but the packages of ours; return who did, and the image."""
    packages = image_module.cache_folder() / "packages"
    theirs = cache / "colosim/guest/packages"
    theirs.parent.mkdir(parents=True)
    shutil.copytree(packages, theirs)
    for each in (cache, *cache.rglob("*")):
        each.chmod(0o777)
    answer = subprocess.run(
        [*argv, sys.executable, "-c", SCRIPT],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)},
        cwd=cache, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    user, path = answer.stdout.split()
    return user, Path(path).read_bytes()


@pytest.mark.slow
def test_images_are_byte_identical_whoever_builds_them():
    ours = image_with(["ground", "lighttpd"]).initrd.read_bytes()
    other_user: list[str] = []
    if os.getuid() == 0:
        other_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        probe = [*other_user, sys.executable, "-c", "import numpy"]
        if subprocess.run(probe, check=False, capture_output=True).returncode != 0:
            pytest.skip("no other user can run this Python")
    with tempfile.TemporaryDirectory(prefix="colosim-build-") as folder:
        Path(folder).chmod(0o755)
        user, theirs = built_by(Path(folder) / "cache", other_user)
    assert user == (str(os.getuid()) if not other_user else "65534")
    assert theirs == ours


def test_an_image_in_the_cache_needs_no_network_and_no_compiler(monkeypatch, tmp_path):
    image = image_with(["ground"])
    assert cached(["ground"]) == image
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    assert build(["ground"], said.append) == image
    assert said[0].startswith("taking the image from the cache: gcc was not found")


def test_a_damaged_image_is_built_again(monkeypatch, tmp_path):
    image = image_with(["ground"])
    whole = image.initrd.read_bytes()
    ours, theirs = image.kernel.parents[2], tmp_path / "colosim/guest"
    shutil.copytree(image.kernel.parent, theirs / "images" / image.kernel.parent.name)
    (theirs / "packages").symlink_to(ours / "packages")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (found,) = theirs.glob("images/*/initrd.cpio")
    assert cached(["ground"]) is not None
    found.write_bytes(whole[:1000])
    assert cached(["ground"]) is None
    assert build(["ground"], print).initrd.read_bytes() == whole
