"""Tables of the English front end: what signs, units, abbreviations and capitals stand for. All are our choice."""

import re


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


IPA = {
    "ɑ": "AA", "æ": "AE", "ʌ": "AH", "ə": "AH", "ɔ": "AO", "aʊ": "AW", "aɪ": "AY", "ɛ": "EH", "ɚ": "ER", "ɝ": "ER",
    "eɪ": "EY", "ɪ": "IH", "i": "IY", "oʊ": "OW", "ɔɪ": "OY", "ʊ": "UH", "u": "UW", "b": "B", "t͡ʃ": "CH", "d": "D",
    "ð": "DH", "f": "F", "ɡ": "G", "h": "HH", "d͡ʒ": "JH", "k": "K", "l": "L", "m": "M", "n": "N", "ŋ": "NG", "p": "P",
    "ɹ": "R", "s": "S", "ʃ": "SH", "t": "T", "θ": "TH", "v": "V", "w": "W", "j": "Y", "z": "Z", "ʒ": "ZH",
}  # fmt: skip
ONSETS = _set(
    "S-T P-R B-R K-R G-R T-R K-L F-R S-P S-K B-L F-L P-L D-R S-T-R K-W S-L G-L S-W S-N S-M K-Y SH-R S-K-R HH-Y B-Y "
    "M-Y S-P-R T-W TH-R F-Y SH-W S-K-W SH-L G-W P-Y SH-M SH-N D-W S-P-L G-Y T-S S-V D-Y B-W Z-W V-Y V-L HH-W S-F "
    "T-Y V-R K-N M-R S-R P-W S-K-Y Z-L K-V L-Y N-Y S-P-Y TH-W F-W SH-T S-K-L"
)
"""Consonants with which at least five words of CMUdict begin."""
CODAS = _set(
    "N-Z T-S L-Z K-S S-T N-T N-D L-D D-Z N-T-S M-Z R-Z N-S S-T-S NG-Z R-D P-S K-T R-T Z-D NG-K N-D-Z V-Z L-T G-Z "
    "B-Z P-T F-T F-S R-N R-K M-P L-T-S R-T-S M-D K-T-S NG-K-S L-D-Z S-K R-D-Z SH-T L-F JH-D V-D N-JH TH-S R-K-S R-F "
    "N-CH R-S R-M CH-T L-K N-S-T R-P F-T-S K-S-T G-D R-N-Z B-D M-P-S R-M-Z L-M R-TH R-S-T R-G R-JH N-TH M-P-T "
    "NG-K-T R-M-D N-JH-D S-K-S L-P R-B N-CH-T P-F R-P-S L-V-Z L-M-Z P-T-S T-Z L-F-S R-SH D-T L-K-S R-CH L-CH R-L "
    "NG-D L-B S-P R-K-T N-S-K L-S L-V L-V-D N-SH SH-K R-L-Z L-TH R-N-D R-JH-D DH-Z M-P-F DH-D N-TH-S M-F R-V B-S-T "
    "P-K L-S-T S-K-T R-B-Z R-F-S L-P-S L-SH R-S-K N-K R-CH-T M-P-T-S R-TH-S P-S-T S-P-S L-N K-Z L-JH R-V-Z L-G"
)
"""And with which they end."""
EXTRA_WORDS = {
    "json": "JH EY1 S AH0 N", "gif": "G IH1 F", "gui": "G UW1 IY0", "jpeg": "JH EY1 P EH2 G", "mpeg": "EH1 M P EH2 G",
    "yaml": "Y AE1 M AH0 L", "wi": "W AY1", "covid": "K OW1 V IH0 D", "nginx": "EH1 N JH IH0 N EH2 K S",
    "scsi": "S K AH1 Z IY0", "captcha": "K AE1 P CH AH0", "wysiwyg": "W IH1 Z IY0 W IH0 G", "ohms": "OW1 M Z",
    "gigahertz": "G IH1 G AH0 HH ER2 T S", "terahertz": "T EH1 R AH0 HH ER2 T S", "emoji": "IH0 M OW1 JH IY0",
    "bitcoin": "B IH1 T K OY2 N", "selfie": "S EH1 L F IY0", "hashtag": "HH AE1 SH T AE2 G",
    "kilohms": "K IH1 L OW0 M Z",
}  # fmt: skip
"""Pronunciations that CMUdict lacks and the model gets wrong."""

