"""Makes datasets/photos: pictures that ship in scikit-image's wheel, with outlines drawn and checked by hand.

    pip install scikit-image pillow pycocotools
    python datasets/make_photos.py datasets/photos [--check FOLDER]

Outlines are in pixels of the reduced picture. "snap" moves an outline to the strongest edge at most that many pixels away
(a watershed between the eroded and the dilated shape); the result was looked at, enlarged four to eight times, and the
outline corrected until it fit. --check writes those pictures. Masks that come straight from one outline are stored as
polygons, the others as RLE.
"""

import argparse
import json
import math
import pathlib

import numpy as np
import skimage.data
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_fill_holes, label
from skimage.filters import gaussian, sobel
from skimage.morphology import dilation, disk, erosion, opening
from skimage.segmentation import find_boundaries, watershed

LONGEST_PX = 384
JPEG_QUALITY = 90
LICENCES = ["CC0", "public domain (NASA)", "public domain (SpaceX)"]


def scaled(by, points):
    """An outline that was read off an enlarged picture."""
    return [(x / by, y / by) for x, y in points]


def ellipse(cx, cy, rx, ry, degrees=0, n=64):
    a = math.radians(degrees)
    turns = [2 * math.pi * i / n for i in range(n)]
    uv = [(rx * math.cos(t), ry * math.sin(t)) for t in turns]
    return [(cx + u * math.cos(a) - v * math.sin(a), cy + u * math.sin(a) + v * math.cos(a)) for u, v in uv]


def bright(box_xyxy, threshold):
    """The largest bright spot in a box: for galaxies, whose border is a level of brightness by nature."""

    def rule(image):
        x0, y0, x1, y1 = box_xyxy
        level = gaussian(image.max(2) / 255.0, 1.0)
        mask = np.zeros(level.shape, bool)
        mask[y0:y1, x0:x1] = level[y0:y1, x0:x1] > threshold
        return opening(binary_fill_holes(largest(mask)), disk(2))

    return rule


def largest(mask):
    parts, _ = label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()


def raster(outlines, size_hw):
    polygons = [[v for point in outline for v in point] for outline in outlines]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *size_hw))).astype(bool)


def snapped(image, mask, band_px):
    edges = np.max([sobel(gaussian(image[..., c] / 255.0, 0.7)) for c in range(3)], 0)
    padded = np.pad(mask, band_px, mode="edge")
    inner = slice(band_px, -band_px)
    markers = np.zeros(mask.shape, int)
    markers[erosion(padded, disk(band_px))[inner, inner]] = 1
    markers[~dilation(padded, disk(band_px))[inner, inner]] = 2
    mask = watershed(edges, markers) == 1
    mask = opening(np.pad(mask, 2, mode="edge"), disk(1))[2:-2, 2:-2]
    parts, n = label(mask)
    sizes = np.bincount(parts.ravel())
    return binary_fill_holes(np.isin(parts, [i for i in range(1, n + 1) if sizes[i] > 20]))


