"""Stand-in for ComfyUI's folder_paths: the little of it that the nodes use."""

import os

models_dir = "models"
folder_names_and_paths = {}


def add_model_folder_path(folder_name, full_folder_path, is_default=False):
    paths, _ = folder_names_and_paths.setdefault(folder_name, ([], set()))
    if full_folder_path not in paths:
        paths.insert(0 if is_default else len(paths), full_folder_path)


def get_folder_paths(folder_name):
    return folder_names_and_paths[folder_name][0][:]


def get_temp_directory():
    return os.path.join(os.path.dirname(models_dir), "temp")
