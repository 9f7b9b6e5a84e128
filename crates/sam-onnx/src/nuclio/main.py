"""The entry points that nuclio calls: an image comes in, its embedding goes back to CVAT's page."""

import base64
import io
import json

from PIL import Image

from model_handler import ModelHandler


def init_context(context):
    context.user_data.model = ModelHandler()
    context.logger.info("the encoder is loaded")


def handler(context, event):
    body = event.body if isinstance(event.body, dict) else json.loads(event.body)
    image = Image.open(io.BytesIO(base64.b64decode(body["image"]))).convert("RGB")
    embedding = context.user_data.model.handle(image)
    return context.Response(body=json.dumps({"blob": base64.b64encode(embedding.tobytes()).decode()}),
                            headers={}, content_type="application/json", status_code=200)