# Name of the object (a suffix after a colon tells objects of one class apart), outlines, snap in px, what lies in front.
PICTURES = [
    {
        "name": "astronaut",
        "split": "train",
        "licence": "public domain (NASA)",
        "objects": [
            ("patch", [ellipse(128.3, 289.0, 27.5, 28.2)], 2, []),
            ("badge", [scaled(2.84375, [(603, 725), (701, 741), (694, 806), (597, 793)])], 0, ['helmet']),
            ("head", [scaled(2.84375, [(388, 280), (390, 300), (395, 340), (400, 365), (405, 385), (430, 398), (470, 402), (510, 405), (540, 398), (545, 385), (548, 365), (562, 330), (570, 290), (590, 285), (605, 270), (620, 245), (632, 225), (643, 185), (640, 150), (630, 130), (635, 110), (620, 90), (600, 65), (570, 48), (540, 38), (505, 36), (480, 40), (450, 50), (420, 65), (400, 80), (370, 85), (345, 100), (330, 130), (328, 165), (330, 205), (345, 230), (365, 248), (372, 270)])], 3, []),
            ("helmet", [scaled(2.84375, [(592, 1094), (590, 1000), (596, 950), (605, 905), (620, 870), (640, 840), (660, 815), (690, 785), (720, 765), (760, 750), (800, 740), (850, 733), (900, 738), (940, 750), (975, 770), (1005, 800), (1030, 840), (1048, 880), (1057, 920), (1060, 965), (1075, 975), (1094, 990), (1094, 1094)])], 2, []),
        ],
    },
    {
        "name": "coffee",
        "split": "train",
        "licence": "CC0",
        "objects": [
            ("coffee", [scaled(3.5, [(458, 318), (490, 265), (540, 232), (600, 214), (660, 212), (720, 222), (780, 250), (815, 290), (830, 330), (825, 365), (800, 385), (760, 410), (700, 428), (650, 432), (600, 428), (540, 405), (500, 380), (470, 350)])], 2, []),
            ("spoon", [scaled(3.5, [(888, 165), (905, 152), (930, 152), (948, 165), (950, 182), (940, 215), (925, 260), (912, 300), (915, 250), (905, 210), (895, 185)]), scaled(3.5, [(845, 485), (858, 480), (862, 500), (860, 530), (880, 560), (900, 590), (908, 625), (900, 670), (875, 705), (840, 725), (800, 730), (765, 715), (742, 690), (732, 650), (735, 610), (750, 575), (775, 555), (810, 545), (830, 525), (835, 500)])], 1, []),
            ("cup", [scaled(3.5, [(388, 240), (395, 205), (415, 165), (450, 120), (500, 80), (560, 52), (620, 41), (680, 42), (740, 52), (800, 78), (850, 115), (885, 160), (905, 210), (914, 260), (910, 310), (905, 350), (885, 410), (862, 470), (840, 510), (800, 550), (760, 580), (735, 600), (715, 622), (655, 637), (600, 630), (583, 600), (579, 556), (552, 590), (530, 635), (512, 672), (492, 689), (470, 682), (448, 660), (441, 625), (455, 580), (485, 530), (445, 500), (420, 460), (402, 410), (392, 350), (388, 300)])], 1, ['spoon']),
            ("saucer", [scaled(3.5, [(405, 155), (340, 185), (290, 225), (245, 270), (210, 330), (186, 395), (173, 450), (175, 520), (190, 590), (220, 650), (270, 710), (330, 765), (400, 815), (480, 848), (560, 866), (640, 873), (720, 868), (800, 852), (870, 825), (940, 780), (1000, 725), (1045, 655), (1068, 580), (1074, 500), (1060, 420), (1035, 350), (990, 285), (930, 235), (900, 300), (700, 400), (500, 300)])], 1, ['cup', 'spoon']),
        ],
    },
    {
        "name": "rocket",
        "split": "train",
        "licence": "public domain (SpaceX)",
        "objects": [
            ("rocket", [scaled(3.5, [(678, 266), (690, 275), (698, 292), (700, 310), (700, 345), (697, 375), (697, 855), (655, 855), (655, 375), (653, 345), (653, 310), (658, 285)])], 0, []),
            ("tower:left", [scaled(3.5, [(95, 0), (186, 0), (183, 60), (176, 350), (165, 700), (150, 896), (0, 896), (0, 800), (10, 740), (35, 560), (70, 320), (95, 150), (105, 40), (95, 18)])], 0, []),
            ("tower:right", [scaled(3.5, [(1178, 0), (1258, 0), (1275, 90), (1300, 250), (1330, 400), (1344, 480), (1344, 896), (1215, 896), (1208, 750), (1197, 560), (1188, 350), (1180, 150)])], 0, []),
            ("mast:left", [scaled(3.5, [(417, 260), (430, 260), (428, 400), (427, 475), (425, 850), (348, 850), (375, 600), (392, 470), (398, 402), (412, 400)])], 0, []),
            ("mast:right", [scaled(3.5, [(932, 260), (943, 260), (949, 400), (962, 404), (966, 470), (985, 680), (1003, 850), (922, 850), (926, 475), (928, 404), (938, 400)])], 0, []),
        ],
    },
    {
        "name": "retina",
        "split": "train",
        "licence": "CC0",
        "objects": [
            ("optic disc", [ellipse(59.8, 178.6, 25.5, 28)], 0, []),
            ("retina", [ellipse(191.6, 191.3, 189, 189), scaled(2.84375, [(880, 122), (903, 100), (951, 147), (932, 168), (900, 180)])], 3, []),
        ],
    },
    {
        "name": "hubble_deep_field",
        "split": "train",
        "licence": "public domain (NASA)",
        "crop": (0, 0, 480, 420),
        "objects": [
            ("galaxy:1", [ellipse(232.2, 87.2, 14.0, 11.4, -25)], 0, ['galaxy:companion']),
            ("galaxy:companion", [scaled(3.0625, [(722, 295), (735, 290), (748, 283), (750, 292), (746, 300), (744, 316), (735, 320), (725, 314), (721, 305)])], 0, []),
            ("galaxy:2", bright((305, 42, 345, 74), 0.3), 0, []),
            ("galaxy:3", bright((80, 298, 118, 336), 0.3), 0, []),
            ("galaxy:5", [ellipse(247.2, 266.8, 9.5, 7.8, 45)], 0, []),
            ("galaxy:6", bright((260, 48, 275, 74), 0.22), 0, []),
        ],
    },
    {
        "name": "chelsea",
        "split": "val",
        "licence": "CC0",
        "objects": [
            ("pupil", [scaled(3.516, [(518, 278), (538, 290), (548, 315), (545, 345), (530, 370), (512, 385), (497, 370), (490, 345), (490, 310), (500, 288)])], 1, []),
            ("eye:left", [scaled(3.516, [(413, 330), (418, 300), (432, 275), (455, 262), (490, 256), (530, 260), (570, 275), (597, 300), (610, 330), (612, 355), (605, 380), (590, 405), (565, 422), (530, 430), (490, 425), (460, 410), (435, 385), (418, 355)])], 1, []),
            ("eye:right", [scaled(3.516, [(885, 410), (890, 380), (905, 355), (930, 340), (960, 332), (1000, 330), (1018, 345), (1022, 375), (1015, 410), (1000, 440), (975, 465), (945, 478), (915, 478), (895, 465), (886, 440)])], 2, []),
            ("nose", [scaled(3.516, [(715, 705), (740, 690), (775, 683), (820, 686), (855, 688), (875, 700), (868, 712), (845, 722), (830, 745), (810, 765), (790, 780), (772, 778), (757, 765), (752, 740), (735, 722)])], 2, []),
        ],
    },
    {
        "name": "camera",
        "split": "val",
        "licence": "CC0",
        "objects": [
            ("camera", [scaled(2.84375, [(540, 303), (600, 300), (650, 305), (685, 298), (692, 310), (690, 330), (680, 340), (682, 362), (672, 388), (600, 398), (565, 385), (555, 375), (554, 322), (540, 318)])], 2, []),
            ("building", [scaled(2.84375, [(879, 279), (922, 279), (922, 402), (879, 405)])], 0, []),
            ("tripod", [scaled(2.84375, [(615, 465), (634, 465), (634, 670), (660, 690), (668, 705), (832, 1020), (848, 1035), (862, 1092), (850, 1092), (818, 1030), (655, 710), (640, 710), (638, 735), (634, 1012), (640, 1035), (614, 1035), (612, 1010), (614, 735), (612, 705), (523, 1030), (516, 1070), (505, 1092), (492, 1092), (492, 1045), (502, 1030), (598, 705), (596, 680), (610, 670)]), scaled(2.84375, [(604, 745), (613, 760), (560, 988), (542, 1038), (524, 1048), (538, 985)]), scaled(2.84375, [(545, 988), (562, 985), (615, 1018), (614, 1030), (560, 1007)]), scaled(2.84375, [(520, 1044), (618, 1026), (622, 1033), (520, 1051)]), scaled(2.84375, [(655, 668), (690, 648), (695, 640), (718, 640), (721, 655), (695, 657), (662, 682)]), scaled(2.84375, [(640, 1025), (815, 1023), (815, 1029), (640, 1031)])], 0, []),
            ("person", [scaled(2.84375, [(0, 555), (20, 520), (45, 480), (70, 430), (100, 380), (125, 335), (150, 308), (180, 292), (230, 270), (280, 265), (310, 240), (340, 226), (345, 210), (360, 180), (385, 155), (410, 142), (440, 134), (475, 140), (505, 155), (525, 172), (550, 195), (570, 218), (577, 240), (573, 270), (553, 285), (540, 305), (536, 325), (542, 350), (542, 360), (525, 368), (512, 368), (522, 378), (518, 385), (522, 395), (515, 400), (515, 430), (520, 480), (530, 525), (555, 490), (580, 465), (615, 460), (612, 510), (585, 520), (600, 555), (640, 560), (650, 585), (640, 600), (600, 630), (560, 655), (525, 668), (480, 650), (440, 628), (400, 690), (370, 730), (330, 775), (300, 815), (315, 880), (320, 960), (325, 1094), (295, 1094), (290, 1070), (265, 1020), (235, 970), (212, 950), (205, 1000), (195, 1094), (0, 1094)]), scaled(2.84375, [(682, 364), (690, 358), (704, 366), (706, 385), (702, 395), (707, 410), (700, 430), (690, 447), (680, 470), (668, 485), (655, 488), (658, 440), (660, 395), (676, 388)])], 2, ['camera', 'tripod']),
        ],
    },
]


