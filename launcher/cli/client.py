"""`qlaunch client`: a ready program that asks a service, queries and documents done right."""

from __future__ import annotations

import click
from msgspec.structs import asdict

from launcher.app.client_snippets import KEY_VARIABLE, SNIPPETS, SnippetTarget
from launcher.app.running_service import running
from launcher.cli.base import command as declare
from launcher.cli.result import Result
from launcher.documents.plan_report import ClientPrompts


@declare("client")
@click.argument("service")
@click.option(
    "--language",
    "-l",
    type=click.Choice(list(SNIPPETS)),
    default="python",
    show_default=True,
    help="Which form.",
)
def command(service: str, language: str) -> Result:
    """Print a program that asks SERVICE for vectors.

    It has the endpoint, the model's name and what the model expects before queries and documents:
    the prompts of its own files, else the instruction of its card. The server adds none. An API
    key is read from the environment, as EMBEDDINGS_API_KEY.
    """
    plan, endpoint = running(service)
    card = plan.expectation.card
    target = SnippetTarget(
        endpoint=endpoint,
        model=plan.model_name,
        dimensions=plan.expectation.dimensions,
        instruction=None if card is None else card.instruction,
        keyed=plan.api_key_file is not None,
        prompts=plan.expectation.prompts,
        normalize=plan.expectation.normalize,
    )
    snippet = SNIPPETS[language](target)
    data = {
        "service": service,
        "endpoint": endpoint,
        "model": target.model,
        "dimensions": target.dimensions,
        "instruction": target.instruction,
        **asdict(ClientPrompts.of(target.prompts)),
        "api_key_variable": KEY_VARIABLE if target.keyed else None,
        "language": language,
        "snippet": snippet,
    }
    return Result(data=data, lines=[snippet.rstrip("\n")], verbatim=True)
