"""BicycleGAN on facades, labels to photos, with and without its latent losses (L1 of the code, KL).

python datasets.py facades --download && python benchmarks/facades.py
"""

import runs

FACADES = (
    "--dataset facades --direction BtoA --image-size 128 --flip --batch-size 4 --ngf 32 --ndf 32 --nef 32 "
    "--no-conditional-d --epochs 50 --decay-from 25"
)
HOW = dict(script="bicyclegan", measure="--fid-dims 768")
ROWS = {
    "bicyclegan-facades": dict(HOW, flags=FACADES, picture="samples.png pictures/facades.png"),
    "bicyclegan-facades-no-latent-losses": dict(
        HOW,
        flags=f"{FACADES} --lambda-latent 0 --lambda-kl 0",
        picture="samples.png pictures/facades-no-latent-losses.png",
    ),
}

if __name__ == "__main__":
    runs.table("facades", ROWS, runs.parser(__doc__).parse_args())
