"""What an ablation starts from: the store's model, its test prompts, and replies that are known already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from relact import schema
from relact.ablating.answers import Exam
from relact.ablating.journal import Journal
from relact.ablating.options import PUBLISHED, TEXT, AblateOptions
from relact.ablating.super_units import ensure_super_units
from relact.capturing.prepare import require_room
from relact.errors import IdentityError, InputError
from relact.models.loading import LoadedModel, encode, load
from relact.models.outline import UNKNOWN, outline
from relact.models.targets import distractors, first_tokens
from relact.progress import LOG, Progress
from relact.relations.identity import named_subjects, same
from relact.relations.split import parts_of
from relact.relations.table import check
from relact.relations.verdict import RULE_VERSION
from relact.scoring import masks
from relact.store import aside, locks
from relact.store.local import LocalStore
from relact.store.reading import Store


def ks_of(k: int | Sequence[int] | None) -> list[int]:
    """Numbers of neurons, one by one."""
    return [k] if isinstance(k, int) else list(k or ())


@dataclass(frozen=True)
class Tests:
    """Test prompts.

    Attributes:
        table: text, relation, subject, object, answers, language and part of every prompt that is asked; its
            index are their numbers among all of them.
        digest: of all of them. foreign: whether they are not the store's own.
    """

    table: pd.DataFrame
    digest: str
    foreign: bool

    @property
    def relation_of(self) -> np.ndarray:
        """[prompt]."""
        return self.table["relation"].to_numpy()

    @property
    def relations(self) -> list[str]:
        """Every relation that is asked about, once."""
        return list(dict.fromkeys(self.relation_of))

    @property
    def answers(self) -> list[list[str]]:
        """Accepted ones of every prompt."""
        return list(self.table[schema.ANSWERS])


def tests_of(store: Store, tests: pd.DataFrame | None, part: str = "all") -> Tests:
    """The store's test prompts or those of the table ``tests``; of them one part.

    The part ``identify`` is the exception: the prompts on which neurons were chosen. A table without a column
    ``split``, as `Store.prompts` gives it, has nothing but test prompts.
    """
    if part == schema.IDENTIFY:
        table = store.prompts(schema.IDENTIFY)
        table[schema.ANSWERS] = [[answer] if answer else [] for answer in table["object"]]
        table, digest = table.assign(part=part), store.manifest.prompts_digest(part)
    elif tests is None:
        table, digest = store.prompts(schema.TEST), store.manifest.prompts_digest(schema.TEST)
    else:
        table = check(tests if "split" in tests else tests.assign(split=schema.TEST))
        table = table[table["split"] == schema.TEST].reset_index(drop=True)
        rows = zip(table["text"], table["relation"], table[schema.ANSWERS], strict=True)
        digest = schema.digest(
            [{"text": text, "relation": relation, "answers": answers} for text, relation, answers in rows]
        )
    if schema.PART not in table:
        table[schema.PART] = parts_of(table["relation"].tolist(), table["subject"].tolist())
    if part != "all":
        table = table[table[schema.PART] == part]
    if table.empty:
        raise InputError(
            "no test prompts", where=store.path, fix="capture a prompt table that has some, or give one"
        )
    if tests is not None:
        _require_held_out(store, table)
    return Tests(table, digest, tests is not None)


def _require_held_out(store: Store, table: pd.DataFrame) -> None:
    """Refuse test prompts about subjects on which neurons were identified: that would inflate the effect."""
    known = store.prompts(schema.IDENTIFY)
    identified = named_subjects(known["relation"], known["subject"])
    asked = zip(table["relation"], table["subject"], strict=True)
    both = sorted({(name, text) for name, text in asked if (name, same(text)) in identified})
    if both:
        problem = f"{len(both)} test subjects are also identification subjects, first {both[0][1]!r}"
        fix = "make them with the seed, shots and test size of the store's prompts"
        raise InputError(problem, where=f"relation {both[0][0]}", fix=fix)


def exam_of(store: Store, loaded: LoadedModel, tests: Tests, options: AblateOptions) -> Exam:
    """The test prompts as the model is asked them, each with the token of its answer and of a distractor."""
    special_tokens, table = store.manifest.capture.special_tokens, tests.table
    ids = encode(loaded, table["text"].tolist(), special_tokens=special_tokens)
    if loaded.max_tokens:
        require_room(loaded, table.assign(**{schema.N_TOKENS: list(map(len, ids))}), loaded.max_tokens)
    columns = (table[name].tolist() for name in ("text", "object", "language"))
    targets = first_tokens(loaded, *columns, special_tokens=special_tokens)
    facts = [*pairs_of(store.prompts(schema.IDENTIFY), table), *pairs_of(table, table)]
    return Exam(
        ids,
        tests.answers,
        targets,
        distractors(loaded, table, targets, facts, special_tokens=special_tokens),
        published=options.match == PUBLISHED,
    )


def pairs_of(prompts: pd.DataFrame, like: pd.DataFrame) -> list[tuple[str, str]]:
    """(relation, object) of the prompts' facts, each once, in the languages of the prompts ``like``."""
    spoken = prompts[prompts["language"].isin(set(like["language"]))]
    facts = spoken.drop_duplicates(["relation", "subject", "object"])
    return list(zip(facts["relation"], facts["object"], strict=True))


