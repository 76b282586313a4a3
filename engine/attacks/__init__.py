"""Attacks by name, as the command line calls them."""

from cannonade.attacks.pgd import PGD

ATTACKS = {"pgd": PGD}
