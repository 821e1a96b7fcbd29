"""The command line, called in this process as a shell would."""

from typer.testing import CliRunner

from speceyes import cli


def call(*words):
    return CliRunner().invoke(cli.build_app(), [str(word) for word in words])
