"""Sliders for a figure in a notebook, which can be read without them too.

The figure is an ordinary output, drawn at the values that the function has as defaults, so it is
there in a page, in print and where no widget is shown; the sliders below it draw it anew in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

_WITHOUT = "Sliders for {names}: shown where widgets are (JupyterLab with ipywidgets)."


class Sliders:
    """The sliders of a figure; ``widgets`` are those of ipywidgets, by name, none without it."""

    def __init__(self, names: Sequence[str], widgets: Mapping[str, Any]) -> None:
        self.names = names
        self.widgets = widgets

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        text = _WITHOUT.format(names=", ".join(self.names))
        if not self.widgets:
            return {"text/plain": text}
        from ipywidgets import VBox

        box = VBox([*self.widgets.values()])
        shown = box._repr_mimebundle_(**options)
        # some versions give the data, some also metadata
        data = shown[0] if isinstance(shown, tuple) else shown
        return {**(data or {}), "text/plain": text}


def sliders(draw: Callable[..., Any], **values: Sequence[Any]) -> Sliders:
    """Show what ``draw`` returns; a slider for each parameter named, over its values, is returned.

    To be the last line of a cell, which shows it below the figure.  Every parameter of ``draw``
    that is named needs a default, which is one of its values; it is what the figure shows at first.
    Without ipywidgets only the figure is shown.  Raises ValueError for a default that is missing.
    """
    from IPython.display import display

    defaults = {name: signature(draw).parameters[name].default for name in values}
    for name, default in defaults.items():
        if default not in values[name]:
            known = ", ".join(map(str, values[name]))
            raise ValueError(f"{name}: its default {default} is none of its values: {known}")
    handle = display(draw(), display_id=True)  # type: ignore[no-untyped-call]
    made = Sliders([*values], _widgets(values, defaults))

    def again(_: object) -> None:
        chosen = {name: widget.value for name, widget in made.widgets.items()}
        handle.update(draw(**chosen))

    for widget in made.widgets.values():
        widget.observe(again, "value")
    return made


def _widgets(values: Mapping[str, Sequence[Any]], defaults: Mapping[str, Any]) -> dict[str, Any]:
    try:
        from ipywidgets import Layout, SelectionSlider
    except ImportError:
        return {}
    return {
        name: SelectionSlider(
            options=[(str(value), value) for value in each],
            value=defaults[name],
            description=name.replace("_", " "),
            continuous_update=False,
            style={"description_width": "14em"},
            layout=Layout(width="36em"),
        )
        for name, each in values.items()
    }
