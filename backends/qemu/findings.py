"""What was found out about a machine or a scenario, for people and programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found out.

    status: ok; warn, works but worse or unsafe; fail, does not work; skip, was not tried.
    advice: what would make it right; empty if nothing need be done.
    """

    name: str
    status: Status
    detail: str
    advice: str = ""


def lines_of(findings: Sequence[Finding]) -> list[str]:
    """Aligned text of findings, advice below what it is for."""
    width = max((len(each.name) for each in findings), default=0)
    status = max(map(len, get_args(Status)))
    lines = []
    for each in findings:
        lines.append(f"{each.status:<{status}}  {each.name:<{width}}  {each.detail}".rstrip())
        if each.advice:
            lines.append(f"{'':{status + width + 4}}-> {each.advice}")
    return lines
