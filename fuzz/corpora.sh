#!/usr/bin/env bash
# Fills fuzz/corpus/ with the inputs to start from: the committed fixtures, configurations and data sets, and nothing else.
set -euo pipefail
cd "$(dirname "$0")"
copy() { # TARGET FILE..: under names that say where each comes from
    local target=$1
    shift
    mkdir -p "corpus/$target"
    for file in "$@"; do cp "$file" "corpus/$target/$(echo "${file#../}" | tr / -)"; done
}
mapfile -t images < <(find ../tests/fixtures ../datasets -type f \( -name '*.png' -o -name '*.jpg' -o -name '*.tif' -o -name '*.bmp' -o -name '*.webp' \) -size -64k)
copy image "${images[@]}"
mapfile -t labels < <(find ../tests/fixtures/data -type f \( -name '*.png' -o -name '*.tif' \) -size -64k)
copy labels "${labels[@]}"
mapfile -t coco < <(find ../tests/fixtures/data ../datasets -type f -name '*.json' -size -256k)
copy coco "${coco[@]}"
mapfile -t checkpoints < <(find ../tests/fixtures -type f \( -name '*.pth' -o -name '*.safetensors' \) -size -256k)
copy checkpoint "${checkpoints[@]}"
copy plan ../configs/*.toml
# A size and the run lengths of a few masks, in COCO's compressed form.
mkdir -p corpus/rle
printf '\x08\x0800' > corpus/rle/empty
printf '\x20\x20P1000' > corpus/rle/short
printf '\x40\x40PT1n0O10000O010O1O1O2N1O' > corpus/rle/disc
find corpus -type f | awk -F/ '{ count[$2]++ } END { for (target in count) print target": "count[target] }'
