"""`cannonade transforms`: a contact sheet, which is how a person sees that a transform is right."""

from pathlib import Path
from typing import Annotated

import typer

from cannonade.cli.app import app, console
from cannonade.errors import InputError


@app.command()
def transforms(
    image: Annotated[Path | None, typer.Option(help="A photo; by default one of the samples.")] = None,
    out: Annotated[Path, typer.Option(help="Directory for transforms.png and transforms.html.")] = Path(
        "runs/transforms"
    ),
    side: Annotated[int, typer.Option(help="The photo is resized and cropped to a square of this side.")] = 224,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
) -> None:
    """A contact sheet: every transform on one photo, three draws each, with parameters and gradient norms."""
    from cannonade.data.sources import Item, Source, open_source
    from cannonade.evaluation.contact_sheet import write_contact_sheet

    if side < 16:
        raise InputError(f"side must be at least 16, got {side}")
    source = Source([Item(0, 0, str(image))]) if image else open_source("samples")
    for path in write_contact_sheet(source.load(source.items[:1], (side, side))[0], out, seed):
        console.print(str(path), highlight=False, soft_wrap=True)
