"""vae.py, dcgan.py, cgan.py, wgan.py on MNIST and Fashion-MNIST; the VAE's other prior and heads; points in the plane.

python benchmarks/single_images.py       downloads both sets, 43 MB; the default runs are those of defaults.py
"""

import runs

FASHION, POINTS = "--dataset fashion-mnist --epochs 10", "--epochs 80 --dataset"
ROWS = {  # name: flags; the first part of the name is the script
    "vae-digits-gmm": "",
    "vae-fashion-mnist": FASHION,
    "vae-fashion-mnist-gmm": FASHION,
    "vae-relu-heads": f"{FASHION} --relu-heads",
    "vae-mnist": "--dataset mnist --nz 20 --epochs 10",
    "dcgan-mnist": "--dataset mnist --image-size 28 --epochs 3 --batch-size 64 --lr 2e-4",
    "cgan-mnist": "--dataset mnist --epochs 3",
    "wgan-mnist": "--dataset mnist --epochs 6",
    "wgan-8gaussians-gp": f"{POINTS} 8gaussians",
    "wgan-8gaussians-clip": f"{POINTS} 8gaussians --lipschitz clip",
    "wgan-8gaussians-sn": f"{POINTS} 8gaussians --lipschitz sn",
    "wgan-25gaussians-gp": f"{POINTS} 25gaussians",
    "wgan-swissroll-gp": f"{POINTS} swissroll",
}

if __name__ == "__main__":
    rows = {}
    for name, flags in ROWS.items():
        measure = "--prior gmm" if name.endswith("gmm") else ""
        rows[name] = dict(script=name.partition("-")[0], flags=flags, measure=measure)
    runs.table("single-images", rows, runs.parser(__doc__).parse_args())
