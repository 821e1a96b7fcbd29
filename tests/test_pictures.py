"""Pictures: what comes in is opened, refused by name, or decoded once to what a person sees."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin

from speceyes import pictures
from speceyes.errors import (
    ConfigError,
    PictureEmpty,
    PictureError,
    PictureShapeError,
    PictureTooLarge,
    PictureTruncated,
    PictureUnknown,
    PictureUnreadable,
)
from speceyes.pictures import DecodedPictures, PictureLimits, decode, encode_png, open_picture
from speceyes.types import Box, Picture
from tests.raw_pictures import png_header

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def saved(image, kind="PNG", **settings):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **settings)
    return buffer.getvalue()


def two_halves(size=(8, 4)):
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, size[0], size[1]))
    return image


def test_a_plain_picture_is_taken_up_as_it_came_from_bytes_or_file(tmp_path):
    data = saved(two_halves())
    picture = open_picture(data)
    assert (picture.data, picture.media_type, picture.size) == (data, "image/png", (8, 4))
    assert picture.is_plain
    path = tmp_path / "a.png"
    path.write_bytes(data)
    assert open_picture(path) == open_picture(str(path)) == picture


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_opening_reads_the_header_only(monkeypatch, kind):
    def refuse(self):
        raise AssertionError("decoded")

    data = saved(two_halves(), kind)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    assert open_picture(data).size == (8, 4)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", PictureEmpty),
        (b"not a picture at all", PictureUnknown),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", PictureUnknown),
        (saved(two_halves())[:12], PictureUnknown),
        (png_header(0, 5), PictureUnknown),
        (png_header(20_000, 20), PictureShapeError),
        (png_header(10_001, 10_000), PictureTooLarge),
        (png_header(60_000, 60_000), PictureTooLarge),
    ],
    ids=["empty", "text", "postscript", "cut-header", "zero", "20000x20", "limit", "bomb"],
)
def test_what_cannot_be_used_has_a_name_and_a_field(data, error):
    with pytest.raises(error) as caught:
        open_picture(data)
    assert type(caught.value) is error
    assert caught.value.field == "picture"


EMPTY_GIF = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
FRAME = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02"


@pytest.mark.parametrize(
    "data",
    [
        saved(two_halves(), "JPEG")[:2] + b"\xff" * 8_000_000 + saved(two_halves(), "JPEG")[2:],
        saved(two_halves(), "JPEG")[:2] + b"\xff\xfe\0\x02" * 2_000_000,
        EMPTY_GIF + FRAME + b"\x01\0" * 4_000_000,
        EMPTY_GIF + b"\x21\xfe" + b"\x01a" * 4_000_000,
    ],
    ids=["jpeg of padding", "jpeg of empty parts", "gif of one-byte blocks", "gif of comments"],
)
def test_a_header_that_does_not_end_is_not_read_to_its_end(data):
    began_s = time.process_time()
    with pytest.raises(PictureTruncated, match="does not come to an end"):
        open_picture(data)
    assert time.process_time() - began_s < 2.0  # it was 7 s and more


def test_an_honest_header_may_be_read_in_as_many_steps_as_it_needs():
    noise = Image.effect_noise((2000, 2000), 100).convert("P")
    data = saved(noise, "GIF", save_all=True, append_images=[noise.rotate(90)])
    assert not open_picture(data).is_plain
    assert open_picture(saved(noise.convert("RGB"), "PNG", compress_level=0)).is_plain


def test_a_missing_file_and_a_folder_are_unreadable(tmp_path):
    for path in (tmp_path / "none.png", tmp_path, "nul\0byte"):
        with pytest.raises(PictureUnreadable):
            open_picture(path)


def test_too_many_bytes_are_refused_before_they_are_all_read(tmp_path):
    limits = PictureLimits(max_bytes=10)
    data = saved(two_halves())
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(PictureTooLarge, match=f"{len(data)} bytes"):
        open_picture(data, limits)
    with pytest.raises(PictureTooLarge, match="11 bytes or more"):
        open_picture(path, limits)


def test_limits_below_one_are_refused():
    with pytest.raises(ConfigError) as caught:
        PictureLimits(max_pixels=0)
    assert caught.value.field == "pictures.max_pixels"


def test_one_pixel_is_a_picture_and_an_aspect_of_200_is_still_accepted():
    tiny = open_picture(saved(Image.new("RGB", (1, 1), GREEN)))
    assert decode(tiny).getpixel((0, 0)) == GREEN
    assert open_picture(png_header(4000, 20)).size == (4000, 20)


def test_a_picture_between_pillows_warning_and_our_limit_opens_without_a_warning():
    assert open_picture(png_header(9_900, 9_900)).size == (9_900, 9_900)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_truncated_pixels_show_when_decoded(kind):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = saved(noise, kind)
    with pytest.raises(PictureTruncated):
        decode(open_picture(data[: len(data) * 2 // 3]))


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM"]), st.data())
def test_bytes_changed_anywhere_give_a_picture_or_a_named_error(kind, data):
    damaged = bytearray(saved(two_halves(), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        picture = open_picture(bytes(damaged), PictureLimits(max_pixels=1_000_000))
        assert decode(picture).size == picture.size
    except PictureError:
        return  # any other exception fails this test


def test_damaged_pixels_show_when_decoded():
    data = bytearray(saved(two_halves()))
    at = data.index(b"IDAT") + 6
    data[at : at + 8] = b"\xff" * 8
    with pytest.raises(PictureTruncated):
        decode(open_picture(bytes(data)))


def cmyk():
    return saved(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG", quality=100)


def half_clear():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (2, 0, 4, 4))
    return image


def sixteen_bit(level=128):
    return saved(Image.fromarray(np.full((4, 4), level * 257, dtype=np.uint16)))


def animated(kind):
    frames = [Image.new("RGB", (4, 4), color) for color in (GREEN, BLUE)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)


def pasted(mode, color, kind="PNG", **settings):
    return saved(Image.new(mode, (4, 4), color), kind, **settings)


@pytest.mark.parametrize(
    ("data", "left", "right"),
    [
        (cmyk(), RED, RED),
        (saved(half_clear()), RED, WHITE),
        (saved(half_clear(), "WEBP", lossless=True), RED, WHITE),
        (saved(half_clear().quantize()), RED, WHITE),
        (saved(half_clear().convert("LA")), (76, 76, 76), WHITE),
        (pasted("RGB", BLUE, transparency=BLUE), WHITE, WHITE),
        (sixteen_bit(), (128, 128, 128), (128, 128, 128)),
        (sixteen_bit(255), WHITE, WHITE),
        (pasted("I;16", 40_000, "TIFF"), (156, 156, 156), (156, 156, 156)),
        (pasted("F", 3.5, "TIFF"), (0, 0, 0), (0, 0, 0)),
        (pasted("P", 0, "GIF"), (0, 0, 0), (0, 0, 0)),
        (pasted("1", 1), WHITE, WHITE),
        (animated("GIF"), GREEN, GREEN),
        (animated("WEBP"), GREEN, GREEN),
        (animated("PNG"), GREEN, GREEN),
    ],
    ids=[
        "cmyk", "rgba-png", "rgba-webp", "palette-alpha", "grey-alpha", "keyed", "16-bit-png",
        "16-bit-white",
        "16-bit-tiff", "float-tiff", "palette", "bilevel", "gif", "animated-webp", "apng",
    ],
)  # fmt: skip
def test_every_mode_is_decoded_to_what_a_person_sees(data, left, right):
    picture = open_picture(data)
    assert not picture.is_plain
    image = decode(picture)
    assert image.mode == "RGB"
    assert np.abs(np.subtract(image.getpixel((0, 1)), left)).max() <= 2
    assert np.abs(np.subtract(image.getpixel((3, 1)), right)).max() <= 2


def test_a_float_picture_is_stretched_over_its_range_and_survives_nan():
    values = np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32)
    image = decode(open_picture(saved(Image.fromarray(values), "TIFF")))
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 128, 255, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_and_the_size_is_upright(orientation):
    upright = two_halves((64, 32))
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = open_picture(saved(stored, "JPEG", exif=exif, quality=95))
    assert picture.size == (64, 32)
    assert picture.is_plain == (orientation == 1)
    image = decode(picture)
    assert image.size == (64, 32)
    assert np.abs(np.subtract(image.getpixel((8, 16)), RED)).max() <= 8
    assert np.abs(np.subtract(image.getpixel((56, 16)), BLUE)).max() <= 8


@pytest.mark.parametrize(("is_late", "others"), [(False, 0), (True, 0), (True, 25_000)])
def test_a_png_may_be_rotated_too_even_when_it_says_so_after_its_pixels(is_late, others):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(two_halves().transpose(Image.Transpose.ROTATE_90), exif=exif)
    if is_late:
        start = data.index(b"eXIf") - 4
        stop = start + 12 + int.from_bytes(data[start : start + 4], "big")
        between = (bytes(4) + b"prVt" + struct.pack(">I", zlib.crc32(b"prVt"))) * others
        data = data[:start] + data[stop:-12] + between + data[start:stop] + data[-12:]
    picture = open_picture(data)
    assert (picture.size, picture.is_plain) == ((8, 4), False)
    assert decode(picture).tobytes() == two_halves().tobytes()


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'


def test_a_png_may_say_in_a_text_that_it_is_rotated():
    told = PngImagePlugin.PngInfo()
    told.add_itxt("XML:com.adobe.xmp", XMP, zip=True)
    data = saved(two_halves().transpose(Image.Transpose.ROTATE_90), pnginfo=told)
    picture = open_picture(data)
    assert (picture.size, picture.is_plain) == ((8, 4), False)


def test_a_png_that_merely_contains_the_words_is_not_decoded(monkeypatch):
    told = PngImagePlugin.PngInfo()
    told.add_text("Comment", "eXIf, Raw profile type exif, XML:com.adobe.xmp")
    data = saved(two_halves(), pnginfo=told)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    assert open_picture(data).is_plain


def test_a_picture_whose_pixels_belie_its_header_is_refused():
    claimed = Picture(saved(two_halves()), "image/png", 80, 40)
    with pytest.raises(PictureTruncated, match="header says"):
        decode(claimed)


def test_a_phones_mpo_is_a_jpeg_like_any_other():
    data = saved(two_halves(), "MPO", save_all=True, append_images=[two_halves()])
    picture = open_picture(data)
    assert (picture.media_type, picture.is_plain) == ("image/jpeg", True)
    assert decode(picture).size == (8, 4)


def test_a_colour_profile_does_no_harm():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = open_picture(saved(two_halves(), icc_profile=profile))
    assert decode(picture).getpixel((0, 0)) == RED


def test_png_round_trip_is_lossless_and_plain():
    picture = encode_png(two_halves())
    assert picture.is_plain
    assert picture.size == (8, 4)
    assert open_picture(picture.data) == picture
    assert decode(picture).tobytes() == two_halves().tobytes()
    assert decode(encode_png(half_clear())).getpixel((3, 0)) == WHITE


def test_each_picture_is_decoded_once(monkeypatch):
    calls = []
    monkeypatch.setattr(pictures, "decode", lambda picture: calls.append(picture) or two_halves())
    decoded = DecodedPictures((encode_png(two_halves()), open_picture(sixteen_bit())))
    assert decoded.image(0) is decoded.image(0)
    assert len(calls) == 1
    decoded.image(1)
    assert calls == list(decoded.pictures)


def test_a_whole_plain_picture_is_passed_on_as_the_bytes_that_came_in(monkeypatch):
    monkeypatch.setattr(pictures, "decode", None)
    picture = open_picture(saved(two_halves(), "JPEG"))
    whole = Box(0, 0, 8, 4)
    assert DecodedPictures((picture,)).cut(whole) is picture
    assert DecodedPictures((picture,)).cut(whole, (8, 4)) is picture


def test_a_whole_picture_that_is_not_plain_is_made_plain():
    view = DecodedPictures((open_picture(saved(half_clear())),)).cut(Box(0, 0, 4, 4))
    assert view.is_plain
    assert decode(view).getpixel((3, 0)) == WHITE


def test_a_cut_has_the_boxs_pixels_and_the_size_asked_for():
    decoded = DecodedPictures((encode_png(two_halves()),))
    crop = decoded.cut(Box(3, 0, 5, 4))
    assert crop.size == (2, 4)
    assert decode(crop).getpixel((0, 0)) == RED
    assert decode(crop).getpixel((1, 0)) == BLUE
    enlarged = decoded.cut(Box(4, 0, 8, 4), (28, 28))
    assert enlarged.size == (28, 28)
    assert decode(enlarged).getcolors() == [(28 * 28, BLUE)]


@pytest.mark.parametrize(
    ("box", "size"),
    [
        (Box(-1, 0, 4, 4), None),
        (Box(0, 0, 9, 4), None),
        (Box(0, 0, 8, 5), None),
        (Box(4, 0, 4, 4), None),
        (Box(5, 0, 4, 4), None),
        (Box(0, 3, 4, 2), None),
        (Box(0, 0, 4, 4, picture_index=1), None),
        (Box(0, 0, 4, 4, picture_index=-1), None),
        (Box(0, 0, 4, 4), (0, 5)),
    ],
)
def test_a_box_outside_or_without_area_is_refused(box, size):
    with pytest.raises(PictureShapeError):
        DecodedPictures((encode_png(two_halves()),)).cut(box, size)
