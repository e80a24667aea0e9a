"""AudioCaps, WavCaps, AudioSet and metadata folders: their layouts with every defect, and what is read of them."""

import json
import math
import pickle
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from dear import audio
from dear.__main__ import app
from dear.data import excerpt
from dear.data.audiocaps import audiocaps, exclusion
from dear.data.audioset import audioset, caption_of
from dear.data.corpora import open_corpus
from dear.data.corpus import Clip, Corpus, Finding, TooManyProblems, crop_generator
from dear.data.excerpt import Unreadable
from dear.data.listing import Exclusion, place
from dear.data.metadata_folder import metadata_folder
from dear.data.wavcaps import blacklist, wavcaps

VIDEOS = [f"{letter}-Video_{i:02}0" for i, letter in enumerate("abcdefghijklmnop")]  # 11 characters each


def sound(path: Path, seconds: float = 10.0, rate: int = 16_000, channels: int = 1) -> Path:
    """Write a sine of 440 Hz; the suffix says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.4 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, np.stack([wave] * channels, 1), rate)
    return path


def broken(path: Path, how: str) -> None:
    """Write a file that is wrong: empty, of zero length, of unknown length, no audio, or cut off after its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if how == "empty":
        path.touch()
    elif how == "zero":
        soundfile.write(path, np.zeros((0, 1)), 16_000, format="WAV")  # a flac of no length has no byte either
    elif how == "piped":
        whole = bytearray(sound(path).read_bytes())
        whole[21:26] = bytes([whole[21] & 0xF0, 0, 0, 0, 0])  # the 36 bits of a flac's header that count its samples
        path.write_bytes(whole)
    elif how == "corrupt":
        path.write_bytes(b"<html>404</html>" * 40)
    elif how == "cut":
        whole = sound(path).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])


def noise(path: Path, seconds: float, rate: int, channels: int = 1) -> Path:
    samples = 0.1 * np.random.default_rng(0).standard_normal((round(seconds * rate), channels))
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


def one(found, kind: str, where: str) -> str:
    """The one sentence that a kind of finding says of a place."""
    (finding,) = [f for f in found if f.kind == kind and where in f.where]
    return str(finding)


def counts(found) -> dict[str, int]:
    return dict(Counter(finding.kind for finding in found))


# AudioCaps


AUDIOCAPS_TRAIN = f"""audiocap_id,youtube_id,start_time,caption
1,{VIDEOS[0]},30,A dog barks
2,{VIDEOS[1]},130,"Rain falls, then thunder"
3,{VIDEOS[2]},0,A cat meows
4,{VIDEOS[3]},20,A missing clip
5,{VIDEOS[4]},20,A corrupt clip
6,{VIDEOS[5]},20,An empty clip
7,{VIDEOS[6]},20,A clip of no length
1,{VIDEOS[0]},30,The same number again
9,{VIDEOS[7]},20
10,{VIDEOS[7]},20,One, two
11,{VIDEOS[7]},20,
12,{VIDEOS[7]},20,T\xf6ne
13,a/b,20,An id with a slash
14,{VIDEOS[7]},soon,A start that is no number

15,{VIDEOS[8]},40,A short clip
16,{VIDEOS[9]},40,A whole video
17,{VIDEOS[10]},40,A video that ends before
18,{VIDEOS[11]},10,Cut off in the middle
"""
AUDIOCAPS_TEST = f"""audiocap_id,youtube_id,start_time,caption
101,{VIDEOS[12]},30,A man speaks
102,{VIDEOS[13]},30,A woman speaks
103,{VIDEOS[12]},30,A man is talking
104,{VIDEOS[13]},30,
105,{VIDEOS[12]},30,A man speaks
"""
AUDIOCAPS_PROBLEMS = [
    ("missing file", "line 5", f"no audio file for audiocaps/{VIDEOS[3]}_20000; skipped"),
    ("corrupt file", "line 6", "cannot be decoded ("),
    ("empty file", "line 7", "is empty (0 bytes); skipped"),
    ("no samples", "line 8", "holds no samples; skipped"),
    ("duplicate id", "line 9", "audiocap_id 1 stands on train.csv line 2 too; skipped"),
    ("too few columns", "line 10", "3 columns, wanted audiocap_id, youtube_id, start_time, caption; skipped"),
    ("too many columns", "line 11", "5 columns, wanted audiocap_id, youtube_id, start_time, caption; skipped"),
    ("empty caption", "line 12", "no word in the caption ''; skipped"),
    ("not utf-8", "line 13", "bytes that are not utf-8 in"),
    ("bad id", "line 14", "'a/b' is not the id of a video, 11 of A-Z a-z 0-9 - _; skipped"),
    ("bad times", "line 15", f"{VIDEOS[7]} from 'soon' to 10 s later; skipped"),
    ("segment outside its file", "line 19", "lasts 12.00 s, the segment starts at 40 s; skipped"),
]


