"""The same networks, steps and faces as a VAE/GAN and as a VAE, whose likelihood is a Gaussian on pixels.

python benchmarks/vae_vaegan.py
"""

import runs

HOW = dict(script="vaegan", measure="--fid-dims 768")
ROWS = {
    "vaegan-faces": dict(HOW, flags="", picture="reconstructions.png pictures/vaegan-reconstructions.png"),
    "vaegan-faces-vae": dict(HOW, flags="--model vae", picture="reconstructions.png pictures/vaegan-vae.png"),
}

if __name__ == "__main__":
    runs.table("vae-vaegan", ROWS, runs.parser(__doc__).parse_args())
