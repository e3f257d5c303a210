"""Training the three stages, from the windows of a store to trained generators in a run folder.

`data` and `feeding` bring batches to a device, `stages` and `losses` say what a stage learns, `trainer` takes a step,
`train` goes through the stages, and `journal` writes down how it went.
"""