@pytest.fixture(scope="module")
def audiocaps_folder(tmp_path_factory):
    """train and test of AudioCaps with files named in every known way, and every defect."""
    folder = tmp_path_factory.mktemp("audiocaps")
    (folder / "dataset").mkdir()
    (folder / "dataset" / "train.csv").write_text(AUDIOCAPS_TRAIN, encoding="latin-1")
    (folder / "dataset" / "test.csv").write_text(AUDIOCAPS_TEST, encoding="utf-8")
    train = folder / "audio" / "train"
    sound(train / f"{VIDEOS[0]}.wav")
    sound(train / f"Y{VIDEOS[1]}.wav", rate=32_000)
    sound(train / f"{VIDEOS[2]}_0.flac", rate=44_100, channels=2)
    broken(train / f"{VIDEOS[4]}.wav", "corrupt")
    broken(train / f"{VIDEOS[5]}.wav", "empty")
    broken(train / f"{VIDEOS[6]}.wav", "zero")
    sound(train / f"{VIDEOS[7]}.wav")
    sound(train / f"{VIDEOS[8]}_40000.wav", 7.25)
    sound(train / f"{VIDEOS[9]}.wav", 60)
    sound(train / f"{VIDEOS[10]}.wav", 12)
    broken(train / f"{VIDEOS[11]}.flac", "cut")
    sound(folder / "audio" / "test" / f"{VIDEOS[12]}.wav")
    sound(folder / "audio" / "test" / f"{VIDEOS[13]}.wav")
    return folder


def test_audiocaps_clips(audiocaps_folder):
    corpus = audiocaps(audiocaps_folder, limit=1.0)
    assert [clip.id for clip in corpus] == [
        f"audiocaps/{VIDEOS[i]}_{1000 * start}" for i, start in ((0, 30), (1, 130), (2, 0), (8, 40), (9, 40), (11, 10))]
    assert corpus[1].captions == ("Rain falls, then thunder",) and corpus[1].sources == (f"youtube:{VIDEOS[1]}",)
    assert [(clip.start, clip.end) for clip in corpus] == [(0, 10)] * 3 + [(0, 7.25), (40, 50), (0, 10)]
    for i in range(5):  # three rates, mono and stereo, two formats, short and long
        wave = corpus.read(i, torch.Generator())
        assert wave.shape == (163_840,) and wave.dtype == torch.float32
        spectrum = torch.fft.rfft(wave[:112_000]).abs()
        assert spectrum.argmax() / 7 == pytest.approx(440, abs=0.2)


@pytest.mark.parametrize("kind, where, what", AUDIOCAPS_PROBLEMS, ids=[problem[0] for problem in AUDIOCAPS_PROBLEMS])
def test_audiocaps_problem(audiocaps_folder, kind, where, what):
    assert what in one(audiocaps(audiocaps_folder, limit=1.0).problems, kind, where)


def test_audiocaps_counts(audiocaps_folder):
    corpus = audiocaps(audiocaps_folder, limit=1.0)
    assert counts(corpus.problems) == {kind: 1 for kind, _, _ in AUDIOCAPS_PROBLEMS}
    assert corpus.share == pytest.approx(12 / 18)
    assert one(corpus.notes, "segment longer than its file", "line 17").endswith("lasts 7.25 s of 10 s; padded")
    assert len(corpus.notes) == 1 and corpus.excluded == ()


def test_audiocaps_captions_of_a_clip_are_gathered(audiocaps_folder):
    corpus = audiocaps(audiocaps_folder, "test", limit=0.4)
    assert [clip.captions for clip in corpus] == [
        ("A man speaks", "A man is talking", "A man speaks"), ("A woman speaks",)]
    assert counts(corpus.problems) == {"empty caption": 1}  # of a row; the clip keeps the other


def test_audiocaps_refuses(audiocaps_folder, tmp_path):
    with pytest.raises(ValueError, match="split of AudioCaps must be one of train, val, test, got 'dev'"):
        audiocaps(audiocaps_folder, "dev")
    with pytest.raises(FileNotFoundError, match="holds no val.csv, nor does any folder in it"):
        audiocaps(audiocaps_folder, "val")
    with pytest.raises(FileNotFoundError, match="gone: no such folder"):
        audiocaps(tmp_path / "gone")
    for home in ("dataset", "dataset2.0"):  # a clone of the authors' repository
        (tmp_path / home).mkdir()
        (tmp_path / home / "train.csv").write_text("audiocap_id,youtube_id,start_time,caption\n")
    with pytest.raises(ValueError, match="which train.csv is meant, dataset/train.csv or dataset2.0/train.csv"):
        audiocaps(tmp_path)
    (tmp_path / "train.csv").write_text("id,caption\n1,A dog barks\n")
    with pytest.raises(ValueError, match="wanted columns audiocap_id, youtube_id, .*, caption, got id, caption"):
        audiocaps(tmp_path)
    (tmp_path / "train.csv").write_text("")
    with pytest.raises(ValueError, match="got an empty table"):
        audiocaps(tmp_path)
    (tmp_path / "train.csv").write_text('audiocap_id,youtube_id,start_time,caption\n1,a,2,b\n3,c,4,"d\n5,e,6,f\n')
    with pytest.raises(ValueError, match="the row that starts on line 3: .*is a quote not closed"):
        audiocaps(tmp_path)


def test_exclusion_must_be_whole(audiocaps_folder, tmp_path):
    found = exclusion(audiocaps_folder / "dataset" / "test.csv")
    assert found.reason == "in AudioCaps' test.csv"
    assert found.sources == {f"youtube:{VIDEOS[12]}", f"youtube:{VIDEOS[13]}"}
    with pytest.raises(ValueError, match=r"cannot leave out all of AudioCaps' train.csv: train.csv line 10: 3 columns"):
        exclusion(audiocaps_folder / "dataset" / "train.csv")
    (tmp_path / "test.csv").write_text("youtube_id\nZn4ViKWcw\n")  # what a spreadsheet leaves of --Zn4ViKWcw
    with pytest.raises(ValueError, match="test.csv line 2: 'Zn4ViKWcw' is not the id of a video"):
        exclusion(tmp_path / "test.csv")
    with pytest.raises(FileNotFoundError, match="gone.csv: no such table"):
        exclusion(tmp_path / "gone.csv")


# WavCaps


