"""The runs of README on photographs, and BicycleGAN's default run without its latent losses.

    python benchmarks/photographs.py --clothing photos/clothing --shoes photos/shoes --horse2zebra horse2zebra

clothing: class folders of ten kinds of clothes; shoes: pairs, edges left; horse2zebra: its name, or a folder.
"""

import runs

if __name__ == "__main__":
    parser = runs.parser(__doc__)
    for name in ("clothing", "shoes", "horse2zebra"):
        parser.add_argument(f"--{name}", default=name if name == "horse2zebra" else f"photos/{name}", help="a folder")
    args = parser.parse_args()
    horse2zebra = "--image-size 64 --epochs 16 --decay-from 8 --jitter --flip --ngf 32 --ndf 32 --blocks 6 --no-mask"
    shoes = "--input-channels 1 --flip --batch-size 8 --ndf 32 --epochs 120 --decay-from 60"
    flags = {
        "bicyclegan-no-latent-losses": "--lambda-latent 0 --lambda-kl 0",
        "bicyclegan-shoes": f"--dataset {args.shoes} {shoes}",
        "vaegan-clothing": f"--dataset {args.clothing} --epochs 12 --decay-from 6",
        "starGAN-clothing": f"--dataset {args.clothing} --image-size 64 --epochs 16 --decay-from 8",
        "cyclegan-horse2zebra": f"--dataset {args.horse2zebra} {horse2zebra}",
    }
    rows = {}
    for name, own in flags.items():
        rows[name] = dict(script=name.partition("-")[0], flags=own, measure="--fid-dims 768")
    runs.table("photographs", rows, args)