CHARACTERS = {
    "ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D",
    "ð": "th", "Ð": "Th", "þ": "th", "Þ": "Th", "ı": "i", "’": "'", "‘": "'", "ʼ": "'", "`": "'", "´": "'", "“": '"',
    "”": '"', "„": '"', "«": '"', "»": '"', "‐": "-", "‑": "-", "⁄": "/", "\u00ad": "", "\u200b": "", "′": "'",
    "″": '"', "℃": "°C", "℉": "°F", "№": " number ", "ℓ": "l", "\u202f": "\u00a0", "\u2009": "\u00a0", "•": " , ",
    "·": " ", "・": " ", "…": ". ",
}  # fmt: skip
"""Written otherwise before anything is read."""
SIGNS = {
    "≠": "not equal to", "≤": "less than or equal to", "≥": "greater than or equal to", "±": "plus or minus",
    "≈": "approximately", "∼": "about", "√": "square root of", "∛": "cube root of", "∞": "infinity", "→": "to",
    "⇒": "implies", "∑": "sum of", "∏": "product of", "∫": "integral of", "∂": "partial", "∆": "delta", "∇": "del",
    "∈": "in", "∉": "not in", "∪": "union", "∩": "intersection", "⊂": "subset of", "∀": "for all", "∃": "there exists",
    "≡": "identical to", "∝": "proportional to", "∠": "angle", "⊥": "perpendicular to", "∥": "parallel to",
    "§": "section", "¶": "paragraph", "×": "times", "÷": "divided by", "−": "minus", "∓": "minus or plus",
    "≪": "much less than", "≫": "much greater than", "¬": "not", "∧": "and", "∨": "or", "‰": "per thousand",
    "←": "from", "↔": "to and from", "∴": "therefore", "∵": "because", "∅": "the empty set",
}  # fmt: skip
ASCII_SIGNS = {
    "&": "and", "@": "at", "%": "percent", "+": "plus", "=": "equals", "°": "degrees", "#": "number", "$": "dollars",
    "£": "pounds", "€": "euros", "¥": "yen", "¢": "cents", "<": "less than", ">": "greater than",
}  # fmt: skip
"""What is left of these when every rule has had its turn."""
_GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma sigma tau upsilon "
    "phi chi psi omega gamma delta theta lambda xi pi sigma phi psi omega"
)
GREEK = dict(zip("αβγδεζηθικλμνξοπρσςτυφχψωΓΔΘΛΞΠΣΦΨΩ", _GREEK_NAMES.split(), strict=True))

CURRENCIES = {
    "$": "dollar dollars cent cents", "£": "pound pounds penny pence", "€": "euro euros cent cents",
    "¥": "yen yen sen sen", "₹": "rupee rupees paisa paise", "₽": "ruble rubles kopeck kopecks",
    "₩": "won won jeon jeon", "₺": "lira lira kurush kurush", "₪": "shekel shekels agora agorot",
    "₴": "hryvnia hryvnias kopeck kopecks", "₫": "dong dong xu xu", "₿": "bitcoin bitcoins satoshi satoshis",
}  # fmt: skip
"""One, many, a hundredth, hundredths."""
CURRENCY_CODES = {
    "USD": "u.s. dollars", "EUR": "euros", "GBP": "pounds", "JPY": "yen", "CHF": "swiss francs", "INR": "rupees",
    "CAD": "canadian dollars", "AUD": "australian dollars", "NZD": "new zealand dollars", "CNY": "yuan",
    "RMB": "yuan", "SEK": "swedish kronor", "NOK": "norwegian kroner", "DKK": "danish kroner", "PLN": "zlotys",
    "BRL": "reais", "MXN": "mexican pesos", "KRW": "won", "BTC": "bitcoins",
}  # fmt: skip
DOLLARS = {"US": "u.s.", "A": "australian", "AU": "australian", "C": "canadian", "CA": "canadian", "NZ": "new zealand",
           "HK": "hong kong", "S": "singapore"}  # fmt: skip