WAVCAPS_PROBLEMS = [
    ("missing file", "fsd_final.json item 1", "no audio file for wavcaps/FreeSound/180914; skipped"),
    ("corrupt file", "fsd_final.json item 2", "cannot be decoded ("),
    ("empty file", "fsd_final.json item 3", "is empty (0 bytes); skipped"),
    ("no samples", "fsd_final.json item 4", "holds no samples; skipped"),
    ("duplicate id", "fsd_final.json item 5", "the same clip as fsd_final.json item 0; skipped"),
    ("empty caption", "fsd_final.json item 6", "no word in the caption ''; skipped"),
    ("bad id", "fsd_final.json item 7", "wanted letters, digits, - and _, got the id '../1'; skipped"),
    ("no id or caption", "fsd_final.json item 8", "wanted an object with id and caption, got keys id, text; skipped"),
    ("unknown length", "fsd_final.json item 11", "does not say how long it is; encode it anew, into a file; skipped"),
    ("bad id", "as_final.json item 3", "wanted Y and the id of a video, got the id '180913.wav'; skipped"),
]


@pytest.fixture(scope="module")
def wavcaps_folder(tmp_path_factory):
    """Three sources of WavCaps as their zip files unpack, or renamed, with the blacklist and every defect."""
    folder = tmp_path_factory.mktemp("wavcaps")
    tables = {
        "AudioSet_SL/as_final": [(f"Y{VIDEOS[0]}.wav", "Wind blows."), (f"Y{VIDEOS[12]}.wav", "A man speaks."),
                                 (f"Y{VIDEOS[3]}", "No suffix."), ("180913.wav", "No video."),
                                 (f"Y{VIDEOS[4]}.wav", "On the blacklist.")],
        "FreeSound/fsd_final": [("180913", "A ringtone plays."), ("180914", "Missing."), ("180915", "Corrupt."),
                                ("180916", "Empty."), ("180917", "Zero."), ("180913", "Again."), ("180918", " "),
                                ("../1", "A slash."), None, ("112199", "On the blacklist."), ("180919", "Cut off."),
                                ("180920", "Into a pipe.")],
        "FreeSound/fsd_final_2s": [("180913", "A ringtone plays.")],
        "SoundBible/sb_final": [(2219, "An airplane is landing.")],
    }
    for name, rows in tables.items():
        path = folder / "json_files" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = [{"id": "1", "text": "No caption."} if row is None else
                {"id": row[0], "caption": row[1], "audio": "wav_path", "duration": 10.0} for row in rows]
        path.write_text(json.dumps({"num_captions_per_audio": 1, "data": data}))
    (folder / "json_files" / "blacklist").mkdir()
    (folder / "json_files" / "blacklist" / "blacklist_exclude_test_ac.json").write_text(
        json.dumps({"AudioSet": [f"Y{VIDEOS[4]}.wav"], "FreeSound": ["112199"]}))
    strong = folder / "mnt" / "waveforms" / "AudioSet_SL_flac"
    for i in (0, 3, 4, 12):
        sound(strong / f"Y{VIDEOS[i]}.flac", rate=32_000)
    sound(folder / "audio" / "FreeSound" / "180913.flac", 25, rate=32_000)
    sound(folder / "audio" / "FreeSound" / "112199.flac")
    sound(folder / "audio" / "FreeSound" / "180918.flac")
    for name, how in (("180915", "corrupt"), ("180916", "empty"), ("180917", "zero"), ("180919", "cut"),
                      ("180920", "piped")):
        broken(folder / "audio" / "FreeSound" / f"{name}.flac", how)
    sound(folder / "audio" / "SoundBible_flac" / "2219.flac", 1.5, rate=44_100, channels=2)
    return folder


def test_wavcaps_clips(wavcaps_folder, audiocaps_folder):
    test = exclusion(audiocaps_folder / "dataset" / "test.csv")
    corpus = wavcaps(wavcaps_folder, exclude=[test], limit=1.0)
    assert [clip.id for clip in corpus] == [
        f"wavcaps/AudioSet_SL/Y{VIDEOS[0]}", f"wavcaps/AudioSet_SL/Y{VIDEOS[3]}", "wavcaps/FreeSound/180913",
        "wavcaps/FreeSound/180919", "wavcaps/SoundBible/2219"]
    assert [clip.sources[0] for clip in corpus][1:3] == [f"youtube:{VIDEOS[3]}", "freesound:180913"]
    assert corpus[2].captions == ("A ringtone plays.",)
    assert [clip.seconds for clip in corpus] == [10, 10, 25, 10, 1.5]
    assert corpus.hours == pytest.approx((10 + 10 + 10.24 + 10 + 1.5) / 3600)  # what is read, not what is there
    padded = corpus.read(4, torch.Generator())
    assert padded[:24_000].abs().max() > 0.3 and (padded[24_000:] == 0).all()
    assert corpus.read(2, torch.Generator())[-1600:].abs().max() > 0.3  # cropped, not padded


@pytest.mark.parametrize("kind, where, what", WAVCAPS_PROBLEMS, ids=[f"{p[0]}, {p[1][:2]}" for p in WAVCAPS_PROBLEMS])
def test_wavcaps_problem(wavcaps_folder, kind, where, what):
    assert what in one(wavcaps(wavcaps_folder, exclude=[], limit=1.0).problems, kind, where)


