"""The parts of a guest image, without a guest: archive, ELF, modules, packages, `ground` itself."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.qemu.address import free_ports
from backends.qemu.errors import LiveError
from backends.qemu.guest import SERVICES, GroundOptions, GuestImage, build, cached, cpio, elf
from backends.qemu.guest import ground as host
from backends.qemu.guest import packages as packages_module
from backends.qemu.guest.kernel import load_order, module_name
from backends.qemu.guest.packages import NoPackages, Packages
from backends.qemu.guest.programs import compile_ground
from backends.qemu.guest.services import chosen

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")

# --- archive -------------------------------------------------------------------------------------

paths = st.lists(st.sampled_from(["a", "bb", "ccc", "d.d"]), min_size=1, max_size=3).map("/".join)


def records(data: bytes) -> Iterator[tuple[str, list[int], bytes]]:
    """A reader of its own, straight from the format's description."""
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name_end = at + 110 + numbers[11]
        name = data[at + 110 : name_end - 1].decode()
        start = name_end + -name_end % 4
        content = data[start : start + numbers[6]]
        at = start + numbers[6] + -numbers[6] % 4
        yield name, numbers, content
        if name == "TRAILER!!!":
            assert at == len(data)
            return


@given(st.dictionaries(paths, st.binary(max_size=9)))
def test_every_file_and_the_folders_above_it_are_in_the_archive(wanted):
    wanted = {
        path: data
        for path, data in wanted.items()
        if not any(other.startswith(path + "/") for other in wanted)
    }
    tree = cpio.Tree()
    for path, content in wanted.items():
        tree.add(path, cpio.regular(content, 0o640))
    found = list(records(tree.archive()))[:-1]
    files = {name: data for name, numbers, data in found if stat.S_ISREG(numbers[1])}
    assert files == wanted
    folders: set[str] = set()
    for name, numbers, _ in found:
        above = name.rpartition("/")[0]
        assert not above or above in folders  # the kernel makes none by itself
        if stat.S_ISDIR(numbers[1]):
            folders.add(name)


def test_archive_is_sorted_and_names_nobody():
    tree = cpio.Tree()
    tree.add("/usr/bin/program", cpio.regular(b"12345", 0o755))
    tree.add("dev/console", cpio.character_device(5, 1))
    tree.add("lib", cpio.symlink("usr/lib"))
    found = {name: (numbers, content) for name, numbers, content in records(tree.archive())}
    assert list(found) == [
        "dev", "dev/console", "lib", "usr", "usr/bin", "usr/bin/program", "TRAILER!!!",
    ]  # fmt: skip
    for numbers, _ in found.values():
        assert numbers[2] == numbers[3] == numbers[5] == 0  # uid, gid, time
    assert stat.S_ISCHR(found["dev/console"][0][1])
    assert found["dev/console"][0][9:11] == [5, 1]
    assert found["lib"][1] == b"usr/lib"
    assert found["usr/bin/program"][0][1] == stat.S_IFREG | 0o755
    inodes = [numbers[0] for name, (numbers, _) in found.items() if name != "TRAILER!!!"]
    assert len(set(inodes)) == len(inodes)  # equal ones would be hard links


def test_archive_does_not_depend_on_the_order_of_adding():
    files = {"b/x": cpio.regular(b"1"), "a": cpio.regular(b"2"), "b/a": cpio.regular(b"")}
    one, other = cpio.Tree(), cpio.Tree()
    for path, entry in files.items():
        one.add(path, entry)
    for path, entry in reversed(files.items()):
        other.add(path, entry)
    assert one.archive() == other.archive()
    with pytest.raises(ValueError, match="already, and different"):
        one.add("a", cpio.regular(b"3"))


# --- ELF and modules -----------------------------------------------------------------------------


@needs_gcc
def test_needed_libraries_of_a_program(tmp_path):
    source = "#include <math.h>\nint main(int n, char **a) { return (int)cbrt(n + !a[0]); }"
    (tmp_path / "x.c").write_text(source)
    subprocess.run(["gcc", "-O0", "-o", "x", "x.c", "-lm"], cwd=tmp_path, check=True)
    needed = elf.needed((tmp_path / "x").read_bytes())
    assert needed[0].startswith("ld-linux")
    assert set(needed[1:]) == {"libm.so.6", "libc.so.6"}


