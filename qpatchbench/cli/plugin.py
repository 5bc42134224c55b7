"""`qpatchbench plugin`: what authors of components need."""

from __future__ import annotations

import click

from qpatchbench.cli.checking import check
from qpatchbench.cli.scaffolding import new


@click.group("plugin")
def plugin() -> None:
    """Write a component of your own, and check that it keeps its promises."""


plugin.add_command(check)
plugin.add_command(new)

COMMANDS = {"plugin": plugin}