SCALES = {"k": "thousand", "m": "million", "mn": "million", "bn": "billion", "b": "billion", "t": "trillion",
          "tn": "trillion"}  # fmt: skip

_PREFIXES = {"k": "kilo", "M": "mega", "G": "giga", "T": "tera", "P": "peta", "m": "milli", "µ": "micro", "n": "nano",
             "p": "pico", "c": "centi", "d": "deci", "h": "hecto"}  # fmt: skip
_BASES = {
    "g": ("gram grams", "kmµn"), "m": ("meter meters", "kcmdµnp"), "s": ("second seconds", "mµnp"),
    "l": ("liter liters", "mcdµh"), "L": ("liter liters", "mcdµh"), "Hz": ("hertz hertz", "kMGT"),
    "V": ("volt volts", "kmMµ"), "W": ("watt watts", "kmMGTµ"), "A": ("amp amps", "mµk"), "J": ("joule joules", "kMG"),
    "N": ("newton newtons", "kM"), "Pa": ("pascal pascals", "khMG"), "B": ("byte bytes", "kKMGTP"),
    "b": ("bit bits", "kKMGT"), "Bps": ("byte_per_second bytes_per_second", "kKMGT"),
    "bps": ("bit_per_second bits_per_second", "kKMGT"), "ohm": ("ohm ohms", "kMm"),
    "Wh": ("watt_hour watt_hours", "kMGT"), "Ah": ("amp_hour amp_hours", "mk"), "cal": ("calorie calories", "k"),
    "F": ("farad farads", "µnpm"), "mol": ("mole moles", "mµk"), "eV": ("electron_volt electron_volts", "kMGT"),
    "Bq": ("becquerel becquerels", "kMG"), "Sv": ("sievert sieverts", "mµ"), "H": ("henry henries", "mµ"),
    "bar": ("bar bars", "m"), "t": ("ton tons", "kM"),
}  # fmt: skip
_OTHER_UNITS = """
°=degree degrees, °C=degree_celsius degrees_celsius, °F=degree_fahrenheit degrees_fahrenheit, °K=kelvin kelvins,
C=degree_celsius degrees_celsius, F=degree_fahrenheit degrees_fahrenheit, K=kelvin kelvin, %=percent percent,
lb=pound pounds, lbs=pound pounds, oz=ounce ounces, ft=foot feet, yd=yard yards, yds=yard yards, mi=mile miles,
gal=gallon gallons, qt=quart quarts, pt=pint pints, tbsp=tablespoon tablespoons, tsp=teaspoon teaspoons,
mph=mile_per_hour miles_per_hour, kph=kilometer_per_hour kilometers_per_hour,
kmh=kilometer_per_hour kilometers_per_hour, fps=frame_per_second frames_per_second, rpm=r.p.m. r.p.m.,
bpm=beat_per_minute beats_per_minute, dpi=d.p.i. d.p.i., ppi=p.p.i. p.p.i., psi=p.s.i. p.s.i.,
ppm=part_per_million parts_per_million, ppb=part_per_billion parts_per_billion, hp=horsepower horsepower,
mpg=mile_per_gallon miles_per_gallon, dB=decibel decibels, px=pixel pixels, MP=megapixel megapixels, kt=knot knots,
kts=knot knots, ha=hectare hectares, mmHg=millimeter_of_mercury millimeters_of_mercury, h=hour hours, hr=hour hours,
hrs=hour hours, min=minute minutes, mins=minute minutes, sec=second seconds, secs=second seconds, yr=year years,
yrs=year years, wk=week weeks, wks=week weeks, mo=month months, mos=month months, MiB=mebibyte mebibytes,
GiB=gibibyte gibibytes, KiB=kibibyte kibibytes, sq ft=square_foot square_feet, sq m=square_meter square_meters,
sq mi=square_mile square_miles, sq km=square_kilometer square_kilometers, sq in=square_inch square_inches,
cu ft=cubic_foot cubic_feet, cc=c.c. c.c.'s, in=inch inches, lm=lumen lumens, lx=lux lux, cd=candela candelas,
rad=radian radians, FPS=frame_per_second frames_per_second, wpm=word_per_minute words_per_minute
"""


