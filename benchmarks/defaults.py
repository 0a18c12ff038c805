"""The default run of each of the eight scripts, three seeds where time allows: minutes, pictures, scores with floors.

python benchmarks/defaults.py --seeds 0 1 2
"""

import runs

INCEPTION = "--fid-dims 768"
ROWS = {
    "bicyclegan-edges2faces": dict(
        script="bicyclegan", measure=INCEPTION, picture="samples.png pictures/bicyclegan.png"
    ),
    "vae-digits": dict(script="vae", measure="", picture="samples.png pictures/vae-digits.png"),
    "dcgan-faces": dict(script="dcgan", measure="", picture="samples.png pictures/dcgan.png"),
    "cgan-digits": dict(script="cgan", measure="", picture="samples.png pictures/cgan-digits.png"),
    "wgan-digits": dict(script="wgan", measure="", picture="samples.png pictures/wgan.png"),
    "cyclegan-faces": dict(script="cyclegan", measure=INCEPTION, picture="translations.png pictures/cyclegan.png"),
    "vaegan-faces": dict(script="vaegan", measure=INCEPTION, picture="edits.png pictures/vaegan.png"),
    "starGAN-faces": dict(script="starGAN", measure="", picture="samples.png pictures/starGAN.png"),
}

if __name__ == "__main__":
    runs.table(
        "defaults", {name: {"flags": "", **how} for name, how in ROWS.items()}, runs.parser(__doc__).parse_args()
    )