def test_wavcaps_leaves_out_audiocaps_test_clips_and_its_blacklist(wavcaps_folder, audiocaps_folder):
    everything = wavcaps(wavcaps_folder, exclude=[], limit=1.0)
    assert f"wavcaps/AudioSet_SL/Y{VIDEOS[12]}" in [clip.id for clip in everything]
    corpus = wavcaps(wavcaps_folder, exclude=[exclusion(audiocaps_folder / "dataset" / "test.csv")], limit=1.0)
    assert counts(corpus.excluded) == {"in AudioCaps' test.csv": 1, "in blacklist_exclude_test_ac.json": 2}
    said = one(corpus.excluded, "in AudioCaps' test.csv", "as_final.json item 1")
    assert said.endswith(f"wavcaps/AudioSet_SL/Y{VIDEOS[12]} is in AudioCaps' test.csv; left out")
    left_out = {f"youtube:{VIDEOS[i]}" for i in (12, 13, 4)} | {"freesound:112199"}
    assert left_out.isdisjoint(source for clip in corpus for source in clip.sources)
    assert counts(corpus.problems) == {**dict.fromkeys((p[0] for p in WAVCAPS_PROBLEMS), 1), "bad id": 2}


@pytest.mark.parametrize("content, message", [
    ('{"num_captions_per_audio": 1}', 'wanted an object with a list "data", got keys num_captions_per_audio'),
    ("[]", 'wanted an object with a list "data", got a list'),
    ('{"data": [{"id": ', r"not json \(.*was the download whole"),
    ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "not json"),
    ('{"data": [{"id": "1", "caption": "T\xf6ne"}]}', r"not json \('utf-8'"),
])
def test_wavcaps_refuses_a_json_that_is_not_as_published(tmp_path, content, message):
    path = tmp_path / "json_files" / "FreeSound" / "fsd_final.json"
    path.parent.mkdir(parents=True)
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        wavcaps(tmp_path, exclude=[])