def _units() -> dict[str, tuple[str, str]]:
    """Unit -> its names for one and for many; case matters, and careless case ("KG", "20Ghz") is added last."""
    units: dict[str, tuple[str, str]] = {}
    for base, (names, prefixes) in _BASES.items():
        for prefix in ("", *prefixes):
            if (prefix, base) in {("", "t"), ("", "H"), ("", "b"), ("", "B"), ("", "F"), ("p", "m"), ("p", "s")}:
                continue
            written = "kilo" if prefix == "K" else _PREFIXES.get(prefix, "")
            spoken = (written + name for name in names.split())
            units[prefix + base] = tuple(re.sub("[oa](?=ohm)", "", name).replace("_", " ") for name in spoken)
    for entry in " ".join(_OTHER_UNITS.split()).split(", "):
        unit, names = entry.split("=")
        units[unit] = tuple(name.replace("_", " ") for name in names.split())
    for unit in [u for u in units if len(u) > 1 and u.isalpha()]:
        for careless in (unit.lower(), unit.upper(), unit.capitalize()):
            units.setdefault(careless, units[unit])
    return units


UNITS = _units()
AFTER_SPACE = UNITS.keys() - _set("A C F N J in In IN MO Mo Cd CD Min MS PT")
"""Units that are read after a number and a space; the others only directly after it."""
DOTTED_UNITS = _set("ft hr hrs min mins sec secs lb lbs oz yr yrs mi tbsp tsp gal yd yds sq")
PER = {"hr": "hour", "h": "hour", "hour": "hour", "day": "day", "d": "day", "wk": "week", "week": "week", "mo": "month",
       "month": "month", "yr": "year", "year": "year", "night": "night", "person": "person", "kg": "kilogram",
       "lb": "pound", "s": "second", "sec": "second", "min": "minute", "l": "liter", "L": "liter", "m": "meter",
       "dL": "deciliter", "ml": "milliliter", "mL": "milliliter", "gal": "gallon", "g": "gram", "kWh": "kilowatt hour",
       "km": "kilometer", "mi": "mile", "GB": "gigabyte", "ft": "foot", "100 km": "one hundred kilometers",
       "100km": "one hundred kilometers", "unit": "unit", "user": "user",
       "capita": "capita"}  # fmt: skip

MONTHS = [
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
]
MONTH_NAMES = {name[:3]: name for name in MONTHS} | {"sept": "september"} | {name: name for name in MONTHS}
DAYS = {
    "mon": "monday", "tue": "tuesday", "tues": "tuesday", "wed": "wednesday", "thu": "thursday", "thur": "thursday",
    "thurs": "thursday", "fri": "friday", "sat": "saturday", "sun": "sunday",
}  # fmt: skip

