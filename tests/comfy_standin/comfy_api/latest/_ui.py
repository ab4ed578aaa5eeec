class PreviewImage:
    def __init__(self, image, cls=None):
        self.values = image
