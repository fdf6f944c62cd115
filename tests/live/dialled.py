"""A client that lets the guest connect to it: ``python dialled.py SECONDS FILE``.

It tells the guest, on the line port that COLOSIM_PORT leads to, to open a connection to a server
here, and echoes on that.  Into FILE it writes how much there was, if all was well.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

GATEWAY = "10.0.0.1"


async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, until_s: float) -> int:
    """How many there were."""
    number = 0
    while time.monotonic() < until_s:
        sent = f"{number:08} ".encode() * 100
        writer.write(sent)
        got = await asyncio.wait_for(reader.readexactly(len(sent)), 10)
        assert got == sent, (number, got[:40])
        number += 1
        await asyncio.sleep(0.01)
    return number


async def main(seconds: float, file: Path) -> None:
    until_s = time.monotonic() + seconds
    came: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await came.put((reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["COLOSIM_PORT"]))
    sessions = []
    while time.monotonic() < until_s - 2:
        writer.write(f"dial {GATEWAY}:{port}\n".encode())
        answer = await asyncio.wait_for(reader.readline(), 10)
        assert answer == b"ok\n", answer
        ends = await asyncio.wait_for(came.get(), 10)
        sessions.append(asyncio.create_task(echoes(*ends, until_s)))
        await asyncio.sleep(0.7)
    counts = await asyncio.gather(*sessions)
    file.write_text(f"{len(counts)} {min(counts)}")


asyncio.run(main(float(sys.argv[1]), Path(sys.argv[2])))
