"""Times a straightforward 5-click evaluation over the official PyTorch `SamPredictor`: the yardstick for `sam-train eval`.

    pip install -r tests/fixtures/requirements.txt pycocotools
    sam-train eval --checkpoint C --data datasets/photos --part val --protocol click --out out
    python benches/pytorch_eval.py --checkpoint C.pth --data datasets/photos --part val
    python benches/pytorch_eval.py --smoke --data datasets/photos    # a tiny network, seconds: does this script still run?

One image after the other, one object after the other, one click after the other, as published evaluation scripts do it:
`set_image` once per image, `predict` for each click with all clicks so far and the logits of the mask before, three masks
for the first click and the most confident of them taken, one mask for the others. The next click is RITM's rule
(`isegm/inference/clicker.py`): exact distance transforms of missed and of spilled pixels, padded by one, a clicked pixel
never again, ties negative, the first deepest pixel in reading order. IoU per click is printed, so that one sees that both
programs did the same work.

Without --checkpoint the weights are random (speed does not depend on them); nothing is downloaded.
"""

import argparse
import json
import pathlib
import resource
import sys
import time

import numpy as np


def build(checkpoint, smoke):
    import torch
    from segment_anything import sam_model_registry
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    torch.manual_seed(0)
    if smoke:
        return Sam(
            ImageEncoderViT(img_size=64, patch_size=8, embed_dim=24, depth=4, num_heads=2, out_chans=32,
                            use_rel_pos=True, window_size=3, global_attn_indexes=(1, 3)),
            PromptEncoder(embed_dim=32, image_embedding_size=(8, 8), input_image_size=(64, 64), mask_in_chans=16),
            MaskDecoder(transformer_dim=32, iou_head_hidden_dim=32,
                        transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=8)),
        ).eval()
    return sam_model_registry["vit_b"](checkpoint).eval()


def samples(data, part, max_images):
    """Images with their masks, as COCO has them."""
    from PIL import Image
    from pycocotools.coco import COCO

    coco = COCO(data / "annotations" / f"instances_{part}.json")
    for image in coco.loadImgs(coco.getImgIds()[:max_images]):
        pixels = np.asarray(Image.open(data / part / image["file_name"]).convert("RGB"))
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"], iscrowd=False))
        yield pixels, [coco.annToMask(annotation).astype(bool) for annotation in annotations]


def depth(error, not_clicked):
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(np.pad(error, 1))[1:-1, 1:-1] * not_clicked


def next_click(truth, prediction, not_clicked):
    missed, spilled = depth(truth & ~prediction, not_clicked), depth(~truth & prediction, not_clicked)
    positive = missed.max() > spilled.max()
    deepest = missed if positive else spilled
    row, column = np.unravel_index(np.argmax(deepest), deepest.shape)
    not_clicked[row, column] = False
    return [column, row], int(positive)


def evaluate(sam, data, part, max_images, clicks):
    """Seconds of the encoder and in all, and the IoU after each click by object."""
    from segment_anything import SamPredictor

    predictor, ious, encoder = SamPredictor(sam), [], 0.0
    start = time.perf_counter()
    for pixels, truths in samples(data, part, max_images):
        before = time.perf_counter()
        predictor.set_image(pixels)
        encoder += time.perf_counter() - before
        for truth in truths:
            prediction, not_clicked = np.zeros_like(truth), np.ones_like(truth)
            points, labels, logits, course = [], [], None, []
            for click in range(clicks):
                point, label = next_click(truth, prediction, not_clicked)
                points.append(point)
                labels.append(label)
                masks, scores, low_res = predictor.predict(np.array(points), np.array(labels), mask_input=logits,
                                                           multimask_output=click == 0)
                best = int(np.argmax(scores))
                prediction, logits = masks[best], low_res[best:best + 1]
                union = (prediction | truth).sum()
                course.append((prediction & truth).sum() / union if union else 0.0)
            ious.append(course)
    return encoder, time.perf_counter() - start, np.array(ious)


def main():
    import torch

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--checkpoint", help="official vit_b .pth")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a folder with annotations/instances_PART.json")
    parser.add_argument("--part", default="val")
    parser.add_argument("--max-images", type=int)
    parser.add_argument("--clicks", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="a tiny network instead of vit_b at 1024")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sam = build(args.checkpoint, args.smoke)
    encoder, seconds, ious = evaluate(sam, args.data, args.part, args.max_images, args.clicks)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(json.dumps({"torch": torch.__version__, "threads": args.threads, "objects": len(ious),
                      "seconds": round(seconds, 2), "encoder_seconds": round(encoder, 2),
                      "objects_per_second": round(len(ious) / seconds, 4), "peak_mib": round(peak),
                      "miou_per_click": [round(float(iou), 6) for iou in ious.mean(0)]}))


if __name__ == "__main__":
    main()
