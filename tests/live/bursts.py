"""A client of a live test: ``bursts.py SECONDS`` sends datagrams alone and eight at once.

colo-compare looks at the newest of the primary's first, so it sees differences in bursts that the
two guests answer alike (`colo-proxy-oracle.md` 4).
"""

from __future__ import annotations

import os
import random
import socket
import sys
import time

GAP_S = (0.02, 0.3)


def main() -> None:
    """Until the time has passed; answers are read and not looked at."""
    draw = random.Random(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", int(os.environ["COLOSIM_PORT"])))
        sent = 0
        end_s = time.monotonic() + float(sys.argv[1])
        while time.monotonic() < end_s:
            for _ in range(draw.choice((1, 1, 1, 8))):
                sock.send(sent.to_bytes(8, "big") + bytes(200))
                sent += 1
            next_s = time.monotonic() + draw.uniform(*GAP_S)
            while (left_s := next_s - time.monotonic()) > 0:
                sock.settimeout(left_s)
                try:
                    sock.recv(2048)
                except (TimeoutError, ConnectionError):
                    continue


if __name__ == "__main__":
    main()
