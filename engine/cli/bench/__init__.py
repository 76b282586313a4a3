"""`cannonade bench`: what the engine claims about speed, measured on this machine. One file per bench."""

from cannonade.cli.bench import (
    all,
    attacks,
    audit,
    certify,
    cluster,
    compare,
    eot,
    finetune,
    frameworks,
    loader,
    overhead,
    profile,
    scaling,
    startup,
    transforms,
    votes,
)
from cannonade.cli.bench.app import bench

__all__ = [
    "all",
    "attacks",
    "audit",
    "bench",
    "certify",
    "cluster",
    "compare",
    "eot",
    "finetune",
    "frameworks",
    "loader",
    "overhead",
    "profile",
    "scaling",
    "startup",
    "transforms",
    "votes",
]
