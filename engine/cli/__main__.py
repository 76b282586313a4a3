"""`python -m cannonade.cli`, which is how torchrun starts it."""

from cannonade.cli import main

main()
