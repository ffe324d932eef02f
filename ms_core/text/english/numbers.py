"""Numbers in English text, with what belongs to them: money, dates, times, telephone numbers, versions, units, ranges.

Cardinals and ordinals are num2words's, which gruut brings anyway: inflect says the same and takes two seconds to
import; WeText's grammars (17 MB for English) read 52 % of the first 511 sentences of `tests/readings.tsv` and fail at
telephone numbers, decades, ranges and cents; NeMo's need pynini, 158 MB. What a number is, the rules here say, each a
pattern and its reading, in the order in which they are tried.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from num2words import num2words

from ms_core.text.english import tables

SPELL = "\ue000"  # stands after a letter that is spelled, so that no later rule takes it for a word
MAX_DIGITS = 15  # a longer number is read digit by digit

NUMBER = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
_MONEY = "".join(tables.CURRENCIES)
_MONTH = "|".join(sorted(
    (form for name in tables.MONTH_NAMES for form in (name.capitalize(), name.upper())), key=len, reverse=True
))  # fmt: skip
_CLOCK = "o'clock"
_LAST_WORD = re.compile(r"(\w+)\W*$")
_NEXT_NOUN = re.compile(r"\s([a-z]{3,})\b")


def spell(letters: str) -> str:
    """Letters to be spelled, as later rules leave them."""
    return " ".join(letter + SPELL for letter in letters.lower() if letter.isalpha())


@lru_cache(maxsize=4096)
def cardinal(digits: str) -> str:
    """ "1204" -> "one thousand two hundred and four"; a long number or one with a leading zero is digits."""
    if len(digits) > MAX_DIGITS or (len(digits) > 1 and digits[0] == "0"):
        return each(digits)
    return num2words(int(digits)).replace("-", " ").replace(",", "")


@lru_cache(maxsize=4096)
def ordinal(digits: str) -> str:
    """ "21" -> "twenty first"."""
    return num2words(int(digits), to="ordinal").replace("-", " ").replace(",", "")


def each(digits: str) -> str:
    """The digits of a string, one by one."""
    return " ".join(num2words(int(digit)) for digit in digits if digit.isdigit())


@lru_cache(maxsize=1024)
def pairs(digits: str) -> str:
    """Three or four digits as years and house numbers are read: "nineteen oh five", "twenty ten", "two twenty one"."""
    high, low = digits[:-2], digits[-2:]
    if digits[-3:] == "000" or digits[1:3] == "00" and len(digits) == 4:
        return cardinal(digits)
    if low == "00":
        return cardinal(high) + " hundred"
    return f"{cardinal(high)} {'oh ' + cardinal(low[1]) if low[0] == '0' else cardinal(low)}"


def number(text: str) -> str:
    """A number with or without commas and decimals; nothing of "2.0", "3.10" or ".5" is lost."""
    whole, point, decimals = text.replace(",", "").partition(".")
    return (cardinal(whole) if whole else "") + (f" point {each(decimals)}" if point else "")


def _one(number_text: str) -> bool:
    return number_text == "1"


def _before(m: re.Match) -> str:
    last = _LAST_WORD.search(m.string[max(0, m.start() - 30) : m.start()])
    return last[1].lower() if last else ""


def _is_adjective(m: re.Match) -> bool:
    """Whether a quantity stands before its noun, as in "a 5 kg bag"."""
    noun = _NEXT_NOUN.match(m.string[m.end() : m.end() + 30])
    return bool(noun) and noun[1] not in tables.NOT_NOUNS and _before(m) in tables.ARTICLES


def _bare(m: re.Match) -> str:
    """A number alone: a year where four digits look like one, unless things are counted."""
    text = m[0]
    if text == "911":
        return each(text)
    if not re.fullmatch(r"1\d{3}|20\d\d", text) or text in {"1000", "2000"}:
        return number(text)
    counted = re.match(r"\s(people|men|women|children|[a-z]{3,}[^s\W]s)\b", m.string[m.end() : m.end() + 30])
    is_year = _before(m) in _BEFORE_YEAR
    return cardinal(text) if counted and not is_year and text[:2] != "20" else pairs(text)


def _thousands(m: re.Match) -> str:
    return re.sub(r"[ .\u00a0'_]", ",", m[0])


def _telephone(m: re.Match) -> str:
    groups = re.findall(r"\d+", m[0])
    return ("plus " if m[0].lstrip()[0] == "+" else "") + " , ".join(each(group) for group in groups)


def _called(m: re.Match) -> str:
    return m[1] + " , ".join(each(group) for group in re.findall(r"\d+", m[2]))


def _local_telephone(m: re.Match) -> str:
    """ "555-1234", but "100-1500" is a range."""
    return m[0] if m[0].endswith("00") and m[1].endswith("0") else _telephone(m)


def _address(m: re.Match) -> str:
    groups = [cardinal(group) if len(group) < 3 else each(group) for group in m[1].split(".")]
    if any(int(group) > 255 for group in m[1].split(".")):
        return _version(m)
    return " dot ".join(groups)


def _version(m: re.Match) -> str:
    return " point ".join(cardinal(group) for group in m[1].split("."))


def _date(year: str, month: int, day: int) -> str:
    year = "2000" if year == "00" else year
    said = pairs(year) if len(year) == 4 else two_digits(year) if year else ""
    return f"{tables.MONTHS[month - 1]} {ordinal(str(day))} {said}"


def _numeric_date(m: re.Match) -> str:
    """Year first, or month first as in America; day first where the other cannot be."""
    a, b, c = m.groups()
    year, month, day = (a, int(b), int(c)) if len(a) == 4 else (c, int(a), int(b))
    if month > 12 or "." in m[0] and day <= 12 and len(a) < 4:
        month, day = day, month
    return _date(year, month, day) if 1 <= month <= 12 and 1 <= day <= 31 else m[0]


def two_digits(digits: str) -> str:
    """ "07" -> "oh seven"."""
    return "oh " + cardinal(digits[1]) if digits[0] == "0" and digits != "00" else cardinal(digits.lstrip("0") or "0")


def _month_day(m: re.Match) -> str:
    year = f"{m[4] or ''} {pairs(m[5])}" if m[5] else ""
    until = f"to {ordinal(m[3])} " if m[3] else ""
    return f"{tables.MONTH_NAMES[m[1].lower()]} {ordinal(m[2])} {until}{year}"


def _day_month(m: re.Match) -> str:
    article = "" if _before(m) == "the" else "the "
    return f"{article}{ordinal(m[1])} of {tables.MONTH_NAMES[m[2].lower()]} {pairs(m[3]) if m[3] else ''}"


def _half_day(letter: str, dotted: str | None, rest: str) -> str:
    """a. m. or p. m.; where its full stop also ends the sentence, that stays."""
    word = re.match(r"\s*([A-Z]\w*)", rest)
    ends = not rest.strip() or word and not word[1].isupper() and word[1].lower()[:3] not in {
        *tables.MONTH_NAMES, *tables.DAYS
    }  # fmt: skip
    return spell(letter + "m") + (" . " if dotted and ends else "")


def _time(m: re.Match) -> str:
    hour, minute, second, half, dots = m.groups()
    if int(hour) > 24 or int(minute) > 59:
        return f"{cardinal(hour)} to {cardinal(minute.lstrip('0') or '0')}"
    if second:
        parts = ((hour, "hour"), (minute, "minute"), (second, "second"))
        counts = [(str(int(count)), name) for count, name in parts]
        return " ".join(f"{cardinal(count)} {name}{'' if _one(count) else 's'}" for count, name in counts)
    hour = str(int(hour))
    if minute != "00":
        said = f"{cardinal(hour)} {two_digits(minute)}"
    elif half:
        said = cardinal(hour)
    else:
        said = f"{cardinal(hour)} {_CLOCK if 0 < int(hour) <= 12 else 'hundred'}"
    return said + (" " + _half_day(half, dots, m.string[m.end() : m.end() + 40]) if half else "")


def _hour(m: re.Match) -> str:
    return f"{cardinal(m[1])} {_half_day(m[2], m[3], m.string[m.end() : m.end() + 40])}"


def _range(m: re.Match) -> str:
    beside = m.string[m.end() : m.end() + 6] if m[2] == "-" else m.string[max(0, m.start() - 12) : m.end() + 12]
    if (
        m[2].strip() == "-" != m[2]
        and re.fullmatch(r"\d{4}", m[1])
        and re.match(r"\d{1,3}\b", m.string[m.end() : m.end() + 4])
    ):
        return m[0]  # a dash, as in "in 2019 - 5 years ago"
    if "-" in m[2] and re.search("[=+*÷]", beside):
        return f"{m[1]} minus "
    return f"{m[1]} to "


def _money(m: re.Match) -> str:
    """A sign, a number and perhaps a scale, a code of the country before and "/hr" behind."""
    country, sign, amount, scale, per = m.groups()
    one, many, cent, cents = tables.CURRENCIES[sign].split()
    country = " ".join(_initials(tables.DOLLARS[country])) + " " if country else ""
    amount = amount.replace(",", "")
    whole, _, decimals = amount.partition(".")
    if scale:
        scale = scale.strip().lower()
        said = f"{number(amount)} {tables.SCALES.get(scale, scale)} {country}{one if _is_adjective(m) else many}"
    elif len(decimals) == 2:
        parts = [] if not int(whole or 0) and int(decimals) else [f"{cardinal(whole or '0')} {country}"
                                                                  f"{one if _one(whole) else many}"]  # fmt: skip
        if int(decimals):
            parts.append(f"{cardinal(str(int(decimals)))} {cent if decimals == '01' else cents}")
        said = " ".join(parts)
    else:
        said = f"{number(amount)} {country}{one if _one(amount) or _is_adjective(m) else many}"
    return said + (f" per {tables.PER[per]}" if per else "")


def _money_after(m: re.Match) -> str:
    """The sign after the number, as in "5 €"."""
    return _MONEY_RULE.sub(_money, m[2] + m[1])


def _initials(name: str) -> list[str]:
    return [spell(word) if "." in word else word for word in name.split()]


def _coded(amount: str, scale: str | None, code: str) -> str:
    name = " ".join(_initials(tables.CURRENCY_CODES[code]))
    scale = tables.SCALES.get((scale or "").strip().lower(), (scale or "").strip())
    if _one(amount) and name.endswith("s"):
        name = name[:-1]
    return f"{number(amount)} {scale} {name}"


def _decade(m: re.Match) -> str:
    """ "1960s", "'80s"; "30s" alone is a decade after "the", "her" or "mid", else seconds."""
    digits, before = m[1], _before(m)
    if len(digits) == 2 and "'" not in m[0]:
        lasts = before == "the" and _NEXT_LASTS.match(m.string[m.end() : m.end() + 20])
        if lasts or before not in _BEFORE_DECADE:
            return m[0]
    *rest, last = (pairs(digits) if len(digits) == 4 else cardinal(digits)).split()
    return " ".join([*rest, last[:-1] + "ies" if last.endswith("y") else last + ("es" if last.endswith("x") else "s")])


_ENDS = re.compile(r"\s*(?:$|[,.;:)?!])")
_BEFORE_DECADE = frozenset({
    *("the", "his", "her", "their", "my", "your", "our", "in", "mid", "early", "late", "low", "high", "upper"),
    *("to", "and", "of", "from", "into", "s"),
})  # fmt: skip
_BEFORE_YEAR = frozenset({"in", "since", "by", "of", "until", "from", "the", "before", "after", "during", "and", "to"})
_NEXT_LASTS = re.compile(r"\s(?:pause|break|delay|wait|timeout|clip|video|window|limit|interval|timer|gap|rest)\b")


def _team(m: re.Match) -> str:
    said = cardinal(m[1])
    return said + ("rs" if said.endswith("e") else "ers")


def _fraction(m: re.Match) -> str:
    whole, n, d = m.groups()
    before = f"{cardinal(whole)} and " if whole else ""
    if (n, d) in {("24", "7"), ("9", "11")} or int(n) + int(d) == 100:
        return f"{before}{cardinal(n)} {cardinal(d)}"
    if not 0 < int(n) < int(d) or n[0] == "0":
        return f"{before}{cardinal(n)} over {cardinal(d)}"
    name = {"2": "half", "4": "quarter"}.get(d) or ordinal(d).removeprefix("one ")
    plural = {"half": "halves"}.get(name, name + "s")
    return f"{before}{cardinal(n)} {name if _one(n) else plural}"


def _quantity(m: re.Match) -> str:
    """A number and its unit: one or many, square or cubic, per something."""
    amount, gap, unit, power, per, dot = m.groups()
    ambiguous = gap == " " and unit not in tables.AFTER_SPACE
    if ambiguous and (unit == "in" or not _ENDS.match(m.string[m.end() : m.end() + 3])) or not gap and unit == "K":
        return m[0]
    singular, plural = tables.UNITS[unit]
    words = singular if _one(amount) or gap == "-" or _is_adjective(m) else plural
    words = " ".join(_initials(words.replace("'s", SPELL)))
    shape = {"2": "square ", "3": "cubic "}.get(power or "", "")
    end = " . " if dot and unit not in tables.DOTTED_UNITS else ""
    return f"{number(amount)} {shape}{words}{' per ' + tables.PER[per] if per else ''}{end}"


def _inches(m: re.Match) -> str:
    if m.string.count('"', 0, m.start()) % 2:
        return m[0]
    return f"{number(m[1])} {'inch' if _one(m[1]) or _is_adjective(m) else 'inches'}"


def _dotted_inches(m: re.Match) -> str:
    """ "5 in." with the full stop of its sentence, where no word goes on."""
    return f"{number(m[1])} inch{'' if _one(m[1]) else 'es'}{'' if m[2] else ' . '}"


def _power(m: re.Match) -> str:
    special = {"2": "squared", "3": "cubed"}.get(m[1])
    if special:
        return f" {special} "
    exponent = number(m[1].lstrip("-")) if m[1].lstrip("-")[0].isdigit() else m[1].lstrip("-")
    return f" to the power of {'minus ' if m[1][0] == '-' else ''}{exponent} "


def _zip(m: re.Match) -> str:
    state = tables.STATES.get(m[1])
    return f"{' '.join(_initials(state.replace('_', ' '))) if state else m[1]} {each(m[2])}"


STREET = (
    r"(?:(?:[NSEW]\.? )?(?:[A-Z][a-z]+|\d+(?:st|nd|rd|th)) (?:[A-Z][a-z]+ )?(?:St|Street|Ave|Avenue|Rd|Road|Dr|Drive"
    r"|Blvd|Boulevard|Lane|Ln|Court|Ct|Way|Place|Pl|Square|Sq)\b)"
)
_PLACE = (
    r"(?i:apt|apartment|exit|platform|terminal|zone|lot|wing|hall|question|item|room|unit|suite|gate|seat|flat|ste"
    r"|block|floor|exhibit|section|table|figure|fig|class)"
)
_CALL = r"\b((?:[Cc]all|[Dd]ial|[Rr]ing|[Pp]hone|[Tt]ext|[Ff]ax|[Tt]el)(?:ed|s|ing|ling|led|ephone)?:?\.? )"
_UNIT = "|".join(re.escape(unit) for unit in sorted(tables.UNITS, key=len, reverse=True))
_PER = "|".join(sorted(tables.PER, key=len, reverse=True))
_SCALE = r"(\s?(?:hundred|thousand|million|billion|trillion)\b|\s?(?:bn|mn|tn|[KkMmBbT])(?![\w.]\w|\w))"
_CODE = "|".join(tables.CURRENCY_CODES)
_MONEY_RULE = re.compile(rf"(?:(?<!\w)(US|AU|CA|NZ|HK|[ACS]))?([{_MONEY}])\s?({NUMBER}){_SCALE}?(?:\s?/\s?({_PER})\b)?")

Rule = tuple[re.Pattern, Callable[[re.Match], str]]
RULES: tuple[Rule, ...] = tuple(
    (re.compile(pattern), reading)
    for pattern, reading in (
        # how numbers are grouped
        (r"(?<![\w.,:/+-])\d{1,3}(?:(?:[ \u00a0]\d{3})+|(?:['_]\d{3})+)(?![\w,.'-]?\d|[ ]\d)", _thousands),
        (r"(?<![\w.,])\d{1,3}(?:\.\d{3}){2,}(?![\w.]?\d)", _thousands),
        (r"(?<![\w.,])(\d{1,3}(?:\.\d{3})+),(\d\d?)(?!\d)", lambda m: f"{m[1].replace('.', ',')}.{m[2]}"),
        (r"(?<![\w.,-])(\d+),(\d\d?)(?![\d-]|[.,]\d)", r"\1.\2"),
        (r"(?<=\d) / (?=\d)", lambda m: "divided by"),
        (rf"(?<=[\d)])\^(-?{NUMBER})", _power),
        # addresses and codes
        (r"\b(?:v(?=\d+(?:\.\d+)*\b)|V(?=\d+\.\d))", lambda m: "version"),
        (rf"(?<![\w.])(\d{{3,4}})([A-D]?)(?= {STREET})", lambda m: f"{pairs(m[1])} {spell(m[2])}"),
        (rf"\b({_PLACE}) (\d+)([A-Z])\b", lambda m: f"{m[1]} {cardinal(m[2])} {spell(m[3])}"),
        (r"\b([A-Z]{2}),? (\d{5}(?:-\d{4})?)(?![\w,.]?\d)", _zip),
        (r"(?<![\w-])\d{5}-\d{4}(?![\w-])", lambda m: each(m[0])),
        (r"(?<![\w-])1-(8)(?:00|88|77|66|55|44|33)(?![\d.]|-\d)", lambda m: f"one {pairs(m[0][2:])}"),
        (r"\b([Zz]ip(?: code)?|ZIP(?: code)?|PIN(?: code)?|[Pp]ass(?:code|word)|[Cc]ode|[Pp]in) (\d{4,6})\b",
            lambda m: f"{m[1]} {each(m[2])}"),
        # telephone numbers
        (rf"{_CALL}(911|999|112|[2-8]11|988|\d{{3}}[ .-]\d{{3,4}}(?:[ .-]\d{{4}})?)(?![\d,-]|\.\d)", _called),
        (r"(?<!\w)\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}(?!\d)", _telephone),
        (r"(?<![\w.-])(?:1[ .-])?(?:\(\d{3}\)[ .-]?|\d{3}[ .-])\d{3}[ .-]\d{4}(?!\d|-\d)", _telephone),
        (r"(?<![\w.$£€-])(\d{3})-\d{4}(?![\d%]|-\d)", _local_telephone),
        (r"(?<![\w-])(?:\d{3}-\d\d-\d{4}|97[89](?:-\d+){3,4})(?![\w-])", _telephone),
        (r"(?<![\w.])(\d{1,3}(?:\.\d{1,3}){3})(?![\w.]?\d)", _address),
        (r"(?<=[a-z]) ?:(\d{2,5})\b", lambda m: f"colon {pairs(m[1]) if len(m[1]) == 4 else each(m[1])}"),
        # dates
        (r"(?<=\d-\d\d)T(?=\d\d:\d\d)", lambda m: " "),
        (r"(?<![\w/-])(\d{4})[-/.](\d\d?)[-/.](\d\d?)(?![\w/-]|\.\d)", _numeric_date),
        (r"(?<![\w/-])(\d\d?)/(\d\d?)/(\d{4}|\d\d)(?![\w/])", _numeric_date),
        (r"(?<![\w.])(\d\d?)\.(\d\d?)\.(\d{4})(?!\w)", _numeric_date),
        (r"(?<![\w/-])(\d\d?)-(\d\d?)-(\d{4})(?![\w/-])", _numeric_date),
        (r"(?<![\w/-])(0\d|\d\d(?=/0))/(\d\d)()(?![\w/])", _numeric_date),
        (r"(?<![\w/])((?:19|20)\d\d)/(\d\d)(?![\w/])", lambda m: f"{pairs(m[1])} {two_digits(m[2])}"),
        (rf"\b({_MONTH})\.? (\d\d?)(?:st|nd|rd|th)?(?:\s?[-–]\s?(\d\d?))?(?:(,)? (\d{{4}}))?"
            r"(?![\w%:]|[.,]\d|-\d| ?[ap]\.?m\b)",
            _month_day),
        (rf"(?<![\w.])(\d\d?) ({_MONTH})\b\.?(?:,? (\d{{4}}))?", _day_month),
        (rf"\b({_MONTH})\.? (?=\d{{4}}\b)", lambda m: tables.MONTH_NAMES[m[1].lower()]),
        (r"(?<![\w'])'(\d\d)(?![\w'])", lambda m: two_digits(m[1])),
        (r"(?<![\w.-])(1\d{3}|20\d\d)[-–](\d\d)(?![\w-])", lambda m: f"{pairs(m[1])} to {two_digits(m[2])}"),
        # ranges and minus
        (r"(?<![\w-])50-50(?![\w-])", lambda m: "fifty fifty"),
        (rf"([$£€¥₹])({NUMBER})\s?[-–]\s?({NUMBER}){_SCALE}?(?![\d%]|-\d)",
            lambda m: f"{m[2]} to {m[1]}{m[3]}{m[4] or ''}"),
        (rf"(?<![\w.-])([$£€¥₹]?{NUMBER}(?::\d\d)?(?:\s?(?:[ap]\.m\.|[AaPp][Mm])|[%°A-Za-z]{{1,4}}|))(\s?[-–]\s?)"
            rf"(?=[$£€¥₹]?{NUMBER}(?!-?\d))", _range),
        (r"[~∼]\s?(?=[$£€¥₹]?\.?\d)", lambda m: "about"),
        (r"(?<![\w.)%°^–-])[-–](?=[$£€¥₹]?\.?\d)", lambda m: "minus"),
        (r"(?<![\w)-])-(?=[b-z]\b(?![-']))", lambda m: "minus"),
        (r"(?<=\b[b-zB-HJ-Z]) - (?=(?:[b-zB-HJ-Z]|\d+)\b)|(?<=\d) - (?=[b-z]\b)", lambda m: "minus"),
        # times and ratios
        (r"(?<![\w.])(\d\d?)\.([0-5]\d)(?=\s?[AaPp]\.?[Mm]\b)", r"\1:\2"),
        (r"(?<![\w.])(\d\d?)h ?(\d\d?)(?:m|min)?\b", lambda m: f"{m[1]} h {m[2]} min"),
        (r"(?<![\w:.])(\d{1,2}):(\d\d)(?::(\d\d))?(?:\s?([AaPp])(?:(\.)[Mm]\b\.?|[Mm]\b))?(?![\d:])", _time),
        (r"(?<![\w:.])(\d{1,3}):(\d{1,3}(?:,\d{3})*)(?![\d:])", lambda m: f"{cardinal(m[1])} to {number(m[2])}"),
        (r"(?<![\w.,])(\d\d?)\s?([AaPp])(?:(\.)[Mm]\b\.?|[Mm]\b)", _hour),
        # versions, and what is near or below zero
        (r"(?<![\w.])(\d+(?:\.\d+){2,})(?![\w.]?\d)", _version),
        # money
        (_MONEY_RULE, _money),
        (rf"(?<![\w.])({NUMBER})\s?([{_MONEY}])(?!\d)", _money_after),
        (rf"\b({_CODE})\s?({NUMBER}){_SCALE}?", lambda m: _coded(m[2], m[3], m[1])),
        (rf"(?<![\w.])({NUMBER}){_SCALE}?\s?({_CODE})\b", lambda m: _coded(m[1], m[2], m[3])),
        (rf"(?<![\w.])({NUMBER})\s?(?:¢|c(?= each| per))", lambda m: f"{number(m[1])} cent{'' if _one(m[1]) else 's'}"),
        # sizes, fractions, powers
        (rf"(?<![\w.])({NUMBER})'\s?(\d\d?)(?:\"|'')?(?!\w)", lambda m: f"{number(m[1])} foot {cardinal(m[2])}"),
        (rf"(?<![\w./])({NUMBER})'(?=\s(?:tall|long|wide|high|deep|x|by)\b)", lambda m: f"{number(m[1])} feet"),
        (rf"(?<![\w./])({NUMBER})\"(?!\w)", _inches),
        (r"(?<=\d)(/\d+)\"(?=\s|$|[,;.])", r"\1 inch"),
        (rf"(?<![\w.])({NUMBER})[-\s]in\.(?=(\s[a-z]|[,;:])?)", _dotted_inches),
        (r"(?<![\w.])(\d{3,4})[x×](?=\d)", lambda m: f"{pairs(m[1])} by"),
        (rf"(?<![\w.])({NUMBER})[x×](?={NUMBER})", lambda m: f"{number(m[1])} by"),
        (rf"(?:(?<=[cmk]m)|(?<=\dm)|(?<= m)|(?<=ft)|(?<=['\"])) ?[x×] ?(?={NUMBER})", lambda m: "by"),
        (rf"(?<=\d) x (?={NUMBER})", lambda m: " times "),
        (rf"(?<![\w.])({NUMBER})x\b(?!\s?[-+=*/^]|\s+minus)", lambda m: f"{number(m[1])} times"),
        (r"(?<![\w./])(?:(\d+)[ -])?(\d+)/(\d+)(?![\w/]|\.\d)", _fraction),
        (r"(?<=[\d)])\s?\*\s?(?=[\d(])", lambda m: " times "),
        (r"(?<![\w.])(144|240|360|480|540|720|1080|1440|2160|4320)([pi])\b", lambda m: f"{pairs(m[1])} {spell(m[2])}"),
        (r"(?<![\w.])(\d+)p\b", lambda m: f"{cardinal(m[1])} {'penny' if _one(m[1]) else 'pence'}"),
        (r"(?<![\w.])(?:[2-7]G|[1-4]D|(?:[248]|16)K(?! (?:followers|users|people|dollars)))\b",
            lambda m: f"{cardinal(m[0][:-1])} {spell(m[0][-1])}"),
        (rf"(?<=\ba )({NUMBER})K\b", lambda m: f"{number(m[1])} {spell('k')}"),
        # decades, ordinals, units, scales
        (r"(?<![\w.])'?(\d{1,3}0)'?s\b", _decade),
        (r"(?<![\w.])(\d+)ers\b", _team),
        (r"(?<![\w.])(\d[\d,]*)(?:st|nd|rd|th)\b", lambda m: ordinal(m[1].replace(",", ""))),
        (rf"(?<![\w.])({NUMBER})([ -]?)({_UNIT})(?:\^([23]))?(?:/({_PER}))?(?![\w/])(\.(?=\s+[a-z0-9]|\s*$|[,;:]))?",
            _quantity),
        (rf"(?<![\w.])({NUMBER})(?:\s?(bn|mn|tn)|([KkMB]))\b",
            lambda m: f"{number(m[1])} {tables.SCALES[(m[2] or m[3]).lower()]}"),
        # what is left
        (rf"\^(-?(?:{NUMBER}|[a-z]\b))", _power),
        (r"#(?=\d)", lambda m: "number "),
        (rf"(?<![\w.]){NUMBER}(?!\w|\.\d)", _bare),
    )
)  # fmt: skip


def read_numbers(text: str) -> str:
    """The text with its numbers, and what belongs to them, in words."""
    for pattern, reading in RULES:
        if isinstance(reading, str):
            text = pattern.sub(reading, text)
        else:
            text = pattern.sub(lambda m, reading=reading: m[0] if (said := reading(m)) == m[0] else f" {said} ", text)
    return text
