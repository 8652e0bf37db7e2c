"""`python -m jaxrl_tok` is the command `jaxrl-tok`."""

from jaxrl_tok.cli import command

command()
