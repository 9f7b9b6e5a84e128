"""Times training steps of the official PyTorch `segment_anything`: the yardstick for our own, `sam-train bench`. Run by hand:

    pip install -r tests/fixtures/requirements.txt
    python benches/pytorch_training.py decoder    # vit_b's decoder at 1024: 8 objects, 11 passes
    python benches/pytorch_training.py decoder --encoder cached      # the encoder is frozen: no gradient of its embedding
    python benches/pytorch_training.py decoder --encoder each-step   # a frozen vit_b runs in each step
    python benches/pytorch_training.py step       # a small network from pixels on: 8 images x 4 objects, 4 passes
    python benches/pytorch_training.py step --image-size 128 --patch 16 --dim 192 --images 4    # or of any other size
    python benches/pytorch_training.py step --mobile --images 1 --objects 1 --passes 11    # MobileSAM, statistics frozen
    python benches/pytorch_training.py step --vit-b --images 1 --objects 8 --passes 11 --phases    # beside `sam-train bench`
    python benches/pytorch_training.py step --vit-b --images 4 --objects 8 --passes 11 --device cuda --bf16 --phases
    python benches/pytorch_training.py decoder --objects 1 --passes 1 --repeats 1    # does this script still run?

    decoder    prompt encoder and mask decoder learn from a made-up embedding of one image, as when embeddings are
               cached. The embedding's gradient is computed, too, as a step that also trains the encoder needs it, unless
               `--encoder` says that the encoder is frozen
    step       the encoder once for all images, then the passes, then back through the encoder

Both are the recipe of the SAM paper: of the objects, half are first prompted with a box and half with a point; the
first pass gives three masks, each later one a single mask from a new click and the logits of the pass before; the last
pass, and pass 4 if that is another, bring no click. The loss is 20 * focal + dice of the best mask at low resolution
plus the squared error of its IoU. Each pass goes backward by itself, into the embedding and no further, so memory does
not grow with the number of passes. Then gradients are clipped to norm 1 and AdamW steps. Weights, images, masks and
clicks are random, as speed does not depend on them; what is left out is finding the clicks in the errors.

The official decoder takes the objects of one image per call. `step` gives it an embedding per object instead, so that
one call has all objects (as SAM 2's decoder can); `--per-image` calls it as released, image by image.

Printed are the median of the timed steps, after one that is not timed, and the most memory the process ever had: all of
it, and what importing PyTorch and the package alone had taken; on a GPU its own. All cores are used unless `--threads` says
otherwise. `--bf16` is autocast, with f32 weights. `--phases` waits for the device at the ends of each part of a step, and times
f32 products of two 2048 x 2048 matrices, too.
"""

import argparse
import os
import resource
import statistics
import sys
import time
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import nn

GRID_TO_MASK = 4
CLICKLESS = 4


class Clock:
    """Seconds of the parts of a step; off, it costs nothing."""

    def __init__(self, is_on, device, bf16):
        self.is_on, self.device, self.bf16, self.seconds = is_on, torch.device(device), bf16, {}

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @contextmanager
    def phase(self, name):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16 and name.endswith("forward")):
            if not self.is_on:
                yield
                return
            self.wait()
            start = time.perf_counter()
            yield
            self.wait()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


CLOCK = None


