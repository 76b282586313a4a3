"""Options that several commands take alike."""

from pathlib import Path
from typing import Annotated

import typer

Weights = Annotated[Path | None, typer.Option(help="Weights file: safetensors, .pth or .pt.")]
Restrict = Annotated[bool, typer.Option(help="Keep only the logits of the classes that occur in the data.")]
Rows = Annotated[str, typer.Option(help="Rows of one pass through the model, or auto.")]
Seed = Annotated[int, typer.Option(help="Of every draw.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, … or auto.")]