def model_of(
    store: Store, model: str | LoadedModel | None, device: str, trust_remote_code: bool
) -> LoadedModel:
    """The store's model, verified by fingerprint."""
    asked = _recorded(store, device, trust_remote_code)
    return _verified(store, load(model or store.manifest.model.id, **asked))


def outline_of(
    store: Store, model: str | LoadedModel | None, device: str, trust_remote_code: bool
) -> LoadedModel:
    """The store's model without its weights; its tokenizer, where it is at hand, is verified."""
    asked = _recorded(store, device, trust_remote_code)
    return _verified(store, outline(model or store.manifest.model.id, **asked))


def _recorded(store: Store, device: str, trust_remote_code: bool) -> dict[str, Any]:
    """How the store's model was loaded; of a hub model the revision, which files do not have."""
    recorded = store.manifest.model
    commit = None if (recorded.revision or "").startswith("sha256:") else recorded.revision
    where = {"device": device, "trust_remote_code": trust_remote_code}
    return {"dtype": recorded.dtype, "revision": commit, **where}


def _verified(store: Store, loaded: LoadedModel) -> LoadedModel:
    """`IdentityError` for a model, or a tokenizer, that is not the store's, as far as it is here."""
    recorded = store.manifest.model
    for name, stored, present in (
        ("model fingerprint", recorded.fingerprint, loaded.fingerprint),
        ("tokenizer fingerprint", store.manifest.tokenizer, loaded.tokenizer_fingerprint),
    ):
        if stored != present != UNKNOWN:
            raise IdentityError(
                f"the store records {name} {stored} ({recorded.id}), this model has {present} ({loaded.id})",
                where=store.path,
                fix="ablate the model that was captured",
            )
    return loaded


@dataclass
class StoreModel:
    """The store's model, loaded when it is needed, and once for all that share this."""

    store: Store
    given: str | LoadedModel | None
    device: str
    trust_remote_code: bool

    @cached_property
    def model(self) -> LoadedModel:
        return model_of(self.store, self.given, self.device, self.trust_remote_code)


def require_one(mask: str | None, k: int | Sequence[int] | None) -> None:
    """`InputError` unless either a mask is named or k is given."""
    if (mask is None) == (k is None):
        raise InputError("name one mask, or k", where="--mask/--k", fix="give exactly one of them")


def masks_of(
    store: LocalStore,
    options: AblateOptions,
    mask: str | None,
    k: int | Sequence[int] | None,
    model: StoreModel,
    progress: Progress,
) -> list[str]:
    """Names of the masks, one per k; selected first where they are not there, by rank 0 of a launch."""
    require_one(mask, k)
    if mask is not None:
        return [mask]
    if locks.Crew.of_environment().rank:
        return [masks.name_of(options.selection(size)) for size in ks_of(k)]
    if not options.keep_super_units:
        ensure_super_units(store, lambda: model.model, progress)
    return [masks.select_with(options.selection(size), store) for size in ks_of(k)]


def journal_of(store: LocalStore, name: str, tests: Tests, options: AblateOptions, rank: int = 0) -> Journal:
    """The journal of the ablation ``name``, beside the store; see `Journal` for ``rank``."""
    read = "two tokens" if options.match == PUBLISHED else f"rule {RULE_VERSION}"
    asked = f"{tests.digest} {options.part} {options.tokens} {read}"
    identity = f"{aside.owner(store.path)} {store.manifest.model.fingerprint} {asked}"
    real = aside.home(store.path)
    return Journal(real.with_name(f".{real.name}.{name}.jsonl"), identity, rank)