def test_what_is_no_elf_file_needs_nothing_and_a_cut_one_is_refused():
    assert elf.needed(b"#!/bin/sh\n") == ()
    data = Path("/bin/true").read_bytes()
    if not elf.is_elf(data):
        pytest.skip("/bin/true is no 64-bit ELF file here")
    assert elf.needed(data)
    with pytest.raises(ValueError, match="damaged ELF"):
        elf.needed(data[:70])


def module(depends: str) -> bytes:
    return b"\x7fELF...\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0"


def test_modules_are_loaded_after_those_they_need():
    modules = {
        "virtio_net": module("net-failover,virtio"),
        "net_failover": module("failover"),
        "failover": module(""),
        "virtio": module("virtio_ring"),
        "virtio_ring": module(""),
        "unused": module(""),
    }
    order = load_order(modules, ("virtio_net", "virtio_blk"))  # virtio_blk: built in
    assert order == ["failover", "net_failover", "virtio_ring", "virtio", "virtio_net"]
    assert module_name("virtio-rng.ko.xz") == "virtio_rng"


# --- packages ------------------------------------------------------------------------------------

SHOWN = {
    "web": "Section: httpd\nDepends: libtop (>= 1), perl:any, first | second, virtual",
    "libtop": "Section: libs\nPre-Depends: zdeep",
    "zdeep": "Section: libs\nDepends: libtop",
    "perl": "Section: perl\nDepends: libperl",
    "libperl": "Section: libs",
    "first": "Section: libs",
    "second": "Section: libs",
}


@pytest.fixture
def known(monkeypatch):
    """apt-cache that knows SHOWN. Its format is checked against the real one in the live tests."""

    def run(argv, limit_s, cwd=None):
        names = [word for word in argv if word in SHOWN]
        if "depends" in argv:
            lines = [f"{name}\n  Depends: other" for name in SHOWN]
            return subprocess.CompletedProcess(argv, 0, "\n".join(["<virtual>", *lines]), "")
        text = "\n\n".join(
            f"Package: {name}\nVersion: 1:2-3\nSize: 10\nSHA256: {name}00\n{SHOWN[name]}"
            for name in names
        )
        return subprocess.CompletedProcess(argv, 100, text, "")

    monkeypatch.setattr(packages_module, "_run", run)
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")


def test_a_package_brings_its_libraries_and_nothing_else(known, tmp_path):
    resolved = Packages(tmp_path, print).resolve({"web"})
    assert list(resolved) == ["first", "libtop", "web", "zdeep"]
    assert resolved["libtop"].version == "1:2-3"


def test_without_the_tools_of_debian_the_error_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoPackages, match=r"apt-cache was not found.*needs the package apt"):
        Packages(tmp_path, print)


@needs_gcc
@pytest.mark.skipif(shutil.which("apt-cache") is None, reason="no apt")
def test_without_lists_and_network_one_line_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = tmp_path / "apt.conf"
    config.write_text(
        f'Dir::State::lists "{tmp_path}/none";\nDir::Etc::sourcelist "{tmp_path}/sources.list";\n'
        f'Dir::Etc::sourceparts "{tmp_path}/none";\nAcquire::Retries "0";\n'
    )
    (tmp_path / "sources.list").write_text(
        "deb [trusted=yes] http://127.0.0.1:1/debian none main\n"
    )
    monkeypatch.setenv("APT_CONFIG", str(config))
    said: list[str] = []
    with pytest.raises(
        NoPackages, match=r"no package lists: .*127\.0\.0\.1.*needs the network"
    ) as caught:
        build(["ground"], said.append)
    assert "\n" not in str(caught.value)
    assert said == ["fetching package lists"]


def test_a_damaged_package_is_named(tmp_path):
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb")
    deb = tmp_path / "x.deb"
    deb.write_bytes(b"no package")
    with pytest.raises(LiveError, match=r"x\.deb is no sound package.*delete it"):
        list(packages_module.files(deb, lambda path: True))


# --- services and images -------------------------------------------------------------------------


def test_services_are_in_one_order_whatever_was_asked():
    assert chosen(["redis", "ground", "redis"]) == ("ground", "redis")
    assert len({service.port for service in SERVICES.values()}) == len(SERVICES)
    with pytest.raises(LiveError, match="no service apache: choose one or more of ground, redis"):
        chosen(["ground", "apache"])
    with pytest.raises(LiveError, match="no services"):
        chosen([])


