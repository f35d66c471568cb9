"""Whatever a folder of images holds, its images are read or it is refused; nothing outside of it is looked at."""

import io
import os
import shutil
import struct
import zlib

import pytest
from hypothesis import strategies as st
from PIL import Image

from harp_tf.data import loading
from tests.fuzz.limits import amounts, fuzz, outcome, refused
from tests.fuzz.mutations import EXTREMES, damaged


def picture(kind, mode="L", size=(6, 5)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 100 if mode == "L" else None).save(buffer, kind)
    return buffer.getvalue()


PICTURES = {
    "1.png": picture("png"),
    "2.png": picture("png", "RGBA"),
    "3.jpg": picture("jpeg"),
    "4.jpeg": picture("jpeg", "RGB"),
}


def written(folder, files=()):
    shutil.rmtree(folder / "images", ignore_errors=True)
    for name in ("cat", "dog"):
        (folder / "images" / name).mkdir(parents=True)
        for file, content in PICTURES.items():
            (folder / "images" / name / file).write_bytes(content)
    for file, content in dict(files).items():
        (folder / "images" / "cat" / file).write_bytes(content)
    return folder / "images"


def read(images):
    splits = loading.load(f"dir:{images}", validation_fraction=0.3)
    assert splits.input_shape[2] in (1, 3) and all(name.isprintable() for name in splits.class_names)
    return splits


def png(width, height, depth=8, colour=0, data=b"", interlace=0) -> bytes:
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def jpeg_of_size(height, width) -> bytes:
    content = bytearray(PICTURES["3.jpg"])
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def test_the_valid_folder_is_read(folder):
    assert read(written(folder)).input_shape == (5, 6, 3)


@amounts(40, 700)
def test_damaged_images(folder, examples):
    def holds(name, data):
        images = written(folder, {name: data.draw(damaged(PICTURES[name]))})
        outcome(lambda: read(images))

    fuzz(examples, holds, st.sampled_from(sorted(PICTURES)), st.data())


@amounts(20, 300)
def test_any_header_of_a_png(folder, examples):
    def holds(header, data):
        images = written(folder, {"1.png": png(*header, data)})
        outcome(lambda: read(images))

    size = st.sampled_from(EXTREMES) | st.integers(0, 9)
    header = st.tuples(
        size, size, st.sampled_from([1, 2, 4, 8, 16, 3, 0, 255]), st.sampled_from([0, 2, 3, 4, 6, 1, 255])
    )
    fuzz(examples, holds, header, st.binary(max_size=80))


def test_images_of_absurd_sizes(folder):
    bombs = [png(2**31 - 1, 2**31 - 1), png(60_000, 60_000), png(2**29, 1), jpeg_of_size(65_535, 65_535), png(0, 0)]
    for bomb in bombs:
        images = written(folder, {"1.png": bomb})
        assert "cat" in refused(lambda: read(images))
        # All of them of that size: they agree with one another.
        images = written(folder)
        for name in ("cat", "dog"):
            for file in PICTURES:
                (images / name / file).write_bytes(bomb)
        refused(lambda: read(images))


@pytest.mark.parametrize(
    "content", [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", picture("gif"), picture("bmp"), b"<svg/>"], ids=repr
)
def test_what_is_no_png_and_no_jpeg(folder, content):
    for name in PICTURES:
        images = written(folder, {name: content})
        assert f"cat/{name}' could not be read as an image" in refused(lambda: read(images))


def test_links_that_lead_outside(folder, outside):
    for target, name in (
        (outside / "secret.txt", "x.png"),
        (outside, "x.png"),
        ("/dev/zero", "x.png"),
        ("/proc/kmsg", "x.jpg"),
    ):
        images = written(folder)
        (images / "cat" / name).symlink_to(target)
        assert "outside of" in refused(lambda: read(images))
    images = written(folder)
    (images / "emu").symlink_to(outside)
    assert "outside of" in refused(lambda: read(images))
    images = written(folder)
    (images / "cat" / "x.png").symlink_to("../../../outside/secret.txt")
    assert "outside of" in refused(lambda: read(images))


def test_links_inside_and_to_the_folder(folder):
    images = written(folder)
    (images / "cat" / "5.png").symlink_to("1.png")
    (folder / "link").symlink_to(images)
    assert read(folder / "link").input_shape == (5, 6, 3)
    (images / "cat" / "loop.png").symlink_to("loop.png")
    refused(lambda: read(images))


def test_what_is_no_file(folder):
    for make in (os.mkdir, os.mkfifo):
        images = written(folder)
        make(images / "cat" / "x.png")
        assert "no regular file" in refused(lambda: read(images))


@amounts(20, 200)
def test_names_of_any_kind(folder, examples):
    def holds(class_name, file):
        images = written(folder)
        try:
            (images / "dog").rename(images / os.fsdecode(class_name))
            (images / "cat" / "1.png").rename(images / "cat" / os.fsdecode(file))
        except OSError:
            return  # no such name is possible
        outcome(lambda: read(images))

    name = st.binary(min_size=1, max_size=20).filter(
        lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
    )
    fuzz(examples, holds, name | st.just(b"new\nline") | st.just(b"\xff"), name.map(lambda name: name + b".png"))


@pytest.mark.parametrize("name", ["new\nline", "\udcff", "tab\t", "\u202egnp"])
def test_class_names_that_cannot_be_shown(folder, name):
    images = written(folder)
    (images / "dog").rename(images / name)
    assert "Rename it" in refused(lambda: read(images))


@pytest.mark.parametrize("place", ["", "~no_such_user/x", "x" * 300, "a\0b", "/dev/null", "/proc/self/mem", "."])
def test_places_of_any_kind(folder, place, monkeypatch):
    monkeypatch.chdir(folder)
    for kind in ("dir", "idx", "npz"):
        refused(lambda: loading.load(f"{kind}:{place}"))
