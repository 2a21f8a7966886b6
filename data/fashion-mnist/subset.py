"""Cuts the embedded subset out of the full Fashion-MNIST files.

    apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb full
    python3 subset.py full/usr/share/datasets/fashion-mnist .

The output is the same bytes on every run with one zlib; another zlib may compress to other bytes of the same content.
"""

import gzip
import struct
import sys
from pathlib import Path

source, target = Path(sys.argv[1]), Path(sys.argv[2])


def write(name, content):
    with open(target / name, "wb") as raw:
        with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=9, mtime=0) as out:
            out.write(content)


for part, keep in (("train", 3000), ("t10k", 500)):
    images = gzip.open(source / f"{part}-images-idx3-ubyte.gz").read()
    labels = gzip.open(source / f"{part}-labels-idx1-ubyte.gz").read()
    magic, _, height, width = struct.unpack(">IIII", images[:16])
    assert (magic, height, width) == (0x803, 28, 28), (magic, height, width)
    header = struct.pack(">IIII", magic, keep, height, width)
    write(f"{part}-images-idx3-ubyte.gz", header + images[16 : 16 + keep * height * width])
    write(f"{part}-labels-idx1-ubyte.gz", struct.pack(">II", 0x801, keep) + labels[8 : 8 + keep])