def test_wavcaps_refuses_a_folder_without_json_and_a_blacklist_of_another_form(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds none of json_files/AudioSet_SL/as_final.json, "):
        wavcaps(tmp_path, exclude=[])
    (tmp_path / "blacklist.json").write_text('{"AudioSet": []}')
    with pytest.raises(ValueError, match="wanted lists named AudioSet and FreeSound, got keys AudioSet"):
        blacklist(tmp_path / "blacklist.json")


# AudioSet


CLASSES = """index,mid,display_name
0,/m/09x0r,"Speech"
1,/m/05zppz,"Male speech, man speaking"
72,/m/068hy,"Domestic animals, pets"
300,/m/0k4j,"Car"
"""
SEGMENTS = f"""# Segments csv created Sun Mar  5 10:54:25 2017
# num_ytids=9, num_segs=9, num_unique_labels=4, num_positive_labels=12
# YTID, start_seconds, end_seconds, positive_labels
{VIDEOS[0]}, 30.000, 40.000, "/m/0k4j,/m/09x0r"
{VIDEOS[1]}, 0.000, 8.000, "/m/05zppz"
{VIDEOS[2]}, 30.000, 40.000, "/m/0k4j,/m/068hy,/m/09x0r,/x/unknown"
{VIDEOS[3]}, 30.000, 40.000, "/x/unknown"
{VIDEOS[4]}, 30.000, 40.000, "/m/0k4j"
{VIDEOS[5]}, 30.000, 40.000, "/m/0k4j"
{VIDEOS[6]}, 30.000, 40.000, "/m/0k4j"
{VIDEOS[7]}, 30.000, 40.000, "/m/0k4j"
{VIDEOS[0]}, 30.000, 40.000, "/m/0k4j"
{VIDEOS[8]}, 30.000
b/d, 30.000, 40.000, "/m/0k4j"
{VIDEOS[8]}, 40.000, 30.000, "/m/0k4j"
{VIDEOS[9]}, 30.000, 40.000, "/m/0k4j"
{VIDEOS[12]}, 30.000, 40.000, "/m/09x0r"
{VIDEOS[10]}, 30.000, 40.000, ""
"""
AUDIOSET_PROBLEMS = [
    ("no known label", "line 7", "none of the labels '/x/unknown' has a name; skipped"),
    ("missing file", "line 8", f"no audio file for audioset/{VIDEOS[4]}_30000; skipped"),
    ("corrupt file", "line 9", "cannot be decoded ("),
    ("empty file", "line 10", "is empty (0 bytes); skipped"),
    ("no samples", "line 11", "holds no samples; skipped"),
    ("duplicate id", "line 12", "the same clip as balanced_train_segments.csv line 4; skipped"),
    ("too few columns", "line 13", "2 columns, wanted YTID, start_seconds, end_seconds, positive_labels; skipped"),
    ("bad id", "line 14", "'b/d' is not the id of a video"),
    ("bad times", "line 15", f"{VIDEOS[8]} from '40.000' to '30.000'; skipped"),
    ("no known label", "line 18", "none of the labels '' has a name; skipped"),
]


@pytest.fixture(scope="module")
def audioset_folder(tmp_path_factory):
    """The balanced training set of AudioSet with every defect."""
    folder = tmp_path_factory.mktemp("audioset")
    (folder / "metadata").mkdir()
    (folder / "metadata" / "class_labels_indices.csv").write_text(CLASSES)
    (folder / "metadata" / "balanced_train_segments.csv").write_text(SEGMENTS)
    clips = folder / "audio" / "bal_train"
    sound(clips / f"{VIDEOS[0]}.flac", rate=48_000)
    sound(clips / f"Y{VIDEOS[1]}.wav", 8)
    sound(clips / f"{VIDEOS[2]}_30.flac", rate=44_100)
    for i, how in ((5, "corrupt"), (6, "empty"), (7, "zero")):
        broken(clips / f"{VIDEOS[i]}.flac", how)
    sound(clips / f"{VIDEOS[8]}.flac")
    sound(clips / f"{VIDEOS[9]}_30000.flac", 4)
    sound(clips / f"{VIDEOS[12]}.flac")
    return folder


def test_audioset_clips_and_captions(audioset_folder):
    corpus = audioset(audioset_folder, exclude=[], limit=1.0)
    assert [(clip.id, clip.captions) for clip in corpus] == [
        (f"audioset/{VIDEOS[0]}_30000", ("The sounds of speech and car",)),
        (f"audioset/{VIDEOS[1]}_0", ("The sound of male speech, man speaking",)),
        (f"audioset/{VIDEOS[2]}_30000", ("The sounds of speech, domestic animals, pets and car",)),
        (f"audioset/{VIDEOS[9]}_30000", ("The sound of car",)),
        (f"audioset/{VIDEOS[12]}_30000", ("The sound of speech",))]
    assert [clip.seconds for clip in corpus] == [10, 8, 10, 4, 10]
    names = {"a": "A", "b": "B", "c": "C"}
    assert caption_of(["c", "a"], names) == caption_of(["a", "c", "c"], names) == "The sounds of a and c"


@pytest.mark.parametrize("kind, where, what", AUDIOSET_PROBLEMS, ids=[f"{p[0]}, {p[1]}" for p in AUDIOSET_PROBLEMS])
def test_audioset_problem(audioset_folder, kind, where, what):
    assert what in one(audioset(audioset_folder, exclude=[], limit=1.0).problems, kind, where)


def test_audioset_counts_notes_and_exclusion(audioset_folder, audiocaps_folder):
    corpus = audioset(audioset_folder, exclude=[exclusion(audiocaps_folder / "dataset" / "test.csv")], limit=1.0)
    assert counts(corpus.problems) == dict(Counter(kind for kind, _, _ in AUDIOSET_PROBLEMS))
    assert counts(corpus.notes) == {"unknown label": 2, "segment longer than its file": 1}
    assert one(corpus.notes, "unknown label", "line 6").endswith("class_labels_indices.csv lacks /x/unknown")
    assert counts(corpus.excluded) == {"in AudioCaps' test.csv": 1}
    assert VIDEOS[12] not in " ".join(clip.id for clip in corpus)


def test_audioset_segment_longer_than_its_file(audioset_folder):
    corpus = audioset(audioset_folder, exclude=[], limit=1.0)
    said = one(corpus.notes, "segment longer than its file", "line 16")
    assert said.endswith(f"audioset/{VIDEOS[9]}_30000 lasts 4.00 s of 10 s; padded")
    wave = corpus.read(3, torch.Generator())
    assert wave[:64_000].abs().max() > 0.3 and (wave[64_000:] == 0).all()


def test_audioset_refuses(audioset_folder, tmp_path):
    with pytest.raises(ValueError, match="must be one of balanced_train, unbalanced_train, eval, got 'train'"):
        audioset(audioset_folder, "train", exclude=[])
    with pytest.raises(FileNotFoundError, match="holds no eval_segments.csv"):
        audioset(audioset_folder, "eval", exclude=[])
    (tmp_path / "class_labels_indices.csv").write_text("index,mid,display_name\n0,/m/09x0r\n")
    with pytest.raises(ValueError, match="class_labels_indices.csv line 2: 2 columns, wanted index, mid, display_name"):
        audioset(tmp_path, exclude=[])


@pytest.mark.parametrize("lasts, start, end, found", [
    (10.0, 30, 40, (0, 10.0)),  # the segment
    (10.1, 30, 40, (0, 10)),  # the segment, with a packet more
    (7.25, 30, 40, (0, 7.25)),  # the segment of a video that ends
    (60.0, 30, 40, (30, 40)),  # the whole video
    (35.0, 30, 40, (30, 35.0)),  # the whole video, which ends
    (60.0, 0, 10, (0, 10)),
])
def test_place(lasts, start, end, found):
    assert place(lasts, start, end) == found


# metadata folders


FOLDER_CSV = """file_name,caption,label
a.wav,A dog barks,dog
sub/a.b.flac,"Rain, then wind",rain
missing.wav,Missing,x
corrupt.wav,Corrupt,x
empty.wav,Empty,x
zero.wav,Zero,x
a.wav,Again,dog
a.wav
a.wav, ,dog
T\xf6ne.wav,Tones,x
../a.wav,Outside,x
,No name,x
"""
FOLDER_PROBLEMS = [
    ("missing file", "line 4", "no such audio file; skipped"),
    ("corrupt file", "line 5", "cannot be decoded ("),
    ("empty file", "line 6", "is empty (0 bytes); skipped"),
    ("no samples", "line 7", "holds no samples; skipped"),
    ("duplicate id", "line 8", "the same clip as train/metadata.csv line 2; skipped"),
    ("too few columns", "line 9", "1 columns, wanted file_name, caption, label; skipped"),
    ("empty caption", "line 10", "no word in the caption ''; skipped"),
    ("not utf-8", "line 11", "bytes that are not utf-8 in"),
    ("bad id", "line 12", "wanted the path of a file in the folder, got file_name '../a.wav'; skipped"),
    ("bad id", "line 13", "wanted the path of a file in the folder, got file_name ''; skipped"),
]


@pytest.fixture(scope="module")
def csv_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folder")
    train = folder / "train"
    sound(train / "a.wav", 2)
    sound(train / "sub" / "a.b.flac", 3, rate=44_100, channels=2)
    for how in ("corrupt", "empty", "zero"):
        broken(train / f"{how}.wav", how)
    (train / "metadata.csv").write_text(FOLDER_CSV, encoding="latin-1")
    return folder


def test_folder_clips(csv_folder):
    corpus = metadata_folder(csv_folder, limit=1.0)
    assert [(clip.id, clip.captions) for clip in corpus] == [
        ("folder/train/a%2Ewav", ("A dog barks",)), ("folder/train/sub/a%2Eb%2Eflac", ("Rain, then wind",))]
    assert [clip.seconds for clip in corpus] == [2, 3]
    assert metadata_folder(csv_folder, "label", limit=1.0)[1].captions == ("rain",)


@pytest.mark.parametrize("kind, where, what", FOLDER_PROBLEMS, ids=[f"{p[0]}, {p[1]}" for p in FOLDER_PROBLEMS])
def test_folder_problem(csv_folder, kind, where, what):
    corpus = metadata_folder(csv_folder, limit=1.0)
    assert what in one(corpus.problems, kind, f"train/metadata.csv {where}")
    assert counts(corpus.problems) == dict(Counter(kind for kind, _, _ in FOLDER_PROBLEMS))


def test_folder_with_jsonl(tmp_path):
    for name in ("a.wav", "b.wav"):
        sound(tmp_path / name, 1)
    lines = [b'{"file_name": "a.wav", "text": ["A dog barks", "A dog\\n is barking"]}', b"", b'{"file_name": ',
             b'["a.wav"]', b'{"file_name": "b.wav", "text": "T\xf6ne"}', b'{"file_name": "b.wav"}',
             b'{"file_name": 3, "text": "A number"}', b'{"file_name": "b.wav", "text": ["A cat", ""]}']
    (tmp_path / "metadata.jsonl").write_bytes(b"\n".join(lines))
    corpus = metadata_folder(tmp_path, limit=1.0)
    assert [clip.captions for clip in corpus] == [("A dog barks", "A dog is barking")]
    assert [(finding.kind, finding.where) for finding in corpus.problems] == [
        ("not json", "metadata.jsonl line 3"), ("not json", "metadata.jsonl line 4"),
        ("not utf-8", "metadata.jsonl line 5"), ("empty caption", "metadata.jsonl line 6"),
        ("bad id", "metadata.jsonl line 7"), ("empty caption", "metadata.jsonl line 8")]


def test_a_folder_as_training_reads_it_will_do(tmp_path):
    sound(tmp_path / "a.wav", 2)
    sound(tmp_path / "audio" / "b.wav", 1)
    sound(tmp_path / "audio" / "a.wav", 3)  # beside captions.csv comes first, as `AudioFolder` has it
    (tmp_path / "captions.csv").write_text("filename,caption,fold\nb.wav,Rain,1\na.wav,A dog barks,2\nc.wav,Gone,2\n")
    corpus = metadata_folder(tmp_path, limit=1.0)
    found = {clip.id: (clip.captions, clip.seconds) for clip in corpus}
    assert found == {"folder/audio/b%2Ewav": (("Rain",), 1), "folder/a%2Ewav": (("A dog barks",), 2)}
    assert "no such audio file" in one(corpus.problems, "missing file", "captions.csv line 4")
    (tmp_path / "captions.csv").write_text("filename,said\na.wav,A dog barks\n")
    with pytest.raises(ValueError, match="wanted columns filename and caption"):
        metadata_folder(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.wav,Metadata come first\n")
    assert [clip.captions for clip in metadata_folder(tmp_path)] == [("Metadata come first",)]


def test_folder_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no metadata.csv or metadata.jsonl"):
        metadata_folder(tmp_path)
    (tmp_path / "metadata.parquet").touch()
    with pytest.raises(ValueError, match="wanted metadata.csv or metadata.jsonl.*got metadata.parquet"):
        metadata_folder(tmp_path)
    (tmp_path / "metadata.parquet").unlink()
    (tmp_path / "metadata.csv").write_text("file_name,transcription\na.wav,Hello\n")
    with pytest.raises(ValueError, match="wanted columns file_name and caption or captions or text, got file_name, t"):
        metadata_folder(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "metadata.jsonl").touch()
    with pytest.raises(ValueError, match="one kind in all folders, got metadata.csv and metadata.jsonl"):
        metadata_folder(tmp_path)


# what all share


def of_files(*paths: Path, seconds: float = 1.0) -> Corpus:
    """A corpus of whole files."""
    clips = []
    for path in paths:
        with soundfile.SoundFile(path) as file:
            clips.append(Clip(path.stem, str(path), 0.0, file.frames / file.samplerate, ("Noise",)))
    return Corpus("files", clips, seconds=seconds)


@pytest.mark.parametrize("rate, suffix, channels", [
    (16_000, "wav", 1), (32_000, "flac", 1), (44_100, "flac", 2), (48_000, "wav", 2), (8000, "wav", 1),
    (22_050, "wav", 2),
])
def test_a_crop_is_what_the_whole_file_has_there(tmp_path, rate, suffix, channels):
    path = noise(tmp_path / f"a.{suffix}", 3, rate, channels)
    whole, corpus = audio.read(path), of_files(path)
    down = rate // math.gcd(rate, 16_000)
    spare = 3 * rate - rate
    starts = (int(torch.randint(spare + 1, (), generator=torch.Generator().manual_seed(s))) for s in range(20_000))
    seed, start = next((s, start) for s, start in enumerate(starts) if start and start % down == 0)
    first = start * 16_000 // rate  # a start that both rates have a sample at
    crop = corpus.read(0, torch.Generator().manual_seed(seed))
    assert crop.shape == (16_000,)
    torch.testing.assert_close(crop, whole[first : first + 16_000], atol=1e-6, rtol=0)


def test_crops_start_anywhere_alike(tmp_path):
    path = tmp_path / "ramp.wav"
    soundfile.write(path, np.arange(16_003) / 32_768, 16_000, subtype="PCM_16")
    corpus, generator = of_files(path), torch.Generator().manual_seed(0)
    starts = Counter(round(corpus.read(0, generator)[0].item() * 32_768) for _ in range(400))
    assert set(starts) == {0, 1, 2, 3} and min(starts.values()) > 70


def test_only_the_crop_is_decoded(tmp_path, monkeypatch):
    corpus = of_files(noise(tmp_path / "long.flac", 30, 44_100))
    asked = []
    whole = excerpt.frames_of
    monkeypatch.setattr(excerpt, "frames_of", lambda file, a, b: asked.append(b - a) or whole(file, a, b))
    corpus.read(0, torch.Generator().manual_seed(1))
    assert len(asked) == 1 and asked[0] <= 44_100 + 2 * 441


def test_a_stretch_of_a_file_is_cropped_inside_it(tmp_path):
    path = noise(tmp_path / "a.wav", 4, 16_000)
    corpus = Corpus("stretch", [Clip("a", str(path), 1.0, 1.5, ("Noise",))], seconds=1.0)
    wave, whole = corpus.read(0, torch.Generator()), audio.read(path)
    torch.testing.assert_close(wave[:8000], whole[16_000:24_000])
    assert (wave[8000:] == 0).all()


def test_what_cannot_be_read_says_so(tmp_path):
    path = sound(tmp_path / "a.wav")
    corpus = of_files(path)
    samples = np.zeros(16_000 * 2)
    samples[5] = np.nan
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    with pytest.raises(Unreadable, match="a.wav: holds samples that are not finite"):
        Corpus("files", [Clip("a", str(path), 0.0, 0.5, ("x",))]).read(0, torch.Generator())
    path.unlink()
    with pytest.raises(Unreadable, match="a.wav: no such audio file") as error:
        corpus.read(0, torch.Generator())
    assert error.value.kind == "missing file" and isinstance(error.value, ValueError)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)  # workers send it home


def test_a_file_that_is_cut_off_is_found_by_decoding(audiocaps_folder):
    corpus = audiocaps(audiocaps_folder, limit=1.0)
    assert corpus[5].id == f"audiocaps/{VIDEOS[11]}_10000"  # its header is whole
    with pytest.raises(Unreadable, match=f"{VIDEOS[11]}.flac: (cut short|cannot be decoded)"):
        corpus.read(5, torch.Generator())
    decoded = corpus.decoded()
    assert len(decoded) == 5 and decoded.problems[:-1] == corpus.problems
    assert decoded.problems[-1].kind == "corrupt file" and decoded.problems[-1].where == corpus[5].id
    with pytest.raises(TooManyProblems):
        audiocaps(audiocaps_folder, limit=12 / 18).decoded()


def test_the_limit(audiocaps_folder):
    assert len(audiocaps(audiocaps_folder, limit=12 / 18)) == 6
    with pytest.raises(TooManyProblems, match=r"audiocaps train: 66.7% skipped, more than the limit of 25.0% "
                                              r"\(1 duplicate id, ") as error:
        audiocaps(audiocaps_folder)
    assert len(error.value.corpus) == 6 and len(error.value.corpus.problems) == 12
    with pytest.raises(TooManyProblems, match=r"no usable clip \(1 a\)"):
        Corpus("x", [], problems=[Finding("a", "b", "c")], limit=1.0)
    with pytest.raises(ValueError, match="wanted seconds > 0 and a limit in"):
        Corpus("x", [], limit=1.1)


def many(count: int) -> Corpus:
    """Clips of 1 to 20 s that no file holds."""
    return Corpus("many", [Clip(f"c{i}", f"{i}.wav", 0.0, 1.0 + i % 20, ("x",)) for i in range(count)])


def test_a_subset_has_its_hours_and_is_nested():
    corpus = many(2000)
    parts = [corpus.subset(hours, seed=3) for hours in (0.2, 0.5, 1.7, corpus.hours)]
    for part, hours in zip(parts, (0.2, 0.5, 1.7, corpus.hours), strict=True):
        assert hours - 1e-9 <= part.hours < hours + 10.24 / 3600
        ids = [int(clip.id[1:]) for clip in part]
        assert ids == sorted(ids)
    for small, large in zip(parts, parts[1:], strict=False):
        assert set(small.clips) < set(large.clips)
    assert corpus.subset(0.5, seed=3).clips == parts[1].clips != corpus.subset(0.5, seed=4).clips
    assert np.mean([clip.seconds for clip in parts[1]]) == pytest.approx(10.5, abs=1.5)  # a fair draw
    for hours in (0.0, -1.0, corpus.hours + 1, math.nan):
        with pytest.raises(ValueError, match="many: wanted .* hours, more than 0 and at most the"):
            corpus.subset(hours)


def test_a_subset_hardly_changes_when_clips_are_added():
    before, after = (set(clip.id for clip in many(count).subset(1.0)) for count in (1000, 1010))
    assert len(before & after) > 0.97 * len(before)


def test_crops_depend_on_the_clip_and_the_seed_alone(tmp_path):
    first, second = (noise(tmp_path / f"{name}.wav", 3, 16_000) for name in "ab")
    crop = lambda corpus, i, seed=0: corpus.read(i, crop_generator(corpus[i], seed))  # noqa: E731
    together, alone = of_files(first, second), of_files(second)
    assert torch.equal(crop(together, 1), crop(alone, 0))
    assert not torch.equal(crop(alone, 0), crop(alone, 0, seed=1))
    assert not torch.equal(crop(together, 0), crop(together, 1))  # the same noise, cropped elsewhere


def _read(corpus: Corpus, i: int) -> float:
    return corpus.read(i, crop_generator(corpus[i], 0)).abs().sum().item()


def test_a_corpus_goes_to_worker_processes(tmp_path):
    corpus = of_files(*(noise(tmp_path / f"{i}.wav", 2 + i, 16_000) for i in range(3)))
    assert pickle.loads(pickle.dumps(corpus)).clips == corpus.clips
    with ProcessPoolExecutor(1) as pool:
        assert list(pool.map(_read, [corpus] * 3, range(3))) == [_read(corpus, i) for i in range(3)]


def test_ids_have_no_dot_and_are_told_apart(audiocaps_folder, wavcaps_folder, audioset_folder, csv_folder):
    corpora = [open_corpus("audiocaps", audiocaps_folder, limit=1.0), open_corpus("wavcaps", wavcaps_folder, limit=1.0),
               open_corpus("audioset", audioset_folder, limit=1.0), open_corpus("folder", csv_folder, limit=1.0)]
    ids = [clip.id for corpus in corpora for clip in corpus]
    assert len(ids) == len(set(ids)) == sum(map(len, corpora)) and not any("." in i for i in ids)


def test_an_exclusion_beats_a_missing_file(audioset_folder):
    out = Exclusion("not wanted", frozenset({f"youtube:{VIDEOS[4]}"}))
    corpus = audioset(audioset_folder, exclude=iter([out]), limit=1.0)
    assert counts(corpus.excluded) == {"not wanted": 1} and "missing file" not in counts(corpus.problems)


def test_links_are_followed_and_circles_are_not(tmp_path, audiocaps_folder):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.csv").write_text(AUDIOCAPS_TEST)
    (tmp_path / "data" / "audio").symlink_to(audiocaps_folder / "audio")
    (tmp_path / "data" / "circle").symlink_to(tmp_path / "data")
    assert len(audiocaps(tmp_path / "data", "test", limit=0.4)) == 2


# the command


def run(*arguments):
    found = CliRunner().invoke(app, ["data", "corpus", *(str(a) for a in arguments)])
    return found.exit_code, found.output


def test_command_lists_what_it_found(wavcaps_folder, audiocaps_folder):
    test = audiocaps_folder / "dataset" / "test.csv"
    code, said = run("wavcaps", wavcaps_folder, "--exclude-audiocaps", test, "--limit", "0.7")
    assert code == 0
    assert ("wavcaps AudioSet_SL FreeSound SoundBible: 5 clips, 0.01 hours at 10.24 s a clip at most (recordings: 0.02 "
            "hours), 5 captions") in said
    assert "left out: 2 in blacklist_exclude_test_ac.json, 1 in AudioCaps' test.csv" in said
    assert "skipped: 2 bad id, 1 duplicate id, " in said
    assert "  fsd_final.json item 1: no audio file for wavcaps/FreeSound/180914; skipped" in said
    assert "note: nothing is left out" not in said


def test_command_fails_above_the_limit_and_still_lists(audiocaps_folder):
    code, said = run("audiocaps", audiocaps_folder)
    assert code == 1
    assert "audiocaps train: 6 clips" in said and "skipped: 1 duplicate id" in said
    assert "error: audiocaps train: 66.7% skipped, more than the limit of 25.0%" in said
    assert "allow more by --limit" in said


def test_command_says_that_a_folder_is_not_there(tmp_path):
    found = CliRunner().invoke(app, ["data", "corpus", "folder", str(tmp_path / "gone")])
    assert found.exit_code == 1 and "there is no folder" in found.output


def test_command_takes_hours_and_decodes(audiocaps_folder, audioset_folder):
    code, said = run("audioset", audioset_folder, "--limit", "1", "--hours", "0.001", "--seed", "1")
    assert code == 0 and "audioset balanced_train: 1 clips, 0.00 hours" in said
    assert "note: nothing is left out; clips of AudioCaps' test set may be among these (--exclude-audiocaps)" in said
    code, said = run("audiocaps", audiocaps_folder, "--limit", "1", "--decode")
    assert code == 0 and "5 clips" in said and "2 corrupt file" in said
    code, said = run("audiocaps", audiocaps_folder, "--limit", "1", "--hours", "3")
    assert code == 1 and "wanted 3 hours, more than 0 and at most the" in said


def test_command_names_20_and_counts_the_rest(tmp_path):
    rows = "".join(f"gone{i}.wav,A sound\n" for i in range(25))
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.wav,A sound\n" + rows)
    sound(tmp_path / "a.wav", 1)
    code, said = run("folder", tmp_path, "--limit", "1")
    assert code == 0 and "skipped: 25 missing file" in said and "and 5 more" in said
    assert said.count("no such audio file; skipped") == 20


@pytest.mark.parametrize("arguments, message", [
    (["clotho"], "the kind of corpus must be one of audiocaps, wavcaps, audioset, folder, got 'clotho'"),
    (["wavcaps", "--split", "train"], "a split is for audiocaps and audioset, not for wavcaps"),
    (["audioset", "--caption", "text"], "a caption is for folder, not for audioset"),
])
def test_command_refuses(tmp_path, arguments, message):
    code, said = run(arguments[0], tmp_path, *arguments[1:])
    assert code == 1 and message in said


def test_a_folder_cannot_leave_out_videos_that_it_does_not_name(tmp_path):
    with pytest.raises(ValueError, match="do not say which videos"):
        open_corpus("folder", tmp_path, exclude_audiocaps=[tmp_path / "test.csv"])
