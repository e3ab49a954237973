"""The front door: one command that collects each stage's, and turns our errors into exit codes.

Stage modules (`pipeline/cli.py`, ...) import nothing heavy at the top, so `septet --help` is quick.
Exit codes: 0 success, 1 a failed run, 2 a usage or input error, 130 Ctrl-C.
"""

from __future__ import annotations

import importlib
import sys

import click

STAGES = ("pipeline.cli", "train.cli", "ensemble.cli")  # in the order that data flows


class Stages(click.Group):
    """A group whose commands are the `COMMANDS` of the stages, loaded when first asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order that data flows."""
        return [str(command.name) for stage in STAGES for command in _commands(stage)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; later stages are not even loaded once it is found."""
        found = (command for stage in STAGES for command in _commands(stage))
        return next((command for command in found if command.name == cmd_name), None)


def _commands(stage: str) -> list[click.Command]:
    commands: list[click.Command] = importlib.import_module(stage).COMMANDS
    return commands


@click.command(cls=Stages, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="septet")
def cli() -> None:
    """Septet: from labelled images to an averaged ensemble of seven two-half AlexNets."""


def main() -> None:
    """Runs the command line and exits with its code; our errors become one sentence on stderr."""
    from infra.errors import SeptetError

    try:
        code = cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except SeptetError as error:
        click.echo(f"septet: {error}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("septet: interrupted; run the same command again to continue.", err=True)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
