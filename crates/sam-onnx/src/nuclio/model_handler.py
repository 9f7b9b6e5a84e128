"""Image to embedding with encoder.onnx beside this file, with or without preprocessing in the graph."""

import pathlib

import numpy as np
import onnxruntime
from PIL import Image

MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
SIDE = 1024


class ModelHandler:
    def __init__(self):
        path = pathlib.Path(__file__).parent / "encoder.onnx"
        self.session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
        self.input = self.session.get_inputs()[0]

    def handle(self, image):
        """An RGB image of PIL; returns float32 of 1 x 256 x 64 x 64."""
        scale = SIDE / max(image.size)
        width, height = (int(size * scale + 0.5) for size in image.size)
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)
        if len(self.input.shape) == 4:
            padded = np.zeros((SIDE, SIDE, 3), np.float32)
            padded[:height, :width] = (pixels - MEAN) / STD
            pixels = np.ascontiguousarray(padded.transpose(2, 0, 1)[None])
        return self.session.run(None, {self.input.name: pixels})[0].astype(np.float32)
