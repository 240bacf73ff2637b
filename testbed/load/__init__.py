"""Open-loop load: requests leave when planned, whatever became of the earlier ones.

Reading order: sizes, arrivals, trace, wikibench, response (pure), client, generator, result,
command.
Never here: knowledge of what is behind the target.
"""
