"""Who is a positive, who is a negative and who is left out, for every relation at once."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relact.errors import InputError

POSITIVE, NEGATIVE, LEFT_OUT = 1, 0, -1
MOST_CLASSES = 1 << 16  # the class number travels in 16 bits beside the key


@dataclass(frozen=True, eq=False)
class Labels:
    """Roles of prompts in relations, with equal prompts grouped into classes.

    ``roles[classes[p], r]`` is the role of prompt p in relation r: 1 positive, 0 negative, -1 left out.

    Its arrays are read-only copies: what is worked out from them once can be kept.

    Args:
        relations: names, in the order of every result's first axis.
        classes: uint16 [prompts], the class of each prompt.
        roles: int8 [classes, relations].

    Raises:
        InputError: a role other than 1, 0, -1; a class without a row; a relation without positives; a name
            twice.
    """

    relations: tuple[str, ...]
    classes: np.ndarray
    roles: np.ndarray

    def __post_init__(self) -> None:
        self._require_arrays()
        for field in ("classes", "roles"):
            object.__setattr__(self, field, copy := getattr(self, field).copy())
            copy.flags.writeable = False
        for name, count in zip(self.relations, self.count(POSITIVE), strict=True):
            if not count:
                raise InputError(
                    "no prompt is positive, so no score is defined",
                    where=f"relation {name}",
                    fix="drop the relation or add prompts for it",
                )

    def _require_arrays(self) -> None:
        relations, classes, roles = self.relations, self.classes, self.roles
        problem, fix = "", "use Labels.from_matrix"
        if len(set(relations)) != len(relations):
            problem, fix = f"a relation is named twice in {list(relations)}", "name each once"
        elif classes.dtype != np.uint16 or roles.dtype != np.int8:
            problem = f"classes are {classes.dtype} and roles {roles.dtype}, not uint16 and int8"
        elif classes.ndim != 1 or roles.ndim != 2 or roles.shape[1] != len(relations):
            problem = f"classes {classes.shape} and roles {roles.shape} do not fit {len(relations)} relations"
        elif classes.size and int(classes.max()) >= len(roles):
            problem = f"class {int(classes.max())} of a prompt has no row among {len(roles)}"
        elif not np.isin(roles, (POSITIVE, NEGATIVE, LEFT_OUT)).all():
            problem = f"roles hold the values {np.unique(roles).tolist()}"
            fix = "use 1 positive, 0 negative, -1 left out"
        if problem:
            raise InputError(problem, where="labels", fix=fix)

    @property
    def prompts(self) -> int:
        return int(self.classes.size)

    @property
    def class_sizes(self) -> np.ndarray:
        """int64 [classes]: prompts in each class."""
        return np.bincount(self.classes, minlength=len(self.roles))

    def count(self, role: int) -> np.ndarray:
        """int64 [relations]: prompts that have this role."""
        counts: np.ndarray = self.class_sizes @ (self.roles == role)
        return counts

    @property
    def partition(self) -> bool:
        """Each relation's positives are one class of their own and nobody is left out: the fast path."""
        positive = self.roles == POSITIVE
        nobody_out = not (self.roles == LEFT_OUT).any()
        return nobody_out and bool((positive.sum(axis=1) <= 1).all() and (positive.sum(axis=0) == 1).all())

    @classmethod
    def from_matrix(cls, matrix: np.ndarray, relations: Sequence[str]) -> Labels:
        """Labels from roles [prompts, relations]: 1 positive (several in a row too), 0 negative, -1 left out.

        Raises:
            InputError: more than 65,536 different rows, or what the class itself refuses.
        """
        matrix = np.asarray(matrix)
        if matrix.ndim != 2 or matrix.shape[1] != len(relations):
            raise InputError(
                f"a matrix of shape {matrix.shape} for {len(relations)} relations",
                where="labels",
                fix="give one row per prompt and one column per relation",
            )
        if not np.isin(matrix, (POSITIVE, NEGATIVE, LEFT_OUT)).all():
            raise InputError(
                "a role is not one of 1, 0, -1", where="labels", fix="1 positive, 0 negative, -1 left out"
            )
        rows, classes = np.unique(matrix.astype(np.int8), axis=0, return_inverse=True)
        if len(rows) > MOST_CLASSES:
            raise InputError(
                f"{len(rows)} different label rows, at most {MOST_CLASSES} are supported",
                where="labels",
                fix="score fewer relations at a time",
            )
        return cls(tuple(relations), classes.reshape(-1).astype(np.uint16), rows)

    @classmethod
    def one_vs_rest(cls, relation_of_prompt: Sequence[str], relations: Sequence[str] | None = None) -> Labels:
        """A relation's prompts against all the rest.

        ``relations`` chooses which are scored and in which order (default: by first appearance). Prompts of
        others stay negatives, so that a relation's score does not depend on which others are asked for.
        """
        names = tuple(dict.fromkeys(relation_of_prompt)) if relations is None else tuple(relations)
        if len(names) >= MOST_CLASSES:
            raise InputError(
                f"{len(names)} relations, at most {MOST_CLASSES - 1}", where="labels", fix="score fewer"
            )
        class_of = {name: number for number, name in enumerate(names)}
        rest = len(names)  # the class of prompts that belong to no chosen relation
        classes = np.array([class_of.get(name, rest) for name in relation_of_prompt], np.uint16)
        roles = np.eye(rest + 1, rest, dtype=np.int8)
        return cls(names, classes, roles if rest in classes else roles[:rest])

    def sampled(self, negatives: int, seed: int) -> Labels:
        """Labels with ``negatives`` times as many negatives as positives, drawn from those there are.

        The draw of a relation depends on the seed, its name and its own roles, not on which relations are
        asked for. Where there are too few negatives, all are kept; the rest is left out. Source: the 4:1 of
        Suau et al. 2022.
        """
        if negatives < 1:
            raise InputError(f"{negatives} negatives per positive", where="labels", fix="give at least 1")
        matrix = self.roles[self.classes]
        for r, name in enumerate(self.relations):
            others = np.flatnonzero(matrix[:, r] == NEGATIVE)
            keep = min(len(others), negatives * int((matrix[:, r] == POSITIVE).sum()))
            draw = np.random.default_rng([seed, zlib.crc32(name.encode())])
            matrix[others, r] = LEFT_OUT
            matrix[draw.choice(others, keep, replace=False), r] = NEGATIVE
        return Labels.from_matrix(matrix, self.relations)
