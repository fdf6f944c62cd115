"""A client that lets the guest connect to it: ``python dialled.py FILE``, until it is ended.

It tells the guest, on the line port that COLOSIM_PORT leads to, to open one connection after the
other to a server here, and echoes on all of them.  FILE has how many echoes each had, as long as
all is well.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

GATEWAY = "10.0.0.1"
GAP_S = 0.7
LIMIT_S = 60.0


async def echoes(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counts: list[int], place: int
) -> None:
    while True:
        sent = f"{counts[place]:08} ".encode() * 100
        writer.write(sent)
        got = await asyncio.wait_for(reader.readexactly(len(sent)), LIMIT_S)
        assert got == sent, (counts[place], got[:40])
        counts[place] += 1
        await asyncio.sleep(0.01)


async def main(file: Path) -> None:
    came: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await came.put((reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["COLOSIM_PORT"]))
    counts: list[int] = []
    async with asyncio.TaskGroup() as sessions:  # one that fails ends all
        while True:
            writer.write(f"dial {GATEWAY}:{port}\n".encode())
            answer = await asyncio.wait_for(reader.readline(), LIMIT_S)
            assert answer == b"ok\n", answer
            ends = await asyncio.wait_for(came.get(), LIMIT_S)
            counts.append(0)
            sessions.create_task(echoes(*ends, counts, len(counts) - 1))
            await asyncio.sleep(GAP_S)
            new = file.with_suffix(".new")
            new.write_text(" ".join(map(str, counts)))
            new.replace(file)


asyncio.run(main(Path(sys.argv[1])))
