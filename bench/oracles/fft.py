"""BaRT group 5 with NumPy's complex FFT. The factors are drawn from the stream that the parameters name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from cannonade.bench.oracles import Image, oracle
from cannonade.draws import Stream


@oracle(tolerance=1e-5)
def fft_perturbation(image: Image, params: Mapping[str, Any]) -> Image:
    height, width, _ = image.shape
    factor = Stream(torch.from_numpy(params["stream"])[None]).uniform(0.98, 1.02, (height, width))[0].double().numpy()
    out = np.empty_like(image)
    for channel, keep in enumerate(params["keep"].astype(np.float64)):
        spectrum = np.fft.fft2(image[..., channel])
        spectrum[int(height * keep) : int(height * (1 - keep)), :] = 0
        spectrum[:, int(width * keep) : int(width * (1 - keep))] = 0
        out[..., channel] = np.fft.ifft2(spectrum * factor).real
    return np.clip(out, 0, 1)
