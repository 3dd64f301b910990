"""The one rule that says whether an answer is right, and whether that is certain yet.

``decide(" Paris, the", ["Paris"])`` is True whatever follows, ``decide(" Par", ["Paris"])`` is None: read on.
Texts are compared as they are spelt out: case folded and in compatibility decomposition (NFKD), where a text
whose accent has not arrived yet is still a beginning of the accented one. Words end where Unicode's default
segmentation (UAX #29) ends them, but for Korean particles, Chinese and Japanese, see the two tables here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

import regex

from relact.errors import InputError
from relact.relations.facts import plain

RULES = ("prefix", "exact", "paper")
RULE_VERSION = 2  # of what the rules mean: verdicts of different versions are not comparable

CUT = "\ufffd"  # what is left of a character between two tokens
BLANKS = " \t\u1680"  # horizontal ones, as they are spelt out
LINE_ENDS = "\n\r\v\f\x85\u2028\u2029"
FINAL = ".,;:!?。、।॥،؛؟"  # punctuation, as it is spelt out, that `exact` accepts at the end
ROOM = 8  # tokens besides the answer's own: blanks before it, and what `exact` wants to see after it


def decide(said: str, answers: Sequence[str], rule: str = "prefix", *, ended: bool = False) -> bool | None:
    """The verdict on what a model has said so far; None while it depends on what comes next.

    ``prefix``: it begins, after blanks, with a whole answer that ends where a word ends. ``exact``: its first
    line is a whole answer and nothing else but final punctuation; an answer's own final dot may be missing.
    An unfinished answer is wrong by both once the text or its line has ended, and so is a leading line break.
    ``paper``: the text (two greedy tokens), stripped, is a prefix of an answer. Nothing said is wrong.

    Case and Unicode compatibility forms never matter. A character cut between two tokens (a trailing U+FFFD)
    is left out.

    Args:
        answers: accepted ones; any of them will do.
        ended: nothing more will come. The verdict is never None then.

    Raises:
        InputError: an unknown rule.
    """
    if rule not in RULES:
        raise InputError(f"unknown rule {rule!r}", where="match", fix=f"use one of {', '.join(RULES)}")
    said, judge = said.rstrip(CUT), _JUDGES[rule]
    return _any(judge(said, answer, ended) for answer in answers if _word(answer))


def is_correct(generated: str, answers: Sequence[str], rule: str = "prefix") -> bool:
    """Whether all that a model generated is one of the accepted answers, see `decide`."""
    return bool(decide(generated, answers, rule, ended=True))


def is_open(said: str, answers: Sequence[str]) -> bool:
    """Whether the verdict by ``prefix`` or by ``exact`` still depends on what comes next."""
    return any(decide(said, answers, rule) is None for rule in ("prefix", "exact"))


def most_tokens(answers: Sequence[str]) -> int:
    """Tokens after which to stop in any case: each holds at least one byte of the longest answer's UTF-8."""
    return max((len(answer.encode()) for answer in answers), default=0) + ROOM


def _prefix(said: str, answer: str, ended: bool) -> bool | None:
    text, word = _spelt(said).lstrip(BLANKS), _word(answer)
    if text.startswith(word):
        return _ends(word, text[len(word) :], ended)
    return None if not ended and _may_become(text, word) else False


def _exact(said: str, answer: str, ended: bool) -> bool | None:
    text, word = _spelt(said).lstrip(BLANKS), _word(answer)
    word = word.rstrip(" .") or word
    if not text.startswith(word):
        return None if not ended and _may_become(text, word) else False
    rest = text[len(word) :].lstrip(BLANKS + FINAL)
    return rest[0] in LINE_ENDS if rest else ended or None


def _paper(said: str, answer: str, ended: bool) -> bool | None:
    text = plain(said)
    right = bool(text) and plain(answer).startswith(text)
    open_ = right or _may_become(_spelt(said).lstrip(), _word(answer))
    return None if open_ and not ended else right


_JUDGES = {"prefix": _prefix, "exact": _exact, "paper": _paper}


def _any(verdicts: Iterable[bool | None]) -> bool | None:
    found = set(verdicts)
    return True if True in found else None if None in found else False


