"""DICOM files: what their grey values become, what is refused, and that nothing but pixels leaves them."""

import contextlib
import logging
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from secateur.core.errors import RequestError
from secateur.data.decoded import decoded_images
from secateur.data.images import read_image
from secateur.data.settings import Resize

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import JPEG2000, UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage  # noqa: E402

PATIENT = "Nightingale^Florence"
GREY = np.array([[0, 100, 200], [300, 400, 500]], np.uint16)


def write(path: Path, pixels: np.ndarray = GREY, kind: str = "MONOCHROME2", **elements) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = PATIENT, "F-1820", "18200512"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = kind
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def grey(path: Path, window=None) -> list[int]:
    return read_image(path, 1, window=window).flatten().tolist()


def refusal(path: Path) -> str:
    with pytest.raises(RequestError) as caught:
        read_image(path)
    text = str(caught.value)
    assert path.name in text
    assert "\n" not in text
    return text


def test_without_window_values_run_from_least_to_greatest(tmp_path):
    assert grey(write(tmp_path / "a.dcm")) == [0, 51, 102, 153, 204, 255]
    assert grey(write(tmp_path / "flat.dcm", np.full((2, 2), 7, np.uint16))) == [0, 0, 0, 0]


def test_window_of_the_file_the_first_of_several_or_the_one_asked_for(tmp_path):
    # PS3.3 C.11.2.1.2.1: (x - (c - 0.5)) / (w - 1) + 0.5
    expected = [round(255 * min(max((x - 249.5) / 200 + 0.5, 0), 1)) for x in GREY.ravel().tolist()]
    one = write(tmp_path / "one.dcm", WindowCenter=250, WindowWidth=201)
    assert grey(one) == expected
    assert grey(write(tmp_path / "two.dcm", WindowCenter=[250, 40], WindowWidth=[201, 400])) == expected
    assert grey(write(tmp_path / "other.dcm", WindowCenter=1, WindowWidth=2), window=(250, 201)) == expected
    exact = write(tmp_path / "exact.dcm", WindowCenter=250, WindowWidth=200, VOILUTFunction="LINEAR_EXACT")
    assert grey(exact) == [0, 0, 64, 191, 255, 255]
    sigmoid = write(tmp_path / "sigmoid.dcm", WindowCenter=200, WindowWidth=100, VOILUTFunction="SIGMOID")
    assert grey(sigmoid) == [round(255 / (1 + np.exp(-4 * (x - 200) / 100))) for x in GREY.ravel().tolist()]
    assert grey(write(tmp_path / "step.dcm", WindowCenter=200, WindowWidth=1)) == [0, 0, 255, 255, 255, 255]


def test_windows_agree_with_pydicom(tmp_path):
    """Its own windowing is the slow truth, in the range of the stored bits."""
    from pydicom.pixels import apply_windowing

    values = np.random.default_rng(0).integers(0, 2**16, (16, 16), np.uint16)
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        path = write(tmp_path / "a.dcm", values, WindowCenter=30_000, WindowWidth=20_000, VOILUTFunction=function)
        expected = apply_windowing(values, pydicom.dcmread(path)) * 255 / 65_535
        assert np.abs(read_image(path, 1)[0].numpy() - expected).max() <= 0.5 + 1e-9


def test_rescaled_signed_values_are_windowed_in_hounsfield_units(tmp_path):
    stored = np.array([[0, 1024, 2048]], np.int16)
    path = write(tmp_path / "ct.dcm", stored, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=0, WindowWidth=2049)
    assert grey(path) == [0, 128, 255]
    assert grey(path, window=(-1000, 2)) == [0, 255, 255]


def test_monochrome1_is_inverted(tmp_path):
    assert grey(write(tmp_path / "a.dcm", kind="MONOCHROME1")) == [255, 204, 153, 102, 51, 0]


def test_colours_pass_as_they_are(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    path = write(tmp_path / "colour.dcm", colours, "RGB")
    assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), colours)
    assert read_image(path, 1).shape == (1, 4, 5)
    assert read_image(write(tmp_path / "grey.dcm")).shape == (3, 2, 3)
    ybr = np.asarray(Image.fromarray(colours).convert("YCbCr"))
    found = read_image(write(tmp_path / "ybr.dcm", ybr, "YBR_FULL")).permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - colours).max() <= 2


def test_files_without_suffix_are_known_by_what_they_begin_with(tmp_path):
    assert grey(write(tmp_path / "IM0001")) == grey(write(tmp_path / "a.dcm"))
    Image.new("L", (3, 2), 9).save(tmp_path / "plain", "PNG")
    assert grey(tmp_path / "plain") == [9] * 6


