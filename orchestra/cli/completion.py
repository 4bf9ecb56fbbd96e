"""`orchestra completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import rich_click as click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script by which a shell completes `orchestra`.

    \b
    Examples:
      eval "$(orchestra completion bash)"                                     # in ~/.bashrc
      eval "$(orchestra completion zsh)"                                      # in ~/.zshrc
      orchestra completion fish > ~/.config/fish/completions/orchestra.fish
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"click completes nothing in {shell}")
    root = ctx.find_root()
    click.echo(found(root.command, {}, "orchestra", "_ORCHESTRA_COMPLETE").source())
