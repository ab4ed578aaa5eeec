"""Stand-in for comfy.model_patcher: the little of it that the nodes use."""


class ModelPatcher:
    def __init__(self, model, load_device, offload_device):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
