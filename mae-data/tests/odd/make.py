"""Makes the odd images of this folder with Pillow 13, and beside each, as NAME.rgb.png, its pixels after convert("RGB").

Usage: python make.py FOLDER
"""

import io
import pathlib
import struct
import sys
import warnings
import zlib

from PIL import Image

warnings.simplefilter("ignore")
OUT = pathlib.Path(sys.argv[1])
SIZE = (19, 13)


def colour():
    image = Image.new("RGB", SIZE)
    image.putdata([((x * 13 + y * 3) % 256, (y * 19) % 256, (x * y * 5) % 256) for y in range(13) for x in range(19)])
    return image


def alpha():
    image = Image.new("L", SIZE)
    image.putdata([(x * 40 + y * 17) % 256 for y in range(13) for x in range(19)])
    return image


def with_alpha():
    image = colour()
    image.putalpha(alpha())
    return image


def grey_16():
    image = Image.new("I;16", SIZE)
    for y in range(13):
        for x in range(19):
            image.putpixel((x, y), [0, 100, 255, 256, 300, 40000, 65535][(x + y) % 7] if y < 7 else x * 14)
    return image


def keep(name, data):
    (OUT / name).write_bytes(data)
    try:
        expected = Image.open(io.BytesIO(data)).convert("RGB")
        expected.info.clear()
        expected.save(OUT / (name + ".rgb.png"))
    except Exception as error:  # what Pillow refuses needs no pixels
        print(name, "is refused by Pillow:", error)


def save(name, image, format=None, **options):
    buffer = io.BytesIO()
    image.save(buffer, format or name.rsplit(".", 1)[1].upper().replace("JPG", "JPEG").replace("TIF", "TIFF"), **options)
    keep(name, buffer.getvalue())


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(name, width, height, depth, kind, rows, extra=b"", interlace=0):
    """A PNG that Pillow does not write itself."""
    raw = b"".join(b"\0" + row for row in rows)
    keep(
        name,
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlace))
        + extra
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b""),
    )


palette = colour().quantize(16)
bits = colour().convert("1")
grey = colour().convert("L")
cmyk = colour().convert("CMYK")

save("grey.png", grey)
save("grey_alpha.png", Image.merge("LA", (grey, alpha())))
save("one_bit.png", bits)
save("palette_16.png", palette)
save("palette_2.png", colour().quantize(2))
save("palette_256.png", colour().quantize(256))
save("palette_transparency.png", palette, transparency=bytes([0, 128, 255] * 5))
save("palette_transparent_index.png", palette, transparency=3)
save("grey_transparency.png", grey, transparency=100)
save("rgb_transparency.png", colour(), transparency=(13, 0, 0))
save("rgba.png", with_alpha())
save("grey_16.png", grey_16())
save("animation.png", colour(), save_all=True, append_images=[colour().rotate(180)])
wide = [b"".join(struct.pack(">HHH", x * 3449, y * 5041, 65535 - x * 7) for x in range(19)) for y in range(13)]
png("rgb_16.png", 19, 13, 16, 2, wide)
png("rgb_16_transparency.png", 19, 13, 16, 2, wide, chunk(b"tRNS", struct.pack(">HHH", 0, 0, 65535)))
png("rgba_16.png", 19, 13, 16, 6, [b"".join(struct.pack(">HHHH", x * 3449, y * 5041, 200, x * 99) for x in range(19)) for y in range(13)])
png("grey_alpha_16.png", 19, 13, 16, 4, [b"".join(struct.pack(">HH", x * 3449, y * 5041) for x in range(19)) for y in range(13)])
png("grey_16_transparency.png", 19, 13, 16, 0, [b"".join(struct.pack(">H", x * 3449) for x in range(19)) for y in range(13)], chunk(b"tRNS", struct.pack(">H", 3449)))
png("grey_2_bits.png", 16, 4, 2, 0, [bytes([0x1B, 0xE4, 0x27, y]) for y in range(4)])
png("grey_4_bits.png", 16, 4, 4, 0, [bytes([0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF + y]) for y in range(4)])
png("grey_2_bits_transparency.png", 16, 4, 2, 0, [bytes([0x1B, 0xE4, 0x27, y]) for y in range(4)], chunk(b"tRNS", b"\0\2"))
png("palette_short.png", 16, 4, 4, 3, [bytes(range(8)) for _ in range(4)], chunk(b"PLTE", bytes(range(9))))

exif = Image.Exif()
exif[0x0112] = 6
save("exif_orientation.jpg", colour(), quality=90, exif=exif)
save("grey.jpg", grey)
save("cmyk.jpg", cmyk)
save("progressive.jpg", colour(), progressive=True)
save("rgb_444.jpg", colour(), subsampling=0)
save("rgb_422.jpg", colour(), subsampling=1)
save("rgb_kept.jpg", colour(), keep_rgb=True)
save("restarts.jpg", colour(), restart_marker_blocks=1)

for mode, image in [("grey", grey), ("one_bit", bits), ("palette", palette), ("rgb", colour()), ("rgba", with_alpha().convert("RGBA"))]:
    save(mode + ".bmp", image)
    save(mode + ".tif", image)
for compression in ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"]:
    save(f"rgb_{compression}.tif", colour(), compression=compression)
save("grey_alpha.tif", Image.merge("LA", (grey, alpha())))
save("cmyk.tif", cmyk)
save("grey_16.tif", grey_16())
save("float.tif", grey.convert("F"))
save("int_32.tif", grey.convert("I"))
save("one_bit_group4.tif", bits, compression="group4")
save("pages.tif", colour(), save_all=True, append_images=[grey])
save("exif_orientation.tif", colour(), exif=exif)

save("lossy.webp", colour(), quality=80)
save("lossless.webp", colour(), lossless=True)
save("alpha.webp", with_alpha(), lossless=True)
save("alpha_lossy.webp", with_alpha(), quality=80)
save("animation.webp", colour(), save_all=True, append_images=[colour().rotate(180)], lossless=True)

save("rgb.ppm", colour())
save("grey.pgm", grey, format="PPM")
save("one_bit.pbm", bits, format="PPM")
save("grey_16.pgm", grey_16(), format="PPM")
keep("plain.ppm", b"P3 # a comment\n2 2\n15\n0 1 2 3 4 5\n6 7 8 9 10 15\n")
keep("plain.pgm", b"P2\n3 2\n255\n0 100 200\n50 150 250\n")
keep("plain.pbm", b"P1\n4 2\n0101\n1 1 0 0\n")
keep("maxval_100.pgm", b"P5\n4 1\n100\n" + bytes([0, 33, 66, 100]))
keep("maxval_1000.ppm", b"P6\n1 2\n1000\n" + struct.pack(">6H", 0, 500, 1000, 250, 750, 999))
