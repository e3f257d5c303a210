"""From videos to clips: inputs, one look through each video, and the build."""
