"""The table ``[memory]``: which pages the guest dirties."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from colosim.model.memory import (
    MeasuredCurve,
    SequentialTouch,
    UniformTouch,
    ZipfTouch,
    curve_names,
)
from colosim.section import OneOf, Rate, Ratio, Section, Size, number, option


class _Memory(Section):
    """Which pages the guest dirties as it runs."""

    guest_memory_bytes: Size = option("256 MiB", "RAM of the guest")


class MeasuredMemory(_Memory):
    """A measured curve: dirty pages over exposure (guest running time since the last cut)."""

    kind: Literal["measured"] = option(..., "dirty pages as measured")
    curve: Annotated[str, OneOf(tuple(c.name for c in curve_names()))] | None = option(
        None, "name of a curve that comes with colosim; instead of file"
    )
    file: str | None = option(None, "CSV of your own, relative to the scenario's folder")
    workload: str | None = option(None, "rows of the file to use: column workload")
    setting: str | None = option(None, "rows of the file to use: column setting")
    outside: Literal["refuse", "extrapolate"] = option(
        "refuse", "beyond the longest measured exposure: end the run, or go on and mark the result"
    )
    pages_per_request: Annotated[float, number("pages per request")] | None = option(
        None, "further distinct pages for each request beyond the measured load"
    )
    secondary_overlap: Ratio = option(
        1.0, "part of the smaller guest's dirty pages that are dirty in the other guest too"
    )

    def model(self, page_bytes: int) -> MeasuredCurve:
        """The curve; `ModelError` if there is none that fits."""
        options: dict[str, Any] = {
            "pages_per_request": self.pages_per_request,
            "outside": self.outside,
            "guest_pages": self.guest_memory_bytes // page_bytes,
            "secondary_overlap": self.secondary_overlap,
        }
        if self.curve is not None:
            return MeasuredCurve.named(self.curve, **options)
        return MeasuredCurve.from_csv(
            self.file or "", self.workload or "", self.setting or "", **options
        )


class TouchedMemory(_Memory):
    """A closed form: touches of a working set, and perhaps the background of an idle kernel."""

    # 2^24 pages are 64 GiB; the zipf form keeps a table of them.
    working_set_pages: Annotated[int, number("pages", 1, 2**24)] = option(
        ..., "pages that are touched at all"
    )
    touches_per_s: Rate = option(..., "touches while the guest runs, requests or not")
    touches_per_request: Annotated[float, number("touches per request")] = option(
        0.0, "further touches for each request"
    )
    background: Literal["none", "idle", "idle-services"] = option(
        "none", "measured curve of an idle guest to add; extrapolated where it ends"
    )

    def _common(self, page_bytes: int) -> dict[str, Any]:
        guest_pages = self.guest_memory_bytes // page_bytes
        return {
            "working_set_pages": self.working_set_pages,
            "touches_per_s": self.touches_per_s,
            "touches_per_request": self.touches_per_request,
            "guest_pages": guest_pages,
            "background": None
            if self.background == "none"
            else MeasuredCurve.named(
                self.background, outside="extrapolate", guest_pages=guest_pages
            ),
        }


class UniformMemory(TouchedMemory):
    """Every touch hits any page of the working set with equal chance."""

    kind: Literal["uniform"] = option(..., "touches hit all pages alike")

    def model(self, page_bytes: int) -> UniformTouch:
        return UniformTouch(**self._common(page_bytes))


class ZipfMemory(TouchedMemory):
    """The page of rank i is touched with a chance proportional to i^-exponent."""

    kind: Literal["zipf"] = option(..., "touches prefer some pages")
    exponent: Annotated[float, number("exponent", high=10.0)] = option(
        ..., "0: all pages alike; 1: the classical Zipf law"
    )

    def model(self, page_bytes: int) -> ZipfTouch:
        return ZipfTouch(exponent=self.exponent, **self._common(page_bytes))


class SequentialMemory(TouchedMemory):
    """Touches walk through the working set in order, round and round."""

    kind: Literal["sequential"] = option(..., "touches go through the pages in order")

    def model(self, page_bytes: int) -> SequentialTouch:
        return SequentialTouch(**self._common(page_bytes))


Memory = Annotated[
    MeasuredMemory | UniformMemory | ZipfMemory | SequentialMemory, Field(discriminator="kind")
]
