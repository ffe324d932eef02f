"""Figures of MobileSpeech that publications give, each with its source; the paper's own tables could not be read."""

from typing import NamedTuple


class Reported(NamedTuple):
    """A figure that a publication gives. tag: `seen` in a primary source, or `secondary`, told by another."""

    system: str
    metric: str
    value: str
    tag: str
    source: str


PAPER = (
    Reported("authors/mobilespeech", "rtf_total", "0.09", "seen", "abstract; one A100"),
    Reported(
        "authors/mega-tts", "rtf_total", "0.39", "secondary", "FlashSpeech (2404.14700) Table 1, citing MobileSpeech"
    ),
)
PHONE = Reported("MobileSpeech, phone", "RTF", "0.8–1.0", "seen", "demo page's source, Dec 2023; chip not named")
ELSEWHERE = (  # not the paper's own tables: other test sets, judges or versions
    PHONE,
    Reported("MobileSpeech, earlier", "RTF", "0.2", "seen", "demo page's overview, beside 0.09 in the paper"),
    Reported("MobileSpeech + Language-Codec", "WER", "0.029", "secondary", "Language-Codec (ACL 2025), by a digest"),
    Reported("MobileSpeech + Language-Codec", "SIM", "0.771", "secondary", "Language-Codec (ACL 2025), by a digest"),
    Reported("MobileSpeech + Language-Codec", "MOS-Q", "4.20", "secondary", "Language-Codec (ACL 2025), by a digest"),
    Reported("MobileSpeech, plain RVQ codec", "SIM", "0.710", "secondary", "Language-Codec (ACL 2025), by a digest"),
    Reported("MobileSpeech on VccmDataset", "WER", "0.041", "secondary", "ControlSpeech (ACL 2025), by two digests"),
    Reported("MobileSpeech on VccmDataset", "MOS-Q", "3.94", "secondary", "ControlSpeech (ACL 2025), by two digests"),
    Reported("MobileSpeech on VccmDataset", "MOS-S", "4.01", "secondary", "ControlSpeech (ACL 2025), by two digests"),
)
QUOTED_RTF = {"A100": PAPER[0], "phone": PHONE}  # of the authors' own system
