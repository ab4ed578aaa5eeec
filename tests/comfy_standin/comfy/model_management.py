"""Stand-in for comfy.model_management: the little of it that the nodes use, on the CPU."""

import torch

_interrupted = False


class InterruptProcessingException(BaseException):
    pass


def interrupt_current_processing(value=True):
    global _interrupted
    _interrupted = value


def throw_exception_if_processing_interrupted():
    if _interrupted:
        interrupt_current_processing(False)
        raise InterruptProcessingException


def get_torch_device():
    return torch.device("cpu")


def unet_offload_device():
    return torch.device("cpu")


def intermediate_device():
    return torch.device("cpu")


def should_use_fp16(device=None):
    return False


def get_free_memory(dev=None):
    return 1 << 30


def load_models_gpu(models, memory_required=0, force_full_load=False):
    for patcher in models:
        patcher.model.to(patcher.load_device)


def intermediate_dtype():
    return torch.float32
