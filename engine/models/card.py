"""What a file of fine-tuned weights says of itself, in its safetensors metadata: enough to build its classifier again."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cannonade.errors import InputError

_KEY = "cannonade"


@dataclass(frozen=True, kw_only=True)
class Card:
    """How weights are to be used.

    Attributes:
        model: the name or call of their architecture.
        classes: the data set's number of each logit.
        class_names: one per logit, or None.
        mean, std: of the normalisation, per channel, in units of [0, 1].
        input_size: (H, W) that the model was trained at.
        defense: what it was trained behind.
    """

    model: str
    classes: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]
    input_size: tuple[int, int]
    class_names: Sequence[str] | None = None
    defense: str = ""

    def metadata(self) -> dict[str, str]:
        """For a safetensors file, which keeps text only."""
        return {_KEY: json.dumps(asdict(self))}


def read_card(path: Path) -> Card | None:
    """The card in a weights file; None where it has none, or is no safetensors file.

    Raises:
        InputError: the card is of another version, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if Path(path).suffix != ".safetensors" or not Path(path).is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
    except SafetensorError:
        return None  # whoever reads the weights will say what is wrong with the file
    if text is None:
        return None
    try:
        card = Card(**json.loads(text))
        return Card(**asdict(card) | {"input_size": (int(card.input_size[0]), int(card.input_size[1]))})
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(f"weights must have a readable description of their model, {path} has not: {error}") from error
