"""How activations and attributions are captured: every choice with its default, once. Nothing heavy is
imported here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from relact import schema, sites
from relact.errors import InputError
from relact.plan import parse_bytes
from relact.store.layout import BLOCK

# choices that go with ``attribution``
ATTRIBUTED = (
    "attribution_sites",
    "attribution_pool",
    "attribution_dtype",
    "target",
    "target_token",
    "attribution_method",
    "attribution_steps",
    "attribution_path",
)
HIDDEN = "mlp.hidden"  # what an MLP writes into the residual stream is linear in it
STEPS = 20  # of integrated gradients, where none are named: what Dai et al. 2022 take


@dataclass(frozen=True)
class CaptureOptions:
    """Choices of `relact.capture`, which says what each means.

    Raises:
        InputError: a choice that does not exist, or a number that is too small.
    """

    sites: str | Sequence[str] = "mlp"
    pool: str = "mean"
    dtype: str = "float16"
    block: int | None = None
    batch_tokens: int = 2048
    special_tokens: bool = True
    memory: str | int | None = None
    compress: bool = False
    attribution: bool = False
    attribution_sites: str | Sequence[str] = "mlp.hidden"
    attribution_pool: str = "sum"
    attribution_dtype: str = "float32"
    target: str = "answer"
    target_token: str | int | None = None
    attribution_method: str | None = None
    attribution_steps: int | None = None
    attribution_path: str | None = None
    skip_first_token: bool = False

    def __post_init__(self) -> None:
        sites.expand(self.sites)
        sites.expand(self.attribution_sites)
        for value, known, option in (
            (self.pool, schema.POOLS, "--pool"),
            (self.dtype, schema.DTYPES, "--dtype"),
            (self.attribution_pool, schema.ATTRIBUTION_POOLS, "--attribution-pool"),
            (self.attribution_dtype, schema.DTYPES, "--attribution-dtype"),
            (self.target, schema.TARGETS, "--target"),
            (self.method, schema.ATTRIBUTION_METHODS, "--attribution-method"),
            (self.attribution_path or schema.PATHS[0], schema.PATHS, "--path"),
        ):
            if value not in known:
                raise InputError(
                    f"{value!r} is not known", where=option, fix=f"choose one of {', '.join(known)}"
                )
        for number, option in (
            (self.block, "--block"),
            (self.batch_tokens, "--batch-tokens"),
            (self.attribution_steps, "--steps"),
        ):
            if number is not None and number < 1:
                raise InputError(f"{number} is too small", where=option, fix="give at least 1")
        self._require_target()
        self._require_method()
        self._require_pooled()

    @property
    def method(self) -> str:
        """How is attributed: what goes along a path is integrated."""
        along = self.attribution_steps is not None or self.attribution_path is not None
        return self.attribution_method or (schema.INTEGRATED if along else "gradient")

    def _require_target(self) -> None:
        """What goes with attribution, and only with it."""
        if (self.target == "token") != (self.target_token is not None):
            raise InputError(
                "one token for all prompts is a target of its own",
                where="--target/--target-token",
                fix="give --target token and --target-token, or neither",
            )
        chosen = {name: getattr(self, name) for name in ATTRIBUTED}
        if not self.attribution and chosen != {name: getattr(CaptureOptions, name) for name in ATTRIBUTED}:
            raise InputError(
                "nothing is attributed", where="--target/--attribution-...", fix="add --attribution"
            )

    def _require_method(self) -> None:
        """What goes with a method, and only with it."""
        along = self.attribution_steps is not None or self.attribution_path is not None
        if along and self.method != schema.INTEGRATED:
            raise InputError(
                f"{self.method} goes along no path",
                where="--steps/--path",
                fix="leave them out, or give --attribution-method integrated",
            )
        if self.method not in schema.OF_LAST:
            return
        if sites.expand(self.attribution_sites) != (HIDDEN,):
            raise InputError(
                f"{self.method} is of neurons that write into the residual stream",
                where="--attribution-sites",
                fix=f"give {HIDDEN}",
            )
        if self.attribution_pool == "own":
            raise InputError(
                f"{self.method} is of a prompt's last token",
                where="--attribution-pool",
                fix="leave it out, or give last",
            )

    def _require_pooled(self) -> None:
        """The first token can be left out of what is pooled over several."""
        last = self.attribution_pool == "last" or self.method in schema.OF_LAST
        if self.skip_first_token and self.pool == "last" and (last or not self.attribution):
            raise InputError(
                "of a prompt's last token alone nothing can be left out",
                where="--skip-first-token",
                fix="leave it out, or pool over the tokens",
            )

    @property
    def budget(self) -> int | None:
        """Bytes of the whole process; None for no limit."""
        return None if self.memory is None else parse_bytes(self.memory)

    def record(self, config: Any = None) -> schema.CaptureRecord:
        """What a store records of them; rows per block are settled later where none are named.

        Args:
            config: of the model: an alias leaves out what it lacks, a site named outright must be there
                (`ModelError`). Without it all are recorded that aliases stand for.
        """
        return schema.CaptureRecord(
            sites=sites.expand(self.sites) if config is None else self._sites_of(config),
            pool=self.pool,
            dtype=self.dtype,
            block=self.block or BLOCK,
            batch=self.batch_tokens,
            special_tokens=self.special_tokens,
            attribution=self._attribution_record() if self.attribution else None,
            skip_first_token=self.skip_first_token or None,
        )

    def _sites_of(self, config: Any) -> tuple[str, ...]:
        """Those of a model; in a mixture of experts the default is all that is not of every single expert."""
        mixture = any(place.experts for place in sites.places(config).values())
        of_default = self.sites == CaptureOptions.sites and mixture
        return sites.resolve(config, f"{self.sites},attn" if of_default else self.sites)

    def _attribution_record(self) -> schema.AttributionRecord:
        """With sites and token as they were named; `capturing.objectives.resolved` knows the model."""
        names, token = self.attribution_sites, self.target_token
        if isinstance(token, str) and re.fullmatch(r"#\d+", token):
            token = int(token[1:])
        integrated = self.method == schema.INTEGRATED
        return schema.AttributionRecord(
            sites=(names,) if isinstance(names, str) else tuple(names),
            target=self.target,
            pool="last" if self.method in schema.OF_LAST else self.attribution_pool,
            dtype=self.attribution_dtype,
            token=token,
            method=self.method,
            steps=(self.attribution_steps or STEPS) if integrated else None,
            path=(self.attribution_path or schema.PATHS[0]) if integrated else None,
        )
