"""Does KVM run code here?  That /dev/kvm opens proves nothing (`live-recipes.md` 1)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from pathlib import Path

from backends.qemu.launch import Qemu

#: a boot sector that writes one byte to the debug exit port and halts: out 0xf4, al
_SECTOR = bytes.fromhex("b010e6f4f4ebfd").ljust(510, b"\0") + b"\x55\xaa"
_EXIT = 0x10 << 1 | 1  # how isa-debug-exit tells the value 0x10


#: how much longer than TCG a working KVM may take at the least bit of work, and at least
_KVM_FACTOR, _KVM_LEAST_S = 2.0, 1.0


async def kvm_works(qemu: Qemu, limit_s: float = 20.0) -> bool:
    """Whether KVM is worth it: it boots seven bytes, and not much slower than TCG does.

    A nested KVM may take seconds for what TCG does in a third of one, and minutes for a kernel.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    began_s = time.monotonic()
    if not await boots(qemu, "tcg", limit_s):
        return False
    tcg_s = time.monotonic() - began_s
    return await boots(qemu, "kvm", max(_KVM_LEAST_S, _KVM_FACTOR * tcg_s))


async def boots(qemu: Qemu, accelerator: str, limit_s: float) -> bool:
    """Boot seven bytes under an accelerator and see them run, within the limit."""
    with tempfile.TemporaryDirectory() as directory:
        disk = Path(directory, "boot")
        disk.write_bytes(_SECTOR)
        process = await asyncio.create_subprocess_exec(
            qemu.path,
            *("-machine", f"pc,accel={accelerator}", "-m", "16M"),
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