@lru_cache(maxsize=4096)
def _spelt(text: str) -> str:
    """Case folded and decomposed, letter by letter, so that more text changes at most the last marks."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKD", "".join(map(_folded, text)))


@lru_cache(maxsize=16384)
def _folded(letter: str) -> str:
    once = unicodedata.normalize("NFKD", letter.casefold())
    return unicodedata.normalize("NFKD", once.casefold())  # some letters show their case only when decomposed


def _word(answer: str) -> str:
    """An answer spelt out; nothing where it is empty or holds what no text can say."""
    return "" if CUT in answer else _spelt(answer).strip()


def _may_become(text: str, word: str) -> bool:
    """Whether a spelt text can still be continued to a word: it begins it, and the last marks are among its.

    More marks may come in between, as their order goes by combining class; within a class it stays.
    """
    marks = _marks(reversed(text))[::-1]
    head = text[: len(text) - len(marks)]
    if not word.startswith(head):
        return False
    wanted = _marks(word[len(head) :])
    return all(_of_class(wanted, mark).startswith(_of_class(marks, mark)) for mark in marks)


def _marks(letters: Iterable[str]) -> str:
    """Combining marks at the start."""
    found = ""
    for letter in letters:
        if not unicodedata.combining(letter):
            break
        found += letter
    return found


def _of_class(marks: str, like: str) -> str:
    kind = unicodedata.combining(like)
    return "".join(mark for mark in marks if unicodedata.combining(mark) == kind)


_EDGE = regex.compile(r"(?w)\b")
_NEXT = (" ", "a", "א", "1", "\u0301")  # one of every kind that decides whether a word has ended before it
_HANGUL = regex.compile(r"\p{Hangul}\Z")
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}ー][\u3099\u309a]?\Z")  # and a voicing mark

# Korean particles and forms of "to be" that are written onto the word before them
_PARTICLES = """
    은 는 이 가 을 를 의 에 도 만 와 과 로 으로 하고 랑 이랑 나 이나 까지 부터 보다 처럼 같이 마다 조차 마저
    밖에 에는 에도 에만 에서 에서는 에서도 에서의 에게 에게는 한테 께 로는 으로는 로도 으로도 로의 으로의
    로서 으로서 와는 과는 와의 과의 까지는 까지도 부터는 만은 만이 만을
    이란 란 이라 라 이라고 라고 이라는 라는 이라도 라도 이라면 라면
    다 이다 입니다 이에요 예요 이었다 였다 이었습니다 였습니다 인데 이며 며 이고 이지만 지만 이므로 이어서
    여서
"""
# What makes another word of a Chinese or Japanese one: its people, language and lore, and other places
_SUFFIXES = """
    人 族 裔 语 語 话 話 文 系 史 学 學 大学 大學 城 港
    尼亚 尼亞 尼西亚 尼西亞 利亚 利亞 比绍 比紹
"""
PARTICLES, SUFFIXES = (tuple(map(_spelt, table.split())) for table in (_PARTICLES, _SUFFIXES))


def _ends(word: str, rest: str, ended: bool) -> bool | None:
    """Whether a word that was said whole ends before the rest of the text; None while that is not certain."""
    end = _parted(word, rest, ended)
    if end is False and _HANGUL.search(word):
        return _has_particle(word, rest, ended)
    if end and _UNSPACED.search(word):
        return _stays_itself(rest, ended)
    return end


def _parted(before: str, rest: str, ended: bool) -> bool | None:
    """Whether Unicode's segmentation parts words here, for all that may follow."""
    texts = (before + rest + more for more in (("",) if ended else _NEXT))
    found = {bool(_EDGE.match(text, len(before))) for text in texts}
    return found.pop() if len(found) == 1 else None


def _has_particle(word: str, rest: str, ended: bool) -> bool | None:
    verdicts: list[bool | None] = [
        _parted(word + particle, rest[len(particle) :], ended)
        for particle in PARTICLES
        if rest.startswith(particle)
    ]
    if not ended and any(particle.startswith(rest) for particle in PARTICLES):
        verdicts.append(None)
    return _any(verdicts)


def _stays_itself(rest: str, ended: bool) -> bool | None:
    if rest.startswith(SUFFIXES):
        return False
    return None if not ended and any(suffix.startswith(rest) for suffix in SUFFIXES) else True