ABBREVIATIONS = {
    "dr": "doctor", "mr": "mister", "mrs": "missus", "ms": "miz", "prof": "professor", "st": "saint", "gen": "general",
    "col": "colonel", "capt": "captain", "lt": "lieutenant", "sgt": "sergeant", "rev": "reverend", "hon": "honorable",
    "gov": "governor", "sen": "senator", "rep": "representative", "vs": "versus", "v": "versus", "jr": "junior",
    "sr": "senior", "etc": "et cetera", "inc": "incorporated", "ltd": "limited", "co": "company", "corp": "corporation",
    "dept": "department", "mt": "mount", "ft": "fort", "ave": "avenue", "blvd": "boulevard", "rd": "road",
    "ln": "lane", "hwy": "highway", "pkwy": "parkway", "apt": "apartment", "ste": "suite", "bldg": "building",
    "approx": "approximately", "vol": "volume", "fig": "figure", "figs": "figures", "ch": "chapter", "sec": "section",
    "ed": "edition", "eds": "editors", "cf": "compare", "al": "al", "est": "estimated", "max": "maximum",
    "min": "minimum", "misc": "miscellaneous", "temp": "temperature", "govt": "government", "univ": "university",
    "assn": "association", "asst": "assistant", "attn": "attention", "tel": "telephone", "ext": "extension",
    "avg": "average", "qty": "quantity", "dist": "district", "pres": "president", "adm": "admiral", "cmdr": "commander",
    "cpl": "corporal", "maj": "major", "pvt": "private", "supt": "superintendent", "pp": "pages", "p": "page",
    "pg": "page", "pgs": "pages", "rm": "room", "op": "opus", "fl": "floor", "pt": "part",
    "eq": "equation", "eqs": "equations", "ref": "reference", "refs": "references", "incl": "including",
    "esp": "especially", "i.e": "that is", "e.g": "for example", "ph.d": "p. h. d.", "fr": "father", "bros": "brothers",
    "intl": "international", "natl": "national", "ex": "example",
    "viz": "namely", "et al": "et al", "oz": "ounces", "tbsp": "tablespoons", "tsp": "teaspoons", "lbs": "pounds",
} | {short: name for short, name in (DAYS | MONTH_NAMES).items() if short not in MONTHS}  # fmt: skip
"""Read so with their full stop."""
MAY_END = frozenset({"a.m", "p.m", "etc", "jr", "sr", "inc", "ltd", "co", "corp", "dept", "al", "bros"})
STREETS = frozenset({"st", "dr", "ave", "blvd", "rd", "ln", "hwy", "pkwy"})
"""May end a sentence, and the first two have another meaning after a name."""
BEFORE_NAME = _set("col gen rep fr hon pres adm maj ft mt")
"""Read as abbreviations where they and the next word have capitals."""
BEFORE_LOWER = _set("al ed ex est min max temp ref fig dist sec ch tel esp eq oz")
"""Read as abbreviations where the next word has none."""
BEFORE_NUMBER = _set("p op pp pg pgs rm fl pt vol fig figs ch sec ext eq eqs ref refs apt ste ex")
TITLES = _set("dr prof jr sr vs mr mrs mt ft sgt capt lt")
"""Read so without their full stop too, as in "Dr Smith"."""
WRITTEN_SHORT = {
    "w/o": "without", "w/": "with", "b/c": "because", "s/he": "she or he", "n/a": "not applicable", "c/o": "care of",
}  # fmt: skip
EITHER = _set("he she they him her them his hers their theirs himself herself themselves yes no true false")
"""Between these a slash is "or"."""
STARTERS = _set(
    "he she it they we i you the this that these those there here but and so then now his her their my our your its "
    "what when where who why how if some many most all after before today yesterday tomorrow no yes please in on at "
    "for as not one two let is are was were do did does can could will would"
)
"""After an abbreviation with full stops these in capitals begin a sentence."""

SPELLED = _set(
    "id ids it la ct us uk eu un ai pc pcs tv tvs dj mp ok pa pr hr er od ad bc ac dc md ms ba ma vp pm am ip os ui "
    "io led api sat who mit eta diy tba rip ira sos fda fbi cia usa ups usb url gps gpa irs epa hiv dna rna cpu gpu "
    "ceo cfo cto nba nfl mlb nhl faq ipa abs gmo pto rv ev vr ar ml sms bsc msc phd asap bbc cnn nbc abc cbs mri icu "
    "iq ngo ufo est pst cst mst edt pdt gmt utc bst cet jfk lax gdp atm pdf dvd cd cds xml html sql css sdk ide ssd hdd"
)
"""In capitals these are letters, whatever the dictionary has."""
ACRONYM_WORDS = _set("ram rom pin sim lan wan gif jpeg mpeg vat cad laser radar scuba swat dos bios cob")
"""In capitals with a small s these are still words: RAMs."""
SAID_AS_WORDS = _set(
    "no go so do if is me my we he on or to up be by at as an of oh hi ha ah in ho ya yo ye eh um uh hm"
)
"""Two letters in capitals that are still words; all others are spelled."""
JOINED_NAMES = frozenset({"Mc", "Mac", "De", "Di", "Le", "La", "Du", "Van", "Von", "Fitz", "Da", "Del", "O"})
"""A name's first part, after which a capital does not begin a new word."""
DOUBLED = _set(
    "good food cool see need feel free soon too bee keep week sweet tree boo moo woo zoo room look book been seen deep "
    "all ball tall call kiss miss boss pass class off well hell tell bell full pull cheese green moon fool pool tool "
    "school smooth speed sleep street three feet meet seem sheep queen screen shoot loose goose choose roof proof root "
    "happy sorry really pretty hello silly funny yummy sunny buddy daddy mommy hurry agree hall wall small"
)
"""Words whose double letter stays when it was written three times or more; of others one is left."""

