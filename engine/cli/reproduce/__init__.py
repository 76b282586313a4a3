"""`cannonade reproduce`: the paper's claims, each as a command."""

from cannonade.cli.reproduce import strength, table2, theory, tradeoff
from cannonade.cli.reproduce.app import reproduce

__all__ = ["reproduce", "strength", "table2", "theory", "tradeoff"]