def test_they_are_resized_and_kept_like_other_images(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    values = np.random.default_rng(0).integers(0, 4096, (20, 30), np.uint16)
    path = write(tmp_path / "a.dcm", values)
    whole = decoded_images([path], Resize(size=8), 1)
    assert np.array_equal(whole.images[0], read_image(path, 1, Resize(size=8)).permute(1, 2, 0).numpy())
    narrow = decoded_images([path], Resize(size=8), 1, window=(2048, 100))
    assert not np.array_equal(narrow.images, whole.images)


def test_refusals_in_one_line(tmp_path):
    frames = write(tmp_path / "frames.dcm", NumberOfFrames=3, PixelData=GREY.tobytes() * 3)
    assert "has 3 frames" in refusal(frames)
    assert "it has no pixels" in refusal(write(tmp_path / "report.dcm", PixelData=None))
    assert "not positive" in refusal(write(tmp_path / "window.dcm", WindowCenter=5, WindowWidth=0))
    assert "pixels cannot be decoded" in refusal(write(tmp_path / "short.dcm", PixelData=b"\0\0"))
    assert "pixels cannot be decoded" in refusal(write(tmp_path / "rows.dcm", Rows=None))
    assert "uint16" in refusal(write(tmp_path / "argb.dcm", np.zeros((2, 2), np.uint16), "CMYK"))
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [2, 0, 16], [0, 65_535]
    lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
    assert "VOI LUT" in refusal(write(tmp_path / "lut.dcm", VOILUTSequence=[lut]))
    jpeg = tmp_path / "renamed.dcm"
    Image.new("RGB", (8, 8)).save(jpeg, "JPEG")
    assert "no DICOM file" in refusal(jpeg)
    (tmp_path / "empty.dcm").touch()
    assert "zero bytes" in refusal(tmp_path / "empty.dcm")
    whole = write(tmp_path / "whole.dcm", np.zeros((64, 64), np.uint16)).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refusal(tmp_path / "cut.dcm")


def test_compressed_pixels_without_a_decoder_say_what_to_install(tmp_path):
    from pydicom.encaps import encapsulate

    path = write(tmp_path / "a.dcm")
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" * 4])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.80")  # JPEG-LS, which Pillow does not know
    dataset.save_as(path)
    assert "pip install pylibjpeg" in refusal(path)
    dataset.file_meta.TransferSyntaxUID = JPEG2000  # there is a decoder, but the pixels are nonsense
    dataset.save_as(path)
    assert "cannot be read" in refusal(path)


def test_large_images_are_refused_before_their_pixels_are_decoded(tmp_path):
    path = write(tmp_path / "large.dcm", Rows=20_000, Columns=10_000)
    begin = time.perf_counter()
    assert "200 megapixels" in refusal(path)
    assert time.perf_counter() - begin < 1


def test_without_pydicom_the_extra_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.dcm")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'secateur[dicom]'" in refusal(path)


def test_nothing_of_the_patient_leaves_the_file(tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.DEBUG)
    broken = [
        write(tmp_path / "a.dcm", PixelData=b"\0"),
        write(tmp_path / "b.dcm", WindowCenter=1, WindowWidth=0),
        write(tmp_path / "c.dcm", NumberOfFrames=2),
    ]
    # odd values that a reader of the whole file would warn of, with the text
    for name, value in (("PatientAge", PATIENT), ("StudyDate", PATIENT)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            broken.append(write(tmp_path / f"{name}.dcm", **{name: value}, Rows=None))
    assert PATIENT in caplog.text  # by the writer; from here on nothing may say so
    caplog.clear()
    decoded = decoded_images([write(tmp_path / "whole.dcm"), *broken], Resize(size=4), 1, on_bad="skip")
    assert decoded.good.tolist() == [True] + [False] * 5
    texts = [*decoded.skipped, caplog.text, *capfd.readouterr()]
    with pytest.raises(RequestError) as caught:
        read_image(broken[0])
    error: BaseException | None = caught.value
    while error is not None:
        texts.append(repr(error))
        error = error.__cause__
    texts += [file.read_bytes().decode("latin1") for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    for secret in ("Nightingale", "F-1820", "18200512"):
        assert not any(secret in text for text in texts)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_raise_nothing_else(tmp_path, data):
    content = bytearray(write(tmp_path / "whole.dcm").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(128, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.dcm"
    path.write_bytes(bytes(content[: data.draw(st.integers(129, len(content)))]))
    with contextlib.suppress(RequestError):
        assert read_image(path, resize=Resize(size=8)).shape == (3, 8, 8)
