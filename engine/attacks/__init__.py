"""Attacks by name, as the command line calls them."""

from cannonade.attacks.attack import Attack
from cannonade.attacks.auto_pgd import AutoPGD
from cannonade.attacks.logit_matching import LogitMatching
from cannonade.attacks.nes import NES
from cannonade.attacks.noise import RandomNoise
from cannonade.attacks.pgd import PGD
from cannonade.attacks.square import Square

ATTACKS: dict[str, type[Attack]] = {
    "auto_pgd": AutoPGD,
    "logit_matching": LogitMatching,
    "nes": NES,
    "noise": RandomNoise,
    "pgd": PGD,
    "square": Square,
}
