"""CycleGAN on horse2zebra at 64 px, with and without the consistency regularisation of D (--cr fake, the course's).

python benchmarks/horse2zebra.py                                  downloads horse2zebra, 117 MB
python benchmarks/horse2zebra.py --dataset photos/horse2zebra     a folder with trainA, trainB, testA, testB
"""

import runs

FLAGS = "--image-size 64 --jitter --flip --ngf 32 --ndf 32 --blocks 6 --no-mask --epochs 5 --decay-from 2"

if __name__ == "__main__":
    parser = runs.parser(__doc__)
    parser.add_argument("--dataset", default="horse2zebra", help="its name, or a folder")
    args = parser.parse_args()
    rows = {}
    for name, own in {"no-cr": "", "cr-fake": " --cr fake"}.items():
        rows[f"cyclegan-horse2zebra-{name}"] = {
            "script": "cyclegan",
            "flags": f"--dataset {args.dataset} {FLAGS}{own}",
            "measure": "--fid-dims 768",
            "picture": f"translations.png pictures/horse2zebra-{name}.png",
        }
    runs.table("horse2zebra", rows, args)
