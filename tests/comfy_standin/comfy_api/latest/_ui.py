class SavedResult(dict):
    def __init__(self, filename, subfolder, type):
        super().__init__(filename=filename, subfolder=subfolder, type=type.value)


class SavedImages:
    def __init__(self, results, is_animated=False):
        self.results = results

    def as_dict(self):
        return {"images": self.results}


class PreviewImage:
    def __init__(self, image, cls=None):
        self.values = image
