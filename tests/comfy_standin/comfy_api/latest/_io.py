from dataclasses import dataclass, field
from enum import Enum


class Input:
    def __init__(self, id, display_name=None, optional=False, tooltip=None, advanced=None):
        self.id, self.optional, self.tooltip, self.advanced = id, optional, tooltip, advanced


class WidgetInput(Input):
    def __init__(self, id, display_name=None, optional=False, tooltip=None, default=None, advanced=None):
        super().__init__(id, display_name, optional, tooltip, advanced)
        self.default = default


class Output:
    def __init__(self, id=None, display_name=None, tooltip=None):
        self.id, self.tooltip = id, tooltip


class ComfyTypeIO:
    class Input(Input):
        pass

    class Output(Output):
        pass


def Custom(io_type):  # noqa: N802 (ComfyUI's name)
    return type("CustomComfyType", (ComfyTypeIO,), {"io_type": io_type})


class Image(ComfyTypeIO):
    io_type = "IMAGE"


class Mask(ComfyTypeIO):
    io_type = "MASK"


class BoundingBox(ComfyTypeIO):
    io_type = "BOUNDING_BOX"

    class Input(WidgetInput):
        def __init__(
            self, id, display_name=None, optional=False, tooltip=None, socketless=True, default=None, component=None,
            force_input=None,
        ):  # fmt: skip
            super().__init__(id, display_name, optional, tooltip, default)


class Boolean(ComfyTypeIO):
    class Input(WidgetInput):
        def __init__(self, id, display_name=None, optional=False, tooltip=None, default=None, advanced=None):
            super().__init__(id, display_name, optional, tooltip, default, advanced)


class Int(ComfyTypeIO):
    io_type = "INT"

    class Input(WidgetInput):
        def __init__(
            self, id, display_name=None, optional=False, tooltip=None, default=None, min=None, max=None, step=None,
            advanced=None,
        ):  # fmt: skip
            super().__init__(id, display_name, optional, tooltip, default, advanced)
            self.min, self.max, self.step = min, max, step


class Float(ComfyTypeIO):
    class Input(WidgetInput):
        def __init__(
            self, id, display_name=None, optional=False, tooltip=None, default=None, min=None, max=None, step=None,
            advanced=None,
        ):  # fmt: skip
            super().__init__(id, display_name, optional, tooltip, default, advanced)
            self.min, self.max, self.step = min, max, step


class String(ComfyTypeIO):
    io_type = "STRING"

    class Input(WidgetInput):
        def __init__(
            self, id, display_name=None, optional=False, tooltip=None, placeholder=None, default=None, advanced=None
        ):
            super().__init__(id, display_name, optional, tooltip, default, advanced)


class Color(ComfyTypeIO):
    class Input(WidgetInput):
        def __init__(
            self, id, display_name=None, optional=False, tooltip=None, socketless=True, advanced=None, default="#ffffff"
        ):
            super().__init__(id, display_name, optional, tooltip, default, advanced)


class Combo(ComfyTypeIO):
    class Input(WidgetInput):
        def __init__(
            self, id, options=None, display_name=None, optional=False, tooltip=None, default=None, advanced=None
        ):
            super().__init__(id, display_name, optional, tooltip, default, advanced)
            self.options = options


class Autogrow:
    class TemplatePrefix:
        def __init__(self, input, prefix, min=1, max=10):
            self.input, self.prefix, self.min, self.max = input, prefix, min, max

    class Input(Input):
        def __init__(self, id, template, display_name=None, optional=False, tooltip=None):
            super().__init__(id, display_name, optional, tooltip)
            self.template = template


class FolderType(str, Enum):
    temp = "temp"


class Hidden(str, Enum):
    unique_id = "UNIQUE_ID"


@dataclass
class Schema:
    node_id: str
    display_name: str = None
    category: str = "sd"
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    hidden: list = field(default_factory=list)
    description: str = ""
    search_aliases: list = field(default_factory=list)
    is_output_node: bool = False
    has_intermediate_output: bool = False


class NodeOutput:
    def __init__(self, *args, ui=None):
        self.args, self.ui = args, ui


class ComfyNode:
    hidden = None

    def __init__(self):
        pass

    @classmethod
    def define_schema(cls):
        raise NotImplementedError

    @classmethod
    def execute(cls, **kwargs):
        raise NotImplementedError

    @classmethod
    def fingerprint_inputs(cls, **kwargs):
        raise NotImplementedError
