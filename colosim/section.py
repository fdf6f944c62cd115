"""Tables of a scenario file that explain what is wrong with them.

A `Section` is a frozen, strict pydantic model whose keys are its field names without the unit.
Whatever fails below it is collected as problems, (key, "what is wrong; what would be right").
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import Field as DataclassField
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from colosim.units import (
    BANDWIDTH,
    RATE,
    SIZE,
    TIME,
    Dimension,
    UnitError,
    dimension_of,
    without_unit,
)

_LARGEST_COUNT = 10**9

# --------------------------------------------------------------------------------------------
# Field types


@dataclass(frozen=True)
class Quantity:
    """Pydantic's view of a dimension: text with a unit outside, a number inside, bounded below."""

    dimension: Dimension
    minimum: int = 0
    above: bool = False

    def _parse(self, text: object) -> int | float:
        value = self.dimension.parse(text)
        if value < self.minimum or (self.above and value == self.minimum):
            wanted = "more than" if self.above else "at least"
            raise UnitError(f"too small; give {wanted} {self.dimension.format(self.minimum)}")
        return value

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._parse,
            serialization=core_schema.plain_serializer_function_ser_schema(
                self.dimension.format, when_used="json"
            ),
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        units = "|".join(map(re.escape, self.dimension.units))
        return {
            "type": "string",
            "unit": f"{self.dimension.name} ({', '.join(self.dimension.units)})",
            "pattern": rf"^\s*\+?[0-9.]+([eE][+-]?[0-9]+)?\s*({units})\s*$",
            "examples": [self.dimension.example],
        }


@dataclass(frozen=True)
class OneOf:
    """One of several words that are known only at run time."""

    words: tuple[str, ...]

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.literal_schema(list(self.words))


def number(unit: str, low: float = 0, high: float = _LARGEST_COUNT) -> Any:
    """Bounds and unit of a field that is a plain number in a file too."""
    return Field(ge=low, le=high, json_schema_extra={"unit": unit})


Time = Annotated[int, Quantity(TIME)]
Duration = Annotated[int, Quantity(TIME, above=True)]
Size = Annotated[int, Quantity(SIZE)]
Bandwidth = Annotated[int, Quantity(BANDWIDTH, above=True)]
Rate = Annotated[float, Quantity(RATE)]
Frequency = Annotated[float, Quantity(RATE, above=True)]
Count = Annotated[int, number("count", 1)]
Ratio = Annotated[float, number("ratio", high=1.0)]


def option(default: Any, text: str, **constraints: Any) -> Any:
    """Declare one field: default as a file would give it (``...``: required), description."""
    return Field(default, description=text, **constraints)


# --------------------------------------------------------------------------------------------
# Problems: (key below the section, "what is wrong; what would be right")

Problem = tuple[str, str]


def invalid(found: Iterable[Problem]) -> PydanticCustomError:
    """Problems as the one error that passes through pydantic."""
    return PydanticCustomError("problems", "invalid", {"problems": list(found)})


def join(*parts: str) -> str:
    """A dotted key of those parts that are not empty."""
    return ".".join(part for part in parts if part)


def plain(key: object) -> str:
    """A key as in TOML, on one line, however odd it is."""
    if isinstance(key, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,60}", key):
        return key
    return shown(key)


def shown(value: object) -> str:
    """A value on one line, shortened."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer of more digits than Python will print
        return "a huge number"


def _words(expected: str) -> list[str]:
    """Words out of pydantic's "'a', 'b' or 'c'"."""
    return re.findall(r"'([^']*)'", expected)


def _choose(value: object, words: Sequence[str]) -> str:
    close = get_close_matches(str(value)[:100], words, 1) if isinstance(value, str) else []
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{shown(value)} is unknown; {guess}use one of {', '.join(words)}"


#: pydantic's type of an error -> our words; {value} is what was given, the rest is its context
_SAY = {
    "bool_type": "{value} is neither true nor false; write true or false, without quotes",
    "finite_number": "{value} is not a finite number; write a number, for example 0.5",
    "float_type": "{value} is not a number; write one without quotes, for example 0.5",
    "greater_than": "{value} is too small; give more than {gt}",
    "greater_than_equal": "{value} is too small; give at least {ge}",
    "int_from_float": "{value} is not a whole number; write one, for example 10",
    "int_type": "{value} is not a whole number; write one without quotes, for example 10",
    "less_than_equal": "{value} is too large; give at most {le}",
    "model_attributes_type": "{value} is not a table; write it as one, with keys of its own",
    "model_type": "{value} is not a table; write it as one, with keys of its own",
    "string_pattern_mismatch": "{value} will not do; use letters, digits, space, '.', '_', '-'",
    "string_too_long": "too long; use at most {max_length} characters",
    "string_type": "{value} is not text; write it in quotes",
    "too_long": "too many; give at most {max_length}",
    "tuple_type": "{value} is not a list of tables; write each as [[fault]]",
}


