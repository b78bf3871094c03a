"""The command line. Exit codes: 0 done, 1 findings, 2 could not do it, 130 Ctrl-C, 141 closed pipe."""

from __future__ import annotations

import os
import traceback

import click

from bninspect import __version__
from bninspect.cli._output import ClosedPipeError, silence
from bninspect.cli._sections import Sections
from bninspect.cli._warnings import calm
from bninspect.errors import BNInspectError
from bninspect.text import printable

EPILOG = """\b
Examples:
  bninspect demo
  bninspect summary resnet18 --input 3,418,418

\b
Completion in bash (zsh, fish likewise):
  eval "$(_BNINSPECT_COMPLETE=bash_source bninspect)"
"""


@click.group(
    cls=Sections, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="bninspect")
def cli() -> None:
    """Look at every BatchNorm layer of a PyTorch model, and leave the model as it was found."""


def run(arguments: list[str]) -> int:  # noqa: PLR0911  # one per way to end
    """Run the command line and give its exit code; errors are worded here, once."""
    try:
        with calm(arguments):
            code = cli.main(arguments, prog_name="bninspect", standalone_mode=False, obj=arguments)
    except click.ClickException as error:
        # It repeats words of the command line, such as file names.
        error.message = printable(error.message, 2000)  # type: ignore[misc]  # final, and read by every show()
        error.show()
        return 2
    except BNInspectError as error:
        return _failed(error, str(error))
    except OSError as error:
        return _failed(error, (f"'{error.filename}': " if error.filename else "") + (error.strerror or str(error)))
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        return 130
    except ClosedPipeError:
        return 141
    except SystemExit:  # click's way to say that the pipe was closed while it wrote a help text
        silence()
        return 141
    except Exception as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):  # torch's is a RuntimeError
            text = "there is not enough memory for this: give a smaller --batch-size, or fewer images"
            return _failed(BNInspectError(text), text)
        return _failed(error, f"internal error, {type(error).__name__}: {printable(str(error), 300)}")
    return code if isinstance(code, int) else 0


def _failed(error: BaseException, text: str) -> int:
    if os.environ.get("BNINSPECT_DEBUG") == "1":
        traceback.print_exception(error)
    elif not isinstance(error, (BNInspectError, OSError)):
        text += " (BNINSPECT_DEBUG=1 shows where)"
    click.echo(f"Error: {printable(text, 2000)}", err=True)
    return 2
