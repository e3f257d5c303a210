"""Making layers: the plan, and the task."""
