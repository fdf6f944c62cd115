"""The nodes that a scenario asks for, the same in every world."""

from __future__ import annotations

from dataclasses import asdict

from colosim.protocol.checkpoint import Limits, Quirks, Transfer
from colosim.protocol.dialect import Message
from colosim.protocol.manager import ManagerConfig
from colosim.protocol.node import NodeConfig
from colosim.protocol.policies import POLICIES
from colosim.protocol.types import Role
from colosim.scenario import Scenario

PRIMARY, SECONDARY = Role.PRIMARY.value, Role.SECONDARY.value


def node_configs(scenario: Scenario, policy: str) -> list[NodeConfig]:
    """The nodes that a scenario asks for: a pair, or the primary alone."""
    commit = None if scenario.commit is None else Message(scenario.commit)
    manager = scenario.manager
    roles = [Role.PRIMARY, Role.SECONDARY] if POLICIES[policy].protects() else [Role.PRIMARY]
    return [
        NodeConfig(
            id=role.value,
            role=role,
            dialect=scenario.dialect,
            policy=policy,
            policy_params=tuple(sorted(asdict(scenario.policy_params(policy)).items())),
            limits=Limits(**scenario.limits.model_dump()),
            manager=ManagerConfig(
                heartbeat_interval_ns=manager.heartbeat_interval_ns,
                heartbeat_timeout_ns=manager.heartbeat_timeout_ns,
                vote_timeout_ns=manager.vote_timeout_ns,
                fence_timeout_ns=manager.fence_timeout_ns,
            ),
            transfer=Transfer(scenario.transfer),
            quirks=Quirks(scenario.quirks),
            commit=commit,
        )
        for role in roles
    ]
