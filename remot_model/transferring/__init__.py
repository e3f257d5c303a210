"""One source image, any driving video, one result; what `remot_model.transfer` and `remot transfer` do.

The room is not called `transfer`, because that is the function: a module of the same name would take its place as soon
as anything imported it. `transfer` makes one request, `batch` those between two folders.
"""