def masks_of(image, objects):
    """Per object: its name, its mask, and its polygons where it is nothing but those."""
    covers = {}
    for name, outlines, band_px, _ in objects:
        cover = outlines(image) if callable(outlines) else raster(outlines, image.shape[:2])
        covers[name] = snapped(image, cover, band_px) if band_px else cover
    for name, outlines, band_px, in_front in objects:
        mask = covers[name].copy()
        for other in in_front:
            mask &= ~covers[other]
        is_polygon = not (callable(outlines) or band_px or in_front)
        yield name, mask, outlines if is_polygon else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--check", type=pathlib.Path)
    arguments = parser.parse_args()
    names = sorted({name.split(":")[0] for picture in PICTURES for name, *_ in picture["objects"]})
    files = {
        split: {
            "info": {"description": "Public-domain and CC0 photographs, see datasets/README.md"},
            "licenses": [{"id": i, "name": name} for i, name in enumerate(LICENCES, 1)],
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
        }
        for split in ("train", "val")
    }
    for picture in PICTURES:
        photo = Image.fromarray(getattr(skimage.data, picture["name"])()).convert("RGB")
        photo = photo.crop(picture["crop"]) if "crop" in picture else photo
        photo.thumbnail((LONGEST_PX, LONGEST_PX), Image.LANCZOS)
        image, split = np.asarray(photo), picture["split"]
        path = arguments.out / split / f"{picture['name']}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path, quality=JPEG_QUALITY)
        file = files[split]
        image_id = len(file["images"]) + 1
        file["images"].append(
            {"id": image_id, "file_name": path.name, "width": photo.width, "height": photo.height, "license": LICENCES.index(picture["licence"]) + 1}
        )
        masks = list(masks_of(image, picture["objects"]))
        for name, mask, outlines in masks:
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            if outlines is None:
                segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
            else:
                segmentation = [[round(v, 2) for point in outline for v in point] for outline in outlines]
                rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, *image.shape[:2]))
            file["annotations"].append(
                {
                    "id": len(file["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": names.index(name.split(":")[0]) + 1,
                    "segmentation": segmentation,
                    "area": int(coco_mask.area(rle)),
                    "bbox": [int(v) for v in coco_mask.toBbox(rle)],
                    "iscrowd": 0,
                }
            )
        if arguments.check:
            check(image, [mask for _, mask, _ in masks], arguments.check / f"{picture['name']}.png")
    (arguments.out / "annotations").mkdir(exist_ok=True)
    for split, file in files.items():
        (arguments.out / "annotations" / f"instances_{split}.json").write_text(json.dumps(file) + "\n")


def check(image, masks, path, enlarged=4):
    size = (image.shape[1] * enlarged, image.shape[0] * enlarged)
    canvas = np.asarray(Image.fromarray(image).resize(size, Image.BICUBIC)).copy()
    colours = [(0, 255, 0), (255, 0, 255), (0, 255, 255), (255, 255, 0), (255, 80, 0), (80, 120, 255)]
    for mask, colour in zip(masks, colours):
        canvas[find_boundaries(np.kron(mask, np.ones((enlarged, enlarged), bool)), mode="inner")] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(canvas).save(path)


if __name__ == "__main__":
    main()
