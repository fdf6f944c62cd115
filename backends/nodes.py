"""The nodes that a scenario asks for, the same in every world."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache

from colosim.protocol.checkpoint import Limits, Quirks, Rounds
from colosim.protocol.dialect import Message
from colosim.protocol.digests import DIGESTS
from colosim.protocol.manager import ManagerConfig
from colosim.protocol.node import NodeConfig
from colosim.protocol.policies import POLICIES
from colosim.protocol.types import Role
from colosim.scenario import Scenario

PRIMARY, SECONDARY = Role.PRIMARY.value, Role.SECONDARY.value


def node_id(role: Role, pair: int = 1) -> str:
    """``primary``, ``secondary``; of later pairs ``primary.2`` and so on."""
    return role.value if pair == 1 else f"{role.value}.{pair}"


@cache
def role_of(node: str) -> str:
    """The role in a node's id."""
    return node.partition(".")[0]


def peer_of(config: NodeConfig) -> str:
    """The id of the other node of its pair."""
    primary = config.role is Role.PRIMARY
    return node_id(Role.SECONDARY if primary else Role.PRIMARY, config.pair)


def of_pair(config: NodeConfig, pair: int) -> NodeConfig:
    """The same node in a later pair."""
    return replace(config, id=node_id(config.role, pair), pair=pair)


def node_configs(scenario: Scenario, policy: str, packets: bool = False) -> list[NodeConfig]:
    """The nodes that a scenario asks for: a pair, or the primary alone.

    packets: output is frames, not responses.
    """
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
                heartbeat_grace_ns=manager.heartbeat_grace_ns,
                arbiter=manager.arbiter,
                fencing=manager.fencing,
                fence_retries=manager.fence_retries,
                fence_backoff_ns=manager.fence_backoff_ns,
                lease_term_ns=manager.lease_term_ns,
                lease_renewal_ns=manager.lease_renewal_ns,
            ),
            transfer=scenario.transfer_of(policy),
            quirks=Quirks(scenario.quirks),
            commit=commit,
            compare=scenario.compare.mode if packets else DIGESTS,
            compare_queue_frames=scenario.compare.queue_frames,
            compare_scan_ns=scenario.compare.scan_cycle_ns,
            rounds=Rounds(scenario.stream.precopy_threshold_bytes, scenario.stream.precopy_rounds),
        )
        for role in roles
    ]
