"""Times a masked autoencoder of PyTorch on the CPU, `transformers.ViTMAEForPreTraining`: the yardstick for our own benches
`mae_vit_b/..` (`cargo bench --bench main mae`). Run by hand:

    pip install -r tests/fixtures/requirements.txt
    python benches/pytorch_mae.py              # ViT-B at 224, 8 images, two threads
    python benches/pytorch_mae.py --threads 8
    python benches/pytorch_mae.py --attention eager    # as the authors' code computes it, instead of fused
    python benches/pytorch_mae.py --smoke      # a network of a few kilobytes, seconds: does this script still run?

Weights and images are random (speed does not depend on them), so nothing is downloaded. Each row is a process of its own,
because a process reports only the highest memory it ever had:

    load               the network alone, nothing run: what the other rows' memory starts from
    encoder whole      all patches of 8 images through the encoder, median of 3
    encoder visible    a quarter of them (ratio 0.75), median of 5; the noise that removes patches is made beforehand
    train step         loss on normalised pixels and the gradient of every parameter, median of 3; no optimiser, as in ours

One untimed run comes before the timed ones. The first two run without gradients. Leave the machine alone meanwhile: with a
thread per core, PyTorch's threads wait for each other, and anything else that runs makes them slower by factors.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

ROWS = {"load": 0, "encoder whole": 3, "encoder visible": 5, "train step": 3}  # timed runs
IMAGES, RATIO = 8, 0.75


def build(smoke, attention):
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    sizes = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96, image_size=64,
                 decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
                 decoder_intermediate_size=64) if smoke else {}
    # The defaults are ViT-B's: 768 x 12, patch 16 at 224, decoder 512 x 8.
    config = ViTMAEConfig(mask_ratio=RATIO, norm_pix_loss=True, attn_implementation=attention, **sizes)
    return ViTMAEForPreTraining(config)


def work(model, row):
    """The function of a row that is timed, with its inputs already made."""
    import torch

    size, patch = model.config.image_size, model.config.patch_size
    images = torch.randn(IMAGES, 3, size, size)
    noise = torch.rand(IMAGES, (size // patch) ** 2)
    if row == "train step":
        model.train()

        def step():
            model.zero_grad(set_to_none=True)
            model(images, noise=noise).loss.backward()

        return step

    encoder = model.vit.eval()
    # At a ratio of 0 the noise decides only the order, which attention does not know.
    encoder.embeddings.config.mask_ratio = 0.0 if row == "encoder whole" else RATIO

    def encode():
        with torch.inference_mode():
            tokens = encoder(images, noise=noise).last_hidden_state
        expected = 1 + int(noise.shape[1] * (1 - encoder.embeddings.config.mask_ratio))
        assert tokens.shape[1] == expected, f"{tokens.shape[1]} tokens instead of {expected}"

    return encode


def measure(row, args):
    """Runs in the process of one row: seconds (None for "load") and peak memory."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    model, seconds = build(args.smoke, args.attention), []
    if ROWS[row]:
        run = work(model, row)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            run()
            for _ in range(ROWS[row]):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak_bytes = peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes
    return {"seconds": seconds, "peak_bytes": peak_bytes, "torch": torch.__version__}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--smoke", action="store_true", help="a tiny network instead of ViT-B at 224")
    parser.add_argument("--bf16", action="store_true", help="autocast to bf16")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)  # set for the processes started below
    args = parser.parse_args()
    if args.row:
        print(json.dumps(measure(args.row, args)))
        return

    # torch is imported in the children only: on Linux a child's peak memory starts at its parent's.
    flags = ["--threads", str(args.threads), "--attention", args.attention] + ["--smoke"] * args.smoke + ["--bf16"] * args.bf16
    results = {}
    for row in ROWS:
        done = subprocess.run([sys.executable, __file__, "--row", row, *flags], stdout=subprocess.PIPE, check=True)
        results[row] = json.loads(done.stdout)
    model = "smoke network at 64" if args.smoke else "ViT-B at 224"
    print(f"transformers ViTMAEForPreTraining {model}, {IMAGES} images, ratio {RATIO}, {args.attention} attention, torch "
          f"{results['load']['torch']}, CPU, {args.threads} threads, {'bf16 autocast' if args.bf16 else 'f32'}")
    print(f"{'':18}{'median':>12}{'least to most':>24}{'images/s':>12}{'peak RSS':>12}")
    for row, result in results.items():
        seconds, columns = result["seconds"], [""] * 3
        if seconds:
            median = statistics.median(seconds)
            columns = [f"{median:.3f} s", f"{min(seconds):.3f} to {max(seconds):.3f} s", f"{IMAGES / median:.2f}"]
        print(f"{row:18}{columns[0]:>12}{columns[1]:>24}{columns[2]:>12}{result['peak_bytes'] / 2**20:>8.0f} MiB")


if __name__ == "__main__":
    main()
