"""Times the official PyTorch `segment_anything` on the CPU: the yardstick for our own benches. Run by hand:

    pip install -r tests/fixtures/requirements.txt
    python benches/pytorch.py              # vit_b at 1024, two threads
    python benches/pytorch.py --threads 8
    python benches/pytorch.py --bf16       # autocast
    python benches/pytorch.py --mobile     # MobileSAM's encoder instead (pip install mobilesam-mirror==1.0.0)
    python benches/pytorch.py --smoke      # a network of a few kilobytes, seconds: does this script still run?

Weights are random (speed does not depend on them), so nothing is downloaded. Each row is a process of its own, because
a process reports only the highest memory it ever had:

    load            the network alone, nothing run: what the other rows' memory starts from
    encoder         one image through the encoder, median of 3
    block ..        one block of it, over the whole grid or in windows, median of 5; `back` with gradients of all
                    parameters and of its input, median of 3
    decode 1/64     prompt encoder and mask decoder for 1 or 64 objects of one click each, down to the three
                    low-resolution masks per object, median of 5; the image embedding is made up, the encoder not run

One untimed run comes before the timed ones.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

ROWS = {"load": 0, "encoder": 3, "block global": 5, "block global back": 3, "block window": 5, "block window back": 3,
        "decode 1": 5, "decode 64": 5}  # timed runs


def build(args):
    if args.mobile:
        from mobile_sam import sam_model_registry

        return sam_model_registry["vit_t"]().eval()
    from segment_anything import sam_model_registry
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    if not args.smoke:
        return sam_model_registry["vit_b"]().eval()
    return Sam(
        ImageEncoderViT(img_size=64, patch_size=8, embed_dim=24, depth=4, num_heads=2, out_chans=32, use_rel_pos=True,
                        window_size=3, global_attn_indexes=(1, 3)),
        PromptEncoder(embed_dim=32, image_embedding_size=(8, 8), input_image_size=(64, 64), mask_in_chans=16),
        MaskDecoder(transformer_dim=32, iou_head_hidden_dim=32,
                    transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=8)),
    ).eval()


def work(sam, row):
    """The function of a row that is timed, with its inputs already made."""
    import torch

    size = sam.image_encoder.img_size
    if row == "encoder":
        image = torch.randn(1, 3, size, size)
        return lambda: sam.image_encoder(image)

    if row.startswith("block"):
        encoder, back = sam.image_encoder, row.endswith("back")
        block = next(b for b in encoder.blocks if (b.window_size == 0) == ("global" in row))
        grid = size // encoder.patch_embed.proj.kernel_size[0]
        x = torch.randn(1, grid, grid, encoder.pos_embed.shape[-1], requires_grad=back)

        def through():
            y = block(x)
            if back:
                y.sum().backward()
                for leaf in [x, *block.parameters()]:
                    leaf.grad = None

        return through

    objects = int(row.split()[1])
    embedding = torch.randn(1, sam.prompt_encoder.embed_dim, *sam.prompt_encoder.image_embedding_size)
    clicks = torch.rand(objects, 1, 2) * size, torch.ones(objects, 1)

    def decode():
        sparse, dense = sam.prompt_encoder(points=clicks, boxes=None, masks=None)
        return sam.mask_decoder(image_embeddings=embedding, image_pe=sam.prompt_encoder.get_dense_pe(),
                                sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=True)

    return decode


def measure(row, args):
    """Runs in the process of one row: seconds (None for "load") and peak memory."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    sam, seconds = build(args), []
    if ROWS[row]:
        with torch.inference_mode(not row.endswith("back")), torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            run = work(sam, row)
            run()
            for _ in range(ROWS[row]):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_bytes = peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes
    return {"seconds": statistics.median(seconds) if seconds else None, "peak_bytes": peak_bytes,
            "torch": torch.__version__}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="a tiny network instead of vit_b at 1024")
    parser.add_argument("--bf16", action="store_true", help="autocast to bf16")
    parser.add_argument("--mobile", action="store_true", help="MobileSAM, whose decoder is vit_b's: its encoder only")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)  # set for the processes started below
    args = parser.parse_args()
    if args.row:
        print(json.dumps(measure(args.row, args)))
        return

    # torch is imported in the children only: on Linux a child's peak memory starts at its parent's.
    flags = ["--threads", str(args.threads)] + ["--smoke"] * args.smoke + ["--mobile"] * args.mobile + ["--bf16"] * args.bf16
    results = {}
    for row in ["load", "encoder"] if args.mobile else ROWS:
        done = subprocess.run([sys.executable, __file__, "--row", row, *flags], stdout=subprocess.PIPE, check=True)
        results[row] = json.loads(done.stdout)
    model = "smoke network at 64" if args.smoke else "mobile_sam at 1024" if args.mobile else "vit_b at 1024"
    print(f"{model}, torch {results['load']['torch']}, CPU, {args.threads} threads, {'bf16 autocast' if args.bf16 else 'f32'}")
    print(f"{'':18}{'median':>12}{'peak RSS':>12}")
    for row, result in results.items():
        seconds = "" if result["seconds"] is None else f"{1000 * result['seconds']:.1f} ms"
        print(f"{row:18}{seconds:>12}{result['peak_bytes'] / 2**20:>8.0f} MiB")


if __name__ == "__main__":
    main()