class AnyImages(MaskDecoder):
    """Takes an embedding per object."""

    def predict_masks(self, image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings):
        objects = len(image_embeddings)
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(objects, -1, -1)
        tokens = torch.cat([own, sparse_prompt_embeddings], dim=1)
        positions = image_pe.expand(objects, -1, -1, -1)
        hidden, image = self.transformer(image_embeddings + dense_prompt_embeddings, positions, tokens)
        upscaled = self.output_upscaling(image.transpose(1, 2).reshape(image_embeddings.shape))
        weights = torch.stack([mlp(hidden[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1)
        masks = (weights @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
        return masks, self.iou_prediction_head(hidden[:, 0])


def build_decoder(kind, size, grid, dim, heads, mlp):
    prompts = PromptEncoder(embed_dim=dim, image_embedding_size=(grid, grid), input_image_size=(size, size),
                            mask_in_chans=16)
    decoder = kind(transformer_dim=dim, iou_head_hidden_dim=dim,
                   transformer=TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=mlp, num_heads=heads))
    return prompts, decoder


def build_encoder(args):
    if args.mobile:
        from mobile_sam import sam_model_registry  # pip install mobilesam-mirror==1.0.0

        encoder = sam_model_registry["vit_t"]().image_encoder.train()
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return encoder
    blocks = range(args.depth) if args.window == 0 else args.global_blocks
    return ImageEncoderViT(img_size=args.image_size, patch_size=args.patch, embed_dim=args.dim, depth=args.depth,
                           num_heads=args.heads, out_chans=args.decoder_dim, use_rel_pos=True, window_size=args.window,
                           norm_layer=partial(nn.LayerNorm, eps=1e-6), global_attn_indexes=tuple(blocks))


def discs(objects, side):
    """Truth of any kind: [objects, 1, side, side]."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    centres, radii = torch.rand(objects, 2, 1, 1) * side, (0.1 + 0.2 * torch.rand(objects, 1, 1)) * side
    return ((x - centres[:, 0]) ** 2 + (y - centres[:, 1]) ** 2 < radii**2)[:, None].float()


class Prompts:
    """First prompts and the clicks so far. Box = two corners, point = click and the padding token: as many tokens."""

    def __init__(self, objects, size):
        self.size, self.boxed = size, objects // 2
        corners = torch.rand(self.boxed, 2, 2) * size
        self.boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
        self.first = torch.rand(objects - self.boxed, 1, 2) * size
        self.coords, self.labels = torch.zeros(objects, 0, 2), torch.zeros(objects, 0)

    def click(self):
        objects = len(self.coords)
        self.coords = torch.cat([self.coords, torch.rand(objects, 1, 2) * self.size], dim=1)
        self.labels = torch.cat([self.labels, torch.randint(2, (objects, 1)).float()], dim=1)

    def encode(self, encoder, masks):
        part, embedded = slice(0, self.boxed), []
        if self.boxed:
            points = (self.coords[part], self.labels[part]) if self.coords.shape[1] else None
            embedded.append(encoder(points, self.boxes, None if masks is None else masks[part]))
        part = slice(self.boxed, None)
        points = torch.cat([self.first, self.coords[part]], dim=1)
        labels = torch.cat([torch.ones(len(points), 1), self.labels[part]], dim=1)
        embedded.append(encoder((points, labels), None, None if masks is None else masks[part]))
        return [torch.cat(parts) for parts in zip(*embedded)]


def object_losses(logits, iou_predictions, truth):
    """[objects]; `logits` [objects, masks, side, side]."""
    p, t = logits.sigmoid(), truth.expand_as(logits)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, t, reduction="none")
    missed = p + t - 2 * p * t
    focal = ((0.75 - 0.5 * t) * missed**2 * cross_entropy).mean((2, 3))
    dice = 1 - (2 * (p * t).sum((2, 3)) + 1) / (p.sum((2, 3)) + t.sum((2, 3)) + 1)
    mask_loss = 20 * focal + dice
    chosen = mask_loss.argmin(1, keepdim=True)
    on, wanted = logits > 0, truth > 0.5
    actual = (on & wanted).sum((2, 3)) / (on | wanted).sum((2, 3)).clamp(min=1)
    return (mask_loss + (iou_predictions - actual) ** 2).gather(1, chosen)[:, 0]


def run_passes(prompt_encoder, decode, prompts, truth, passes):
    """Forward and backward of all passes; the sum of their losses."""
    masks, total = None, 0.0
    for number in range(passes):
        if number > 0 and number not in (CLICKLESS, passes - 1):
            prompts.click()
        with CLOCK.phase("decoder forward"):
            logits, iou = decode(*prompts.encode(prompt_encoder, masks), number == 0)
        logits, iou = logits.float(), iou.float()
        with CLOCK.phase("loss"):
            loss = object_losses(logits, iou, truth).mean() / passes
        with CLOCK.phase("decoder backward"):
            loss.backward()
        total += loss.item()
        best = iou.argmax(1)
        masks = logits.detach()[torch.arange(len(best)), best][:, None]
    return total


def optimiser_step(optimiser, parameters):
    with CLOCK.phase("clip"):
        nn.utils.clip_grad_norm_(parameters, 1.0)
    with CLOCK.phase("optimiser"):
        optimiser.step()
        optimiser.zero_grad()


def decoder_step(args):
    """A function that does a step, and a line that says of what."""
    size, grid, dim = 1024, 64, 256
    prompt_encoder, decoder = build_decoder(MaskDecoder, size, grid, dim, heads=8, mlp=2048)
    parameters = [*prompt_encoder.parameters(), *decoder.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=8e-4, weight_decay=0.1)
    embedding, truth = torch.randn(1, dim, grid, grid), discs(args.objects, GRID_TO_MASK * grid)
    encoder, image = None, torch.randn(1, 3, size, size)
    if args.encoder == "each-step":
        encoder = ImageEncoderViT(img_size=size, depth=12, embed_dim=768, num_heads=12, out_chans=dim, window_size=14,
                                  norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, qkv_bias=True,
                                  global_attn_indexes=(2, 5, 8, 11)).requires_grad_(False)

    def step():
        positions = prompt_encoder.get_dense_pe()
        if encoder is not None:
            with torch.no_grad(), CLOCK.phase("encoder forward"):
                leaf = encoder(image)
            leaf = leaf.float()
        else:
            leaf = embedding.clone().requires_grad_(args.encoder is None)
        decode = lambda sparse, dense, several: decoder(leaf, positions, sparse, dense, several)
        total = run_passes(prompt_encoder, decode, Prompts(args.objects, size), truth, args.passes)
        optimiser_step(optimiser, parameters)
        return total

    frozen = f", encoder frozen, {args.encoder}" if args.encoder else ""
    return step, f"vit_b's decoder at 1024, 1 embedding, {args.objects} objects, {args.passes} passes{frozen}"


def whole_step(args):
    """A function that does a step, and a line that says of what."""
    if args.mobile or args.vit_b:
        args.image_size, args.patch, args.decoder_dim = 1024, 16, 256
    if args.vit_b:
        args.dim, args.depth, args.heads, args.window, args.global_blocks = 768, 12, 12, 14, [2, 5, 8, 11]
    size, grid, objects = args.image_size, args.image_size // args.patch, args.images * args.objects
    encoder = build_encoder(args)
    prompt_encoder, decoder = build_decoder(MaskDecoder if args.per_image else AnyImages, size, grid, args.decoder_dim,
                                            args.decoder_heads, args.decoder_mlp or 8 * args.decoder_dim)
    parameters = [*encoder.parameters(), *prompt_encoder.parameters(), *decoder.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=8e-4, weight_decay=0.1)
    images, truth = torch.randn(args.images, 3, size, size), discs(objects, GRID_TO_MASK * grid)
    # Every image has boxes and points.
    image_index = torch.arange(objects) % args.images
    of_image = [torch.nonzero(image_index == i)[:, 0] for i in range(args.images)]
    back_in_order = torch.cat(of_image).argsort()

    def step():
        with CLOCK.phase("encoder forward"):
            embedding = encoder(images)
        embedding = embedding.float()
        leaf, positions = embedding.detach().requires_grad_(), prompt_encoder.get_dense_pe()

        def decode(sparse, dense, several):
            if not args.per_image:
                return decoder(leaf[image_index], positions, sparse, dense, several)
            each = [decoder(leaf[i][None], positions, sparse[own], dense[own], several)
                    for i, own in enumerate(of_image)]
            return [torch.cat(parts)[back_in_order] for parts in zip(*each)]

        total = run_passes(prompt_encoder, decode, Prompts(objects, size), truth, args.passes)
        with CLOCK.phase("encoder backward"):
            embedding.backward(leaf.grad)
        optimiser_step(optimiser, parameters)
        return total

    count = sum(parameter.numel() for parameter in parameters)
    kind = "TinyViT" if args.mobile else f"patch {args.patch}, encoder {args.depth} x {args.dim}, window {args.window}"
    return step, (f"{count:,} parameters at {size}, {kind}, decoder {args.decoder_dim}; {args.images} images x "
                  f"{args.objects} objects, {args.passes} passes{', image by image' * args.per_image}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    decoder = modes.add_parser("decoder", help="vit_b's decoder on a cached embedding")
    decoder.add_argument("--encoder", choices=["cached", "each-step"], help="it is frozen")
    whole = modes.add_parser("step", help="a small network from pixels on")
    for mode, objects, passes, repeats in [(decoder, 8, 11, 3), (whole, 4, 4, 5)]:
        mode.add_argument("--objects", type=int, default=objects, help="per image")
        mode.add_argument("--passes", type=int, default=passes)
        mode.add_argument("--repeats", type=int, default=repeats, help="timed steps")
        mode.add_argument("--threads", type=int, default=os.cpu_count())
        mode.add_argument("--device", default="cpu", help="cpu or cuda")
        mode.add_argument("--bf16", action="store_true", help="autocast to bf16")
        mode.add_argument("--phases", action="store_true", help="what the parts of a step take")
    for name, default in [("image-size", 64), ("patch", 8), ("dim", 96), ("depth", 4), ("heads", 4), ("images", 8),
                          ("decoder-dim", 64), ("decoder-heads", 8)]:
        whole.add_argument(f"--{name}", type=int, default=default)
    whole.add_argument("--decoder-mlp", type=int, help="8 * decoder-dim, as in vit_b, unless given")
    whole.add_argument("--window", type=int, default=0, help="0: every block is global")
    whole.add_argument("--global-blocks", type=int, nargs="*", default=[], help="with a window, the blocks without")
    whole.add_argument("--vit-b", action="store_true", help="vit_b at 1024, whatever the sizes above")
    whole.add_argument("--mobile", action="store_true", help="MobileSAM at 1024, whatever the sizes above")
    whole.add_argument("--per-image", action="store_true", help="call the decoder once per image, as released")
    return parser.parse_args()


def peak_mib():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # macOS counts bytes, Linux kilobytes


def main():
    global CLOCK
    args, imported_mib = arguments(), peak_mib()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    torch.set_default_device(args.device)
    CLOCK = Clock(args.phases, args.device, args.bf16)
    step, what = (decoder_step if args.mode == "decoder" else whole_step)(args)
    first_loss, seconds, phases = step(), [], []
    for _ in range(args.repeats):
        CLOCK.seconds = {}
        CLOCK.wait()
        start = time.perf_counter()
        step()
        CLOCK.wait()
        seconds.append(time.perf_counter() - start)
        phases.append(CLOCK.seconds)
    precision = "bf16 autocast" if args.bf16 else "f32"
    print(f"segment_anything, torch {torch.__version__}, {args.device}, {args.threads} threads, {precision}: {what}")
    print(f"step {statistics.median(seconds):.3f} s, median of {args.repeats} "
          f"({min(seconds):.3f} to {max(seconds):.3f}); first loss {first_loss:.4f}; "
          f"peak RSS {peak_mib():.0f} MiB, {imported_mib:.0f} of it imports")
    if args.device == "cuda":
        print(f"peak memory of the GPU {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
    if args.phases:
        a, b, products = torch.rand(2048, 2048), torch.rand(2048, 2048), []
        for _ in range(6):
            CLOCK.wait()
            start = time.perf_counter()
            a @ b
            CLOCK.wait()
            products.append(time.perf_counter() - start)
        print(f"matrix products of f32: {2 * 2048**3 / min(products) / 1e9:.0f} GFLOP/s")
        for name in phases[0]:
            took = statistics.median(phase[name] for phase in phases)
            print(f"{name:<18}{took:>10.4f} s {100 * took / statistics.median(seconds):>6.1f} %")


if __name__ == "__main__":
    main()
