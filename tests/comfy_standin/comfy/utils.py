"""Stand-in for comfy.utils: the little of it that the nodes use."""

PROGRESS_BAR_HOOK = None


def set_progress_bar_global_hook(function):
    global PROGRESS_BAR_HOOK
    PROGRESS_BAR_HOOK = function


class ProgressBar:
    def __init__(self, total):
        self.total = total

    def update_absolute(self, value, total=None, preview=None):
        if PROGRESS_BAR_HOOK:
            PROGRESS_BAR_HOOK(value, total or self.total, preview, node_id=None)