class Section(BaseModel):
    """A table of a scenario: frozen, strict, and able to explain what is wrong with it."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        alias_generator=without_unit,
        protected_namespaces=(),
    )

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(dict(data) if isinstance(data, Mapping) else data)
        except ValidationError as error:
            details = error.errors(include_url=False)
        raise invalid(problem for detail in details for problem in cls._problems_of(detail))

    @classmethod
    def _problems_of(cls, detail: Any) -> Iterator[Problem]:
        # Below the field there is nothing but the number of a list's item or a union's tags.
        head, rest = detail["loc"][:1], detail["loc"][1:]
        field = str(head[0]) if head else ""
        key = join(*map(plain, head), *(str(i) for i in rest if isinstance(i, int)))
        context = detail.get("ctx", {})
        value = shown(detail["input"])
        match detail["type"]:
            case "problems":
                yield from ((join(key, below), text) for below, text in context["problems"])
            case "value_error":
                yield key, f"{value}: {context['error']}"
            case "missing":
                yield key, cls._missing(field)
            case "extra_forbidden" | "invalid_key":
                yield key, cls._unknown(field)
            case "literal_error" | "enum":
                yield key, _choose(detail["input"], _words(context["expected"]))
            case "union_tag_not_found":
                tag = context["discriminator"].strip("'")
                words = _tags(cls._fields()[field].annotation, tag)
                yield join(key, tag), f"missing; use one of {', '.join(words)}"
            case "union_tag_invalid":
                tag = context["discriminator"].strip("'")
                yield join(key, tag), _choose(context["tag"], _words(context["expected_tags"]))
            case kind:
                say = _SAY.get(kind)
                text = say.format(value=value, **context) if say else f"{value}: {detail['msg']}"
                yield key, text

    @classmethod
    def _fields(cls) -> dict[str, Any]:
        """Fields by the key they have in a file."""
        return {without_unit(name): info for name, info in cls.model_fields.items()}

    @classmethod
    def _missing(cls, key: str) -> str:
        info = cls._fields()[key]
        examples = (
            f', for example "{q.dimension.example}"'
            for q in info.metadata
            if isinstance(q, Quantity)
        )
        return f"missing; give it: {info.description}{''.join(examples)}"

    @classmethod
    def _unknown(cls, key: str) -> str:
        known = list(cls._fields())
        for other in _variants(cls):
            if key in other._fields():
                return f"not a key of {cls._tag()}; it belongs to {other._tag()}"
        close = get_close_matches(key[:100], known, 1)
        right = (
            f"did you mean {close[0]}?" if close else f"known here: {', '.join(known) or 'none'}"
        )
        return f"unknown key; {right}"

    @classmethod
    def _tag(cls) -> str:
        """What makes this variant of a table: 'kind = "service", load = "open"'."""
        return ", ".join(
            f'{key} = "{cls._fields()[key].annotation.__args__[0]}"'
            for key in ("kind", "load")
            if key in cls._fields()
        )


def _tags(annotation: Any, key: str) -> list[str]:
    """The values of ``key`` that choose between the forms of a table."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        field = annotation._fields().get(key)
        return [] if field is None else list(get_args(field.annotation))
    return list(dict.fromkeys(word for arg in get_args(annotation) for word in _tags(arg, key)))


def _variants(section: type[Section]) -> list[type[Section]]:
    """All other forms of the same table."""
    root = section
    while Section not in root.__bases__:
        root = root.__bases__[0]
    found = [root]
    for cls in found:
        found += cls.__subclasses__()
    return [cls for cls in found if cls is not section and not cls.__subclasses__()]


def shape(parameter: DataclassField[Any]) -> tuple[Any, Any]:
    """(field type, default as in a file) of a `colosim.protocol.policies.base.parameter`."""
    default: Any = parameter.default
    minimum = parameter.metadata["minimum"]
    dimension = dimension_of(parameter.name)
    if dimension is None:
        high = parameter.metadata.get("maximum") or _LARGEST_COUNT
        return Annotated[type(default), number(parameter.metadata["unit"], minimum, high)], default
    return Annotated[int, Quantity(dimension, minimum)], dimension.format(default)