def record_of(
    store: Store, options: AblateOptions, names: Sequence[str], tests: Tests
) -> schema.AblationRecord:
    """What a result under the masks ``names``, one per k, will say of itself."""
    records = tuple(store.mask_record(mask) for mask in names)
    sizes = tuple(record.k for record in records)
    sweep = len(records) > 1
    return schema.AblationRecord(
        k=sizes if sweep else sizes[0],
        mode=options.mode,
        tokens=options.tokens,
        seeds=tuple(options.seeds),
        match=options.match,
        mask=records if sweep else records[0],
        prompts=tests.digest,
        control=options.control,
        part=options.part,
        scale=options.scale,
        rule=RULE_VERSION,
        perplexity_of=options.perplexity_of if options.perplexity else None,
    )


def has_masks(store: Store, names: Sequence[str], selected: bool) -> bool:
    """Whether masks are stored and, where a k selected them, are of the stored scores."""
    if not all(store.has(f"{schema.MASKS}/{name}") for name in names):
        return False
    scores = store.scores_record() if selected else None
    return not scores or all(store.mask_record(name).scores == scores for name in names)


def is_stored(store: Store, name: str, record: schema.AblationRecord) -> bool:
    """Whether a stored ablation is what ``record`` asks for; it may have perplexities beside."""
    if not store.has(f"{schema.ABLATIONS}/{name}"):
        return False
    stored = store.ablation_record(name)
    if replace(stored, perplexity_of=record.perplexity_of) != record:
        return False
    if record.perplexity_of is None:
        return True
    measured = schema.PERPLEXITY in store.dataset(f"{schema.ABLATIONS}/{name}")
    return measured and (stored.perplexity_of or TEXT) == record.perplexity_of


def tell_what_goes(store: Store, name: str, record: schema.AblationRecord) -> None:
    """Say that a result replaces one of other settings that its name does not hold."""
    if not store.has(f"{schema.ABLATIONS}/{name}"):
        return
    stored = store.ablation_record(name)
    for what in ("seeds", "match"):
        if (was := getattr(stored, what)) != getattr(record, what):
            LOG.warning("ablations/%s is replaced, which had %s %s; --name keeps both", name, what, was)


def recall(store: Store, journal: Journal, tests: Tests, options: AblateOptions) -> None:
    """Add what other ablations of the same prompts found to the journal's replies."""
    place_of = {int(number): place for place, number in enumerate(tests.table.index)}
    for name in store.children(schema.ABLATIONS):
        record = store.ablation_record(name)
        alike = (record.prompts, record.tokens, record.rule) == (tests.digest, options.tokens, RULE_VERSION)
        if alike and (record.match == PUBLISHED) == (options.match == PUBLISHED):
            _remember(store.dataset(f"{schema.ABLATIONS}/{name}").load(), journal, place_of)


def _remember(result: xr.Dataset, journal: Journal, place_of: dict[int, int]) -> None:
    """The replies of one stored ablation."""
    stacked = {
        name: result[name].transpose(..., "prompt").values.reshape(-1, result.sizes["prompt"])
        for name in (schema.GENERATED, schema.LOG_PROBABILITY, schema.LOGIT_DIFFERENCE)
    }
    relations = [str(name) for name in result["relation"].values]
    digests = result[schema.DIGEST].transpose(..., "relation").values.reshape(-1, len(relations))
    column_of = [relations.index(str(name)) for name in result[schema.RELATION_OF].values]
    for at, number in enumerate(result["prompt"].values.tolist()):
        if (place := place_of.get(number)) is not None:
            for row, of_row in enumerate(digests):
                text, certain, difference = (values[row, at] for values in stacked.values())
                entry = (str(text), float(certain), float(difference))
                journal.replies[str(of_row[column_of[at]])][place] = entry


def require_name(store: Store, name: str) -> None:
    """Refuse what a result cannot be called; a registration before it has the same name."""
    taken = [*store.children(schema.ABLATIONS), *store.children(schema.REGISTRATIONS)]
    schema.require_result(name, taken, "an ablation")


def name_of(masks: Sequence[str], options: AblateOptions) -> str:
    """The result's name: the mask's, and what is not the default."""
    parts = [masks[0] if len(masks) == 1 else f"sweep-{masks[0]}-{masks[-1]}"]
    mode = options.mode if options.scale is None else f"x{options.scale:g}"
    parts += [mode] if options.mode != AblateOptions.mode else []
    parts += [f"{options.tokens}-token"] if options.tokens != AblateOptions.tokens else []
    parts += [options.control] if options.control != AblateOptions.control else []
    parts += [options.part] if options.part != AblateOptions.part else []
    return "-".join(parts)
