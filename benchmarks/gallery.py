"""pictures/gallery.png: a row for each script, of its default run and of real data, cut out of README's pictures.

python benchmarks/gallery.py
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).parents[1]
SIDE, MANY = 64, 8  # of a tile in pixels; tiles in a strip
FASHION = "benchmarks/results/compare-fashion-mnist.png"


def grid(*rows, columns=range(MANY)):
    return [(row, column) for row in rows for column in columns]


ROWS = {  # script: for the default run and for real data the picture, its columns, the side of a cell, which cells
    "vae": [("pictures/vae-digits.png", 6, 30, grid(0, 1, columns=range(4))), (FASHION, 16, 58, grid(7))],
    "dcgan": [("pictures/dcgan.png", 6, 66, grid(0, 1, columns=range(4))), (FASHION, 16, 58, grid(2))],
    "cgan": [("pictures/cgan-digits.png", 10, 30, grid(0)), (FASHION, 16, 58, grid(3))],
    "wgan": [("pictures/wgan.png", 6, 30, grid(0, 1, columns=range(4))), (FASHION, 16, 58, grid(5))],
    "vaegan": [
        ("pictures/vaegan.png", 10, 66, grid(1, columns=(0, 1, 2, 3, 5, 6, 7, 9))),
        ("pictures/vaegan-clothing.png", 4, 66, grid(1, 4, 5, 6, columns=(0, 1))),
    ],
    "cyclegan": [
        ("pictures/cyclegan.png", 6, 66, grid(0, 1, columns=(0, 1, 3, 4))),
        ("pictures/horse2zebra.png", 6, 66, grid(1, 5, columns=(0, 1, 3, 4))),
    ],
    "starGAN": [
        ("pictures/starGAN.png", 9, 68, grid(2, columns=range(8))),
        ("pictures/starGAN-clothing.png", 11, 66, grid(1, columns=(0, 1, 2, 5, 6, 7, 8, 10))),
    ],
    "bicyclegan": [
        ("pictures/bicyclegan.png", 12, 66, grid(0, columns=(0, 2, 4, 6, 7, 8, 10, 11))),
        ("pictures/facades.png", 12, 78, grid(1, columns=(0, 2, 3, 4, 5, 6, 7, 9))),
    ],
}


def tiles(path, columns, cell, wanted):
    """Cells (row, column) of a picture whose grid ends in its lower right corner."""
    sheet = Image.open(ROOT / path).convert("RGB")
    left, rows = sheet.width - columns * cell, sheet.height // cell
    top = sheet.height - rows * cell
    for row, column in wanted:
        x, y = left + column * cell, top + row * cell
        yield sheet.crop((x, y, x + cell - 4, y + cell - 4)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def main():
    font, label, gap, head, step = ImageFont.load_default(16), 96, 24, 26, SIDE + 2
    strip = MANY * step
    sheet = Image.new("RGB", (label + 2 * strip + gap, head + len(ROWS) * (step + 6)), "white")
    draw = ImageDraw.Draw(sheet)
    for side, title in enumerate(("the default run, built-in data", "real data")):
        draw.text((label + side * (strip + gap) + strip / 2, head / 2), title, fill="black", font=font, anchor="mm")
    for k, (script, strips) in enumerate(ROWS.items()):
        y = head + k * (step + 6)
        draw.text((label - 10, y + SIDE / 2), script, fill="black", font=font, anchor="rm")
        for side, (path, columns, cell, wanted) in enumerate(strips):
            for i, tile in enumerate(tiles(path, columns, cell, wanted)):
                sheet.paste(tile, (label + side * (strip + gap) + i * step, y))
    sheet.save(ROOT / "pictures" / "gallery.png")


if __name__ == "__main__":
    main()
