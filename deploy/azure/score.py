"""The scoring script of an Azure Machine Learning endpoint: pictures in base64 in, labels, masks and figures out.

A request is the JSON of ``faceparse serve`` (docs/serving.md), and so is its answer.
"""

import logging
import os
import sys
from pathlib import Path

from azureml_inference_server_http.api.aml_request import AMLRequest, rawhttp
from azureml_inference_server_http.api.aml_response import AMLResponse
from werkzeug.exceptions import RequestEntityTooLarge

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout, which the deployment uploads

from faceparse_core import FaceParser  # noqa: E402
from faceparse_core.scale import answers, asking  # noqa: E402

LIMITS = asking.Limits()


def init() -> None:
    """Called once, when the container starts."""
    global parser
    parser = FaceParser(model())
    logging.info("%s is ready", parser)


def model() -> str:
    """The model that the deployment registers, a folder or file in AZUREML_MODEL_DIR; else FACEPARSE_MODEL; else lite,
    which comes with the package."""
    registered = os.environ.get("AZUREML_MODEL_DIR")
    if registered:
        found = [path for path in sorted(Path(registered).rglob("*")) if path.suffix in (".safetensors", ".onnx")]
        if found:
            folder = found[0].parent
            return str(folder if (folder / "config.json").is_file() else found[0])
    return os.environ.get("FACEPARSE_MODEL", "lite")


@rawhttp
def run(request: AMLRequest) -> AMLResponse:
    """Called for every request."""
    if request.method != "POST":
        return _error(405, "send pictures with POST")
    request.max_content_length = LIMITS.bytes
    try:
        answer = answers.answered(parser, asking.from_json(request.get_data(), LIMITS, asking.options), LIMITS)
    except RequestEntityTooLarge:
        return _error(413, f"the request is too large: at most {LIMITS.bytes:,} bytes are taken")
    except ValueError as error:
        return _error(400, str(error))
    return AMLResponse(answer, 200, {"Content-Type": "application/json"})


def _error(status: int, said: str) -> AMLResponse:
    return AMLResponse({"error": said}, status, json_str=True)
