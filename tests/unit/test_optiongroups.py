"""Options of a command that a dataclass holds are options like any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from kmsctl.optiongroups import names, spread


@dataclass(frozen=True)
class Place:
    host: Annotated[str, typer.Option("--host")] = "here"
    ports: Annotated[list[int] | None, typer.Option("--port")] = None


def show(
    ctx: typer.Context,
    *,
    first: Annotated[str, typer.Argument()],
    at: Place,
    loud: Annotated[bool, typer.Option("--loud")] = False,
) -> None:
    """Show it."""
    typer.echo(f"{ctx.info_name} {first} {at} {loud}")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("a", "Place(host='here', ports=None) False"),
        ("a --port 1 --loud --port 2 --host there", "Place(host='there', ports=[1, 2]) True"),
    ],
)
def test_the_fields_of_a_group_are_options_of_the_command(line: str, shown: str) -> None:
    app = typer.Typer()
    app.command()(spread(show))
    assert CliRunner().invoke(app, line.split()).output == f"show a {shown}\n"
    assert "Show it." in CliRunner().invoke(app, ["--help"]).output
    assert names(Place) == ["host", "ports"]


def test_a_command_without_groups_stays_what_it_is() -> None:
    def alone(name: str) -> None: ...

    assert spread(alone) is alone
