"""The table ``[policy]``, made from `POLICIES`."""

from __future__ import annotations

from dataclasses import Field as DataclassField
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import create_model

from colosim.protocol.dialect import DIALECTS
from colosim.protocol.policies import POLICIES
from colosim.section import OneOf, Section, option, shape
from colosim.units import dimension_of


def _policy_table(name: str) -> type[Section]:
    """``[policy.NAME]``: what is not given there is the dialect's, else the policy's own."""
    made: dict[str, Any] = {}
    for parameter in fields(POLICIES[name].Params):
        kind, default = shape(parameter)
        made[parameter.name] = (kind | None, option(None, _policy_help(name, parameter, default)))
    return create_model(f"{name.title()}Policy", __base__=Section, __module__=__name__, **made)


def _policy_help(policy: str, parameter: DataclassField[Any], default: str) -> str:
    dimension = dimension_of(parameter.name)
    others = "".join(
        f", in dialect {dialect.name} {dimension.format(value) if dimension else value}"
        for dialect in DIALECTS.values()
        for name, value in dialect.policy_defaults.get(policy, {}).items()
        if name == parameter.name
    )
    return f"{parameter.metadata['help']}; default {default}{others}"


class _PolicyName(Section):
    name: Annotated[str, OneOf(tuple(POLICIES))] = option("colo", "the policy that protects")


if TYPE_CHECKING:  # the tables are reached by `Scenario.policy_params`
    Policy = _PolicyName
else:
    Policy = create_model(
        "Policy",
        __base__=_PolicyName,
        __module__=__name__,
        **{
            name: (table, option(table(), POLICIES[name].summary))
            for name, table in ((name, _policy_table(name)) for name in POLICIES)
        },
    )