def test_command_line_of_an_image():
    image = GuestImage(Path("k"), Path("i"), "", ("ground", "redis"), "")
    line = image.command_line(["redis"], GroundOptions(pages=7, vm="a"))
    assert " colosim.services=redis " in line
    assert line.endswith(
        "colosim.ground=pages=7,rate=5000.0,pattern=uniform,exponent=1.0,seed=1,fill=4032,vm=a"
    )
    with pytest.raises(LiveError, match="the image has no service nginx, only ground, redis"):
        image.command_line(["nginx"])


def test_an_empty_cache_has_no_image(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cached(["ground"]) is None


# --- ground, as a program of this machine --------------------------------------------------------


class Ground:
    """`ground` started here; its ports are on 127.0.0.1."""

    def __init__(self, program: Path, options: str) -> None:
        self.port, *_ = free_ports(3)
        self.process = subprocess.Popen(
            [program, f"port={self.port},echo={self.port + 2}", options], stdout=subprocess.PIPE
        )
        self.line = self.connect(0)
        self.reader = self.line.makefile("r")

    def connect(self, after: int) -> socket.socket:
        for _ in range(1000):
            try:
                return socket.create_connection(("127.0.0.1", self.port + after), 60)
            except ConnectionRefusedError:
                assert self.process.poll() is None, self.process.communicate()
                time.sleep(0.02)
        raise AssertionError("ground does not listen")

    def ask(self, line: str) -> str:
        self.line.sendall(line.encode() + b"\n")
        return self.reader.readline().rstrip("\n")

    def stats(self) -> dict:
        return json.loads(self.ask("stats"))

    def close(self) -> None:
        self.reader.close()
        self.line.close()
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    path = tmp_path_factory.mktemp("program") / "ground"
    path.write_bytes(compile_ground())
    path.chmod(0o755)
    return path


@pytest.fixture
def start(program):
    started: list[Ground] = []

    def call(options: str) -> Ground:
        started.append(Ground(program, options))
        return started[-1]

    yield call
    for one in started:
        one.close()


def test_ground_answers(start):
    ground = start("pages=50,rate=0,vm=p")
    assert ground.ask("ping") == "pong"
    assert ground.ask("echo a  b=c ") == "a  b=c "
    assert ground.ask("echo") == ""
    assert ground.ask("verify") == "ok pages=50 generation=0"
    assert ground.ask("work touch=120 bytes=33 id=r-7") == host.work_answer("r-7", 33)
    assert ground.ask("work") == ""
    stats = ground.stats()
    assert (stats["vm"], stats["touches"], stats["generation"]) == ("p", 120, 1)
    assert ground.ask("verify") == "ok pages=50 generation=1"


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("fly", "error: fly: ping, echo,"),
        ("set rate=-1", "error: rate=-1: a number from 0 to 10000000"),
        ("set rate=nan", "error: rate=nan: a number"),
        ("set pattern=x", "error: pattern=x: uniform, zipf or sequential"),
        ("set pages=9", "error: pages: rate, pattern and exponent can be set"),
        ("set rate", "error: rate: expected KEY=VALUE"),
        ("work us=1e9", "error: us=1e9: a whole number from 0 to 60000000"),
        ("work bytes=9999999", "error: bytes=9999999: a whole number from 0 to 1048576"),
        ("work diverge=2", "error: diverge=2: a number from 0 to 1"),
        ("corrupt page=50", "error: page=50: a whole number from 0 to 49"),
        ("echo " + "x" * 9_000, "error: a line of more than 8191 bytes"),
    ],
)
def test_ground_says_what_would_be_right(start, command, answer):
    ground = start("pages=50,rate=0")
    assert ground.ask(command).startswith(answer)
    assert ground.ask("ping") == "pong"


