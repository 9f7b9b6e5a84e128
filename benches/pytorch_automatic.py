"""Times the official `SamAutomaticMaskGenerator` in the parts that `cargo bench --bench main automatic` measures of ours: a
photograph of 1500 x 2250, 32 x 32 points, no crops, `vit_b` with random weights.

    pip install -r tests/fixtures/requirements.txt
    python benches/pytorch_automatic.py network          # (a) the predicted IoU filter is shut: nothing survives
    python benches/pytorch_automatic.py after_network    # (b) made-up logits, several hundred masks survive
    python benches/pytorch_automatic.py whole            # (c) both
    python benches/pytorch_automatic.py network --points 16 --mobile    # MobileSAM (pip install mobilesam-mirror==1.0.0)

Random weights give masks of noise, on which the run-length code takes many minutes; so in (b) and (c) the decoder's answer
is replaced by soft ellipses, the same as in `benches/automatic.rs`. Everything else is the package's code.
"""

import argparse
import json
import resource
import time

import numpy as np

HEIGHT, WIDTH, SIDE = 1500, 2250, 256


def made_up(index):
    """Logits and predicted IoU of a mask."""
    point = index // 3
    cx, cy = np.float32((point % 32 + 0.5) * 8), np.float32((point // 32 + 0.5) * 171 / 32)
    radius = [3.0, 7.0, 20.0][index % 3] + index * 7 % 5
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    logits = np.clip(8 * (radius - np.sqrt((x - cx) ** 2 + 1.5 * (y - cy) ** 2)), -20, 20)
    return logits.astype(np.float32), np.float32(0.8 + 0.2 * (index * 37 % 101) / 101)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["network", "after_network", "whole"])
    parser.add_argument("--points", type=int, default=32, help="per side, for (a)")
    parser.add_argument("--mobile", action="store_true")
    args = parser.parse_args()
    part = args.part

    import torch

    if args.mobile:
        from mobile_sam import SamAutomaticMaskGenerator, sam_model_registry
    else:
        from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

    torch.manual_seed(0)
    sam = sam_model_registry["vit_t" if args.mobile else "vit_b"]().eval()
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    image = np.stack([x // 9, y // 7, x * y // 4096], -1).astype(np.uint8)

    # What is made up costs no time of the generator: the seconds of making it are taken off.
    at, made, asked = [0], [0.0, 0.0], sam.mask_decoder.forward

    def answer(**inputs):
        if part == "whole":
            asked(**inputs)
        started = time.perf_counter(), time.process_time()
        batch = [made_up(index) for index in range(at[0], at[0] + 3 * 64)]
        at[0] += 3 * 64
        logits = torch.from_numpy(np.stack([logits for logits, _ in batch]).reshape(64, 3, SIDE, SIDE))
        scores = torch.from_numpy(np.array([score for _, score in batch], np.float32).reshape(64, 3))
        made[0] += time.perf_counter() - started[0]
        made[1] += time.process_time() - started[1]
        return logits, scores

    if part != "network":
        sam.mask_decoder.forward = answer
    if part == "after_network":
        sam.image_encoder.forward = lambda pixels: torch.zeros(1, 256, 64, 64)
    generator = SamAutomaticMaskGenerator(sam, points_per_side=args.points, pred_iou_thresh=1e9 if part == "network" else 0.88,
                                          output_mode="coco_rle")
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    masks = generator.generate(image)
    seconds, after = time.perf_counter() - started - made[0], resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - made[1]
    print(json.dumps({"part": part, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "masks": len(masks),
                      "peak_mib": round(after.ru_maxrss / 1024)}))


main()
