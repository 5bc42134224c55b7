"""The command line.

Commands are imported when they are used, so that `--help` and `list` answer at once.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from qpatchbench import __version__
from qpatchbench.cli.lazy_torch import defer
from qpatchbench.errors import QPatchBenchError, SuiteError
from qpatchbench.suite.execution.libraries import keep_memory, wait_asleep

# command -> (module that defines it, what it does)
COMMANDS = {
    "run": ("qpatchbench.cli.commands.run", "Run a suite: train, craft, transfer, report; resumes where it stopped."),
    "plan": ("qpatchbench.cli.commands.plan", "Show what a run would do, and what is already done."),
    "validate": ("qpatchbench.cli.commands.validate", "Check suite files; prints every error with its line."),
    "list": ("qpatchbench.cli.commands.list_describe", "List components, suites, plugins or the papers' tables."),
    "describe": ("qpatchbench.cli.commands.list_describe", "Show the fields of one component."),
    "report": ("qpatchbench.cli.commands.report", "Write leaderboards, plots and the HTML report of a run again."),
    "leaderboard": (
        "qpatchbench.cli.commands.reading.leaderboard",
        "Show how every defense stands against every kind of attacker, over runs and entries.",
    ),
    "cite": ("qpatchbench.cli.commands.reading.cite", "Print BibTeX of every component that runs used."),
    "table": (
        "qpatchbench.cli.commands.papers.table",
        "Print a table of the papers, measured values beside the published.",
    ),
    "figure": (
        "qpatchbench.cli.commands.papers.figure",
        "Draw a figure of the papers from what runs measured, as PDF and PNG.",
    ),
    "claims": ("qpatchbench.cli.commands.papers.claims", "Test the papers' claims on what runs measured."),
    "compare": ("qpatchbench.cli.commands.compare", "Compare two runs row by row, paired on the same images."),
    "verify": ("qpatchbench.cli.commands.verify", "Recompute every number of a run or an entry from its bytes."),
    "explain": (
        "qpatchbench.cli.commands.explain",
        "Trace a leaderboard row to its counts, patch, checkpoint and suite lines.",
    ),
    "entry": ("qpatchbench.cli.commands.entry", "Write a leaderboard entry from a finished run."),
    "apply": ("qpatchbench.cli.commands.apply", "Paste a stored patch on images and write them as PNG."),
    "suite": ("qpatchbench.cli.commands.exchange.new_suite", "Write a suite for a network of your own."),
    "patches": (
        "qpatchbench.cli.commands.exchange.patch_files",
        "Write a run's patches as PNG, npy or safetensors, with their passports.",
    ),
    "export": (
        "qpatchbench.cli.commands.deployment.export_network",
        "Write a network of a run as an ONNX model, and compare it with the simulation.",
    ),
    "plugin": ("qpatchbench.cli.commands.plugin", "Write a component of your own, or check one."),
    "schema": ("qpatchbench.cli.commands.validate", "Print a JSON schema, for editors."),
}


class _Commands(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[name][0])
        command: click.Command = module.COMMANDS[name]
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from qpatchbench.errors import suggestion

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            context.fail(f"no command {args[0]!r}.{suggestion(args[0], COMMANDS)}")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="qpatchbench")
@click.option(
    "--plugin", "plugins", multiple=True, metavar="MODULE", help="Import a module or file that registers components."
)
def cli(plugins: tuple[str, ...]) -> None:
    """What does an adversarial patch crafted at one bit-width do to the others, and which defense helps?"""
    if plugins:
        from qpatchbench.registry import load_plugin

        for plugin in plugins:
            load_plugin(plugin)


def main() -> None:
    """Entry point: errors of the user's making are printed, not traced; exit 2 for them, 130 for an interrupt."""
    defer("torch")
    wait_asleep()
    keep_memory()
    try:
        code: Any = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted; everything finished is kept, the same command goes on from there", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SuiteError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        sys.exit(2)
    except QPatchBenchError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)