NUMBERED = _set(
    "war chapter part act scene volume book phase type class section title level appendix article bowl stage tier "
    "grade group unit episode season figure table lesson series step round canto psalm fantasy"
)
"""Before a Roman numeral of any kind, even I, V and X."""
RULERS = _set(
    "henry elizabeth louis george edward charles james william richard napoleon catherine peter nicholas alexander "
    "frederick philip ramses ramesses wilhelm ivan francis franz otto ferdinand leopold gustav christian olav harald "
    "haakon mary victoria pius benedict leo gregory urban innocent clement paul john robert david alfonso alfred "
    "carlos juan felipe pedro joseph frederik rudolf sigismund maximilian ptolemy darius xerxes artaxerxes tiberius "
    "umberto albert baudouin hassan mohammed abdullah akbar margaret margrethe isabella thurston edwin conrad casimir "
    "stephen boniface sixtus celestine julius eugene adrian alexandra cleopatra hussein faisal"
)
"""Given names after which a Roman numeral is an ordinal: Henry the eighth."""
LETTER_AFTER = _set(
    "plan vitamin hepatitis grade type team group option section exhibit class point letter an side block unit "
    "series influenza appendix serie part model"
)
"""After these a capital A is the letter."""
ARTICLES = _set("a an the this that his her my your our its their per each every another")
NOT_NOUNS = _set(
    "of for to in and or is was will from at on with that than are were be has have had can could would should may "
    "might must do does did as by but if so then when while now here there away ago apart before after into over under "
    "per more less each it he she they we you this these those later earlier off up down out "
    "until since because which who not only just total today large"
)
"""After these a unit is not an adjective: "the 5 kg of rice" beside "a 5 kg bag"."""
_STATES = (
    "AL=alabama AK=alaska AZ=arizona AR=arkansas CA=california CO=colorado CT=connecticut DE=delaware FL=florida "
    "GA=georgia HI=hawaii ID=idaho IL=illinois IN=indiana IA=iowa KS=kansas KY=kentucky LA=louisiana ME=maine "
    "MD=maryland MA=massachusetts MI=michigan MN=minnesota MS=mississippi MO=missouri MT=montana NE=nebraska "
    "NV=nevada NH=new_hampshire NJ=new_jersey NM=new_mexico NY=new_york NC=north_carolina ND=north_dakota OH=ohio "
    "OK=oklahoma OR=oregon PA=pennsylvania RI=rhode_island SC=south_carolina SD=south_dakota TN=tennessee TX=texas "
    "UT=utah VT=vermont VA=virginia WA=washington WV=west_virginia WI=wisconsin WY=wyoming DC=d._c."
)
STATES = dict(pair.split("=") for pair in _STATES.split())  # before a zip code
ENDINGS = {"uk": "u. k.", "us": "u. s.", "tv": "t. v.", "eu": "e. u.", "py": "p. y.", "txt": "text", "js": "j. s.",
           "io": "i. o.", "ai": "a. i.", "html": "h. t. m. l.", "pdf": "p. d. f.", "md": "m. d.", "csv": "c. s. v.",
           "jpg": "j. peg", "png": "p. n. g.", "exe": "e. x. e.", "mp3": "m. p. three", "mp4": "m. p. four",
           "wav": "wave", "edu": "e. d. u.", "gov": "gov", "co": "co", "de": "d. e.", "fr": "f. r.", "ca": "c. a.",
           "www": "w. w. w.", "json": "json", "yaml": "yaml", "zip": "zip", "tsv": "t. s. v.",
           "docx": "doc x", "xlsx": "x. l. s. x.", "cpp": "c. p. p.", "sh": "s. h.", "gz": "g. z."}  # fmt: skip
"""Parts of addresses and names of files."""
