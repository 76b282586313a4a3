"""What every HTML page needs: a template that escapes, and pictures that travel inside the file."""

from base64 import b64encode
from io import BytesIO
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render(template: str, filters: dict[str, Any] | None = None, **values: Any) -> str:
    """Fill one of this package's templates; text from outside is escaped."""
    environment = Environment(
        loader=PackageLoader("cannonade.evaluation", "."), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= filters or {}
    return environment.get_template(template).render(**values)


def eight_bit(images: Tensor) -> Tensor:
    """Images in [0, 1], clamped, as uint8."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def data_uri(image: Tensor) -> str:
    """An [3, H, W] uint8 image as a JPEG for the eye."""
    buffer = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=90)
    return _uri("image/jpeg", buffer)


def figure_uri(figure: "Figure") -> str:
    """A figure as lines that stay sharp at any size."""
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _uri("image/svg+xml", buffer)


def figure_png(figure: "Figure") -> bytes:
    """A figure as pixels, for slides."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()


def _uri(kind: str, content: BytesIO) -> str:
    return f"data:{kind};base64," + b64encode(content.getvalue()).decode("ascii")
