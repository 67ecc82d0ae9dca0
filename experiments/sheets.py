"""How the images of a run are laid out (experiments.images), for the report too, which reads them without torch."""

GAP_PX = 2
GAP_GREY = 0xDD  # all three channels, between the images of a grid
GAP_COLOUR = f"#{GAP_GREY:02x}{GAP_GREY:02x}{GAP_GREY:02x}"
FILM_FRAMES = 8  # shown of a video, in a row
STRENGTHS = tuple(i / 10 for i in range(16))
FEW_STRENGTHS = STRENGTHS[::5]
