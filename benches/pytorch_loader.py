"""The reference for `benches/loader.rs`, on the same files: DataLoader with 2 workers, PIL and pycocotools.

    SAM_TRAIN_BENCH_SA1B=/tmp/sa1b cargo bench --bench main -- loader      # writes the files
    python benches/pytorch_loader.py /tmp/sa1b [--mask-side 256]
"""

import argparse
import json
import pathlib
import time

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

SIDE_PX, N_MASKS, BATCH, N_EPOCHS = 1024, 16, 2, 3


class Pairs(torch.utils.data.Dataset):
    def __init__(self, folder, mask_side_px):
        self.files = sorted(folder.glob("sa_*.json"))
        self.mask_side_px = mask_side_px

    def __len__(self):
        return len(self.files) * N_EPOCHS

    def __getitem__(self, index):
        path = self.files[index % len(self.files)]
        annotations = json.loads(path.read_text())["annotations"]
        image = Image.open(path.with_suffix(".jpg")).convert("RGB")
        scale = SIDE_PX / max(image.size)
        size = tuple(int(v * scale + 0.5) for v in image.size)
        pixels = torch.zeros(SIDE_PX, SIDE_PX, 3, dtype=torch.uint8)
        pixels[: size[1], : size[0]] = torch.from_numpy(np.array(image.resize(size, Image.BILINEAR)))
        chosen = np.random.permutation(len(annotations))[:N_MASKS]
        masks = torch.zeros(N_MASKS, self.mask_side_px, self.mask_side_px, dtype=torch.uint8)
        mask_size = tuple(max(1, round(v * self.mask_side_px / SIDE_PX)) for v in size)
        for i, k in enumerate(chosen):
            mask = Image.fromarray(coco_mask.decode(annotations[k]["segmentation"]))
            masks[i, : mask_size[1], : mask_size[0]] = torch.from_numpy(np.array(mask.resize(mask_size, Image.NEAREST)))
        return pixels, masks


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--mask-side", type=int, default=256)
    arguments = parser.parse_args()
    data = Pairs(arguments.folder, arguments.mask_side)
    for _ in range(3):
        batches = iter(torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=2, prefetch_factor=2))
        next(batches)
        start, n = time.perf_counter(), 0
        for _ in batches:
            n += 1
        seconds = (time.perf_counter() - start) / n
        print(f"{seconds:.3f} s per batch of {BATCH}, {BATCH / seconds:.1f} images/s")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
