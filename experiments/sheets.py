"""The layout of a run's images (experiments.images). Kept apart because the report, which does without torch, reads it
too."""

GAP_PX = 2
GAP_GREY = 0xDD  # all three channels, between the images of a grid
GAP_COLOUR = f"#{GAP_GREY:02x}{GAP_GREY:02x}{GAP_GREY:02x}"
FILM_FRAMES = 8  # frames of a video that are shown, in a row
STRENGTHS = tuple(i / 10 for i in range(16))
FEW_STRENGTHS = STRENGTHS[::5]
