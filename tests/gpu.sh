#!/usr/bin/env bash
# The tests of numbers (goldens, gradients, losses, prompts, optimiser, resume) on a GPU, or on a software driver:
#
#   tests/gpu.sh            # the software driver of Mesa, which any machine has or can install
#   tests/gpu.sh wgpu       # the machine's own GPU, through Vulkan, Metal or DirectX
#   tests/gpu.sh cuda       # an NVIDIA GPU
#
# Builds with the device's feature in a target folder of its own (target/gpu), installs nothing, and says what is missing. At last the
# quickstart's first steps there are compared with the CPU's. Arguments after the device go to the test program: names of tests.
set -euo pipefail
cd "$(dirname "$0")/.."
device="${1:-software}"
[ $# -eq 0 ] || shift
feature="$device"
features="$device"
[ "$device" != wgpu ] || features=wgpu,autotune
if [ "$device" = software ]; then
  feature=wgpu
  features=wgpu
  driver=""
  for file in /usr/share/vulkan/icd.d/lvp_icd*.json /etc/vulkan/icd.d/lvp_icd*.json; do
    [ ! -f "$file" ] || driver="$file"
  done
  if [ -z "$driver" ]; then
    echo "There is no software driver for Vulkan; install Mesa's (Debian, Ubuntu: apt install mesa-vulkan-drivers)." >&2
    exit 2
  fi
  export VK_DRIVER_FILES="$driver" VK_ICD_FILENAMES="$driver"
  echo "driver: $driver"
fi
if [ -z "${XDG_RUNTIME_DIR:-}" ]; then
  XDG_RUNTIME_DIR="$(mktemp -d)"
  export XDG_RUNTIME_DIR
fi
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target/gpu}" SAM_TRAIN_TEST_DEVICE="$feature"

tests=(golden:: gradients:: block:: learning:: mae:: lora:: text:: tiny_vit:: training_behaviour:: training_runs:: pretraining::)
[ $# -eq 0 ] || tests=("$@")
# One at a time: they share the device and its memory. 400 steps of a training take an hour on a software driver.
skipped=()
[ "$device" != software ] || skipped=(--skip a_model_overfits_four_images)
cargo test --release -p sam-train --features "$features" --test main -- --test-threads 1 "${skipped[@]}" "${tests[@]}"

program="$CARGO_TARGET_DIR/release/sam-train"
runs="$(mktemp -d)"
trap 'rm -rf "$runs"' EXIT
losses() {
  "$program" --config configs/quickstart.toml --plain --set "run.dir=$runs/$1" --set "run.device=$1" --set schedule.steps=20 \
    --set schedule.warmup_steps=10 --set validation.every_steps=20 --set validation.baseline=false --set validation.max_images=2 \
    --set log.every_steps=1 --set run.parallel=1 --set log.tensorboard=false >/dev/null
  grep '"event":"step"' "$runs/$1/metrics.jsonl" | sed -E 's/.*"loss":([0-9.e-]+).*/\1/'
}
echo "the quickstart's first 20 steps: step, loss on the CPU, loss on $feature"
paste <(seq 1 20) <(losses cpu) <(losses "$feature") | awk '
  { difference = ($2 - $3) / $2; if (difference < 0) difference = -difference; if (difference > worst) worst = difference; print }
  END { printf "largest relative difference: %.2e\n", worst; exit !(NR == 20 && worst < 2e-3) }'

echo "a fine-tuning on $feature, from a checkpoint to an exported file, whose mask on $feature is that on the CPU"
cat >"$runs/finetune.toml" <<EOF
[run]
dir = "$runs/finetune"
device = "$feature"
[model]
init = "checkpoint"
checkpoint = "$PWD/tests/fixtures/tiny_sam.safetensors"
[data]
images_per_step = 2
objects_per_step = 4
[data.synth]
seed = 1
n_scenes = 8
side_px_min = 64
side_px_max = 64
[data.validation_synth]
first_index = 100
n_scenes = 2
[optimiser]
lr = 1e-4
freeze = ["image_encoder"]
[schedule]
steps = 6
warmup_steps = 2
[validation]
every_steps = 3
clicks = [1]
[cache]
dir = "$runs/cache"
EOF
"$program" --config "$runs/finetune.toml" --plain
"$program" export --checkpoint "$runs/finetune/best.safetensors" --format pth --keep-image-size --out "$runs/tuned.pth"
for each in cpu "$feature"; do
  "$program" predict --checkpoint "$runs/tuned.pth" --image tests/fixtures/preprocess/photo.png --point 100,80 --device "$each" \
    --out "$runs/masks-$each" --logits "$runs/logits-$each.safetensors"
done
cmp "$runs/masks-cpu/mask_0.png" "$runs/masks-$feature/mask_0.png"
echo "everything agrees on $feature"
