"""CycleGAN on horse2zebra at 64 px, with and without the consistency regularisation of D (--cr fake, the course's).

python datasets.py horse2zebra --download && python benchmarks/horse2zebra.py
"""

import runs

PHOTOS = (
    "--dataset horse2zebra --image-size 64 --jitter --flip --ngf 32 --ndf 32 --blocks 6 --no-mask "
    "--epochs 5 --decay-from 2"
)
HOW = dict(script="cyclegan", measure="--fid-dims 768")
ROWS = {
    "cyclegan-horse2zebra-no-cr": dict(HOW, flags=PHOTOS, picture="translations.png pictures/horse2zebra-no-cr.png"),
    "cyclegan-horse2zebra-cr-fake": dict(
        HOW, flags=f"{PHOTOS} --cr fake", picture="translations.png pictures/horse2zebra-cr-fake.png"
    ),
}

if __name__ == "__main__":
    runs.table("horse2zebra", ROWS, runs.parser(__doc__).parse_args())
