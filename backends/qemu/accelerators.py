"""Does KVM run code here?  That /dev/kvm opens proves nothing (`live-recipes.md` 1)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path

from backends.qemu.launch import Qemu

#: a boot sector that writes one byte to the debug exit port and halts: out 0xf4, al
_SECTOR = bytes.fromhex("b010e6f4f4ebfd").ljust(510, b"\0") + b"\x55\xaa"
_EXIT = 0x10 << 1 | 1  # how isa-debug-exit tells the value 0x10


async def kvm_works(qemu: Qemu, limit_s: float) -> bool:
    """Boot seven bytes under KVM and see them run, within the limit."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with tempfile.TemporaryDirectory() as directory:
        disk = Path(directory, "boot")
        disk.write_bytes(_SECTOR)
        process = await asyncio.create_subprocess_exec(
            qemu.path,
            *("-machine", "pc,accel=kvm", "-m", "16M"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
            *("-drive", f"file={disk},format=raw,if=floppy,readonly=on"),
            *("-boot", "a"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(limit_s):
                return await process.wait() == _EXIT
        except TimeoutError:
            return False
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
