"""Types of models that can have no row, and why: said instead of what a row needs."""

from __future__ import annotations

from collections.abc import Mapping

_WHY: Mapping[str, tuple[str, ...]] = {
    "is an encoder: its tokens see those behind them": (
        "bert",
        "bert-generation",
        "big_bird",
        "camembert",
        "data2vec-text",
        "electra",
        "ernie",
        "megatron-bert",
        "rembert",
        "roberta",
        "roberta-prelayernorm",
        "roc_bert",
        "roformer",
        "xlm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    ),
    "has a decoder that reads what an encoder puts out": (
        "bart",
        "bigbird_pegasus",
        "blenderbot",
        "blenderbot-small",
        "blip",
        "florence2",
        "marian",
        "mbart",
        "musicgen",
        "musicgen_melody",
        "mvp",
        "pegasus",
        "pix2struct",
        "plbart",
        "pp_formulanet",
        "prophetnet",
        "t5gemma2",
        "trocr",
        "udop",
        "vision-encoder-decoder",
        "whisper",
    ),
    "has layers that read pictures or proteins through attention of their own": (
        "evolla",
        "idefics",
        "mllama",
    ),
    "reads what a prompt begins with in both directions": ("paligemma",),
    "has experts in code of its own, where nothing can be read": ("dbrx", "jetmoe", "longcat_flash"),
    "drafts for another model, whose states it reads": ("gemma4_assistant", "gemma4_unified_assistant"),
    "says no words one after the other": ("diffusion_gemma", "pi0", "shieldgemma2"),
}
REFUSED: Mapping[str, str] = {name: reason for reason, names in _WHY.items() for name in names}