@pytest.mark.parametrize("options", ["pages=0", "rate=x", "colour=red", "vm=a b", "fill=5000"])
def test_ground_does_not_start_with_wrong_options(program, options):
    answer = subprocess.run(
        [program, options], capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 1
    assert answer.stdout.startswith(f"ground: {options.partition('=')[0]}")


def test_a_damaged_page_is_found_and_a_write_heals_it(start):
    ground = start("pages=50,rate=0,pattern=sequential")
    assert ground.ask("corrupt page=3") == "ok"
    assert ground.ask("verify") == "bad page=3 why=fill"
    ground.ask("work touch=4")
    assert ground.ask("verify") == "ok pages=50 generation=1"


def test_divergence_is_decided_by_the_request_and_never_the_same_twice(start):
    ground = start("pages=1,rate=0")
    diverged = 0
    for i in range(200):
        answers = {ground.ask(f"work bytes=64 id={i} diverge=0.25") for _ in range(2)}
        expected = host.work_answer(str(i), 64)
        assert {answer[:-16] for answer in answers} == {expected[:-16]}
        if host.diverges(str(i), 0.25):
            diverged += 1
            assert len(answers | {expected}) == 3
        else:
            assert answers == {expected}
    assert 30 < diverged < 70  # 50 expected; 3.3 standard deviations


@pytest.mark.parametrize("pattern", ["sequential", "uniform", "zipf"])
def test_distinct_pages_are_as_in_theory(start, pattern):
    """Mean and deviation from the simulator's own models of the same patterns."""
    from colosim.model import memory

    size, touches = 1_000, 1_500
    ground = start(f"pages={size},rate=0,pattern={pattern},seed=42")
    counts = []
    for _ in range(60):
        ground.ask("mark")
        ground.ask(f"work touch={touches}")
        counts.append(ground.stats()["distinct"])
    if pattern == "sequential":
        assert counts == [size] * 60
        ground.ask("mark")
        ground.ask("work touch=777")
        assert ground.stats()["distinct"] == 777
        return
    model = (
        memory.UniformTouch(size, 0.0) if pattern == "uniform" else memory.ZipfTouch(size, 1.0, 0.0)
    )
    mean, deviation = model.distinct(touches)
    assert abs(np.mean(counts) - mean) < 4 * deviation / np.sqrt(60)
    assert 0.6 * deviation < np.std(counts) < 1.4 * deviation


def test_the_seed_decides_which_pages(start):
    def distinct(seed: int) -> list[int]:
        ground = start(f"pages=500,rate=0,seed={seed}")
        ground.ask("work touch=100")
        first = ground.stats()["distinct"]
        ground.ask("work touch=300")
        return [first, ground.stats()["distinct"]]

    assert distinct(3) == distinct(3)
    assert len({tuple(distinct(seed)) for seed in range(6)}) > 1


def test_streams(start):
    ground = start("pages=1,rate=0")
    with ground.connect(1) as client:
        client.sendall(b"get 1000003\nget 5\n")
        client.shutdown(socket.SHUT_WR)
        data = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert data == host.stream(1_000_003) + host.stream(5)
    assert host.stream(1_000, 333) == host.stream(1_333)[333:]
    with ground.connect(2) as client:
        sent = os.urandom(300_000)
        received = b""
        for at in range(0, len(sent), 30_000):
            client.sendall(sent[at : at + 30_000])
            while len(received) < at + 30_000:
                received += client.recv(1 << 16)
        assert received == sent


def test_a_client_that_goes_away_or_never_reads_harms_nobody(start):
    ground = start("pages=10,rate=0")
    with ground.connect(0) as rude:
        rude.setblocking(False)
        sent = 0
        while sent < 4 << 20:
            try:
                sent += rude.send(b"work bytes=100000\n" * 100)
            except BlockingIOError:
                break
        assert ground.ask("ping") == "pong"
    with ground.connect(1) as rude:
        rude.sendall(b"get 1000000000\n")
        rude.recv(10)
    assert ground.ask("ping") == "pong"
    clients = [ground.connect(0) for _ in range(140)]  # more than there is room for
    for client in clients:
        client.close()
    assert ground.ask("ping") == "pong"


def test_the_headers_are_found_in_memory():
    ram = np.zeros(8 * 4096, dtype=np.uint8)
    check = host.mix(77 ^ host.mix(2000 ^ host.mix(1 ^ host.mix(9))))
    header = host.HEADER_MAGIC + np.array([9, 77, 2000, 1, 4032, check], dtype="<u8").tobytes()
    ram[3 * 4096 : 3 * 4096 + 64] = np.frombuffer(header, dtype=np.uint8)
    (found,) = host.find_headers(ram)
    assert found == host.GroundHeader(3 * 4096, 9, 77, 2000, 1, 4032, True)
    assert host.find_page(ram, 0) is None
