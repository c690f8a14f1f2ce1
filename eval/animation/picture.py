"""Films of several policies as one animated picture: a column for each policy, two start states at a time."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .film import Film

__all__ = ["animated"]

SIDE, GAP, TITLE = 176, 8, 22  # pixels
ROWS = 2  # start states at a time
FRAME_MS, REST_MS = 60, 1500  # of a picture, and of the last one
GOOD, OPEN = (34, 139, 34), (200, 200, 200)  # frames of episodes that have ended well, and of all others
COLOURS = 48


def animated(films: dict[str, list[Film]]) -> bytes:
    """A GIF that plays for ever.

    Args:
        films: by the title of a column, its episodes, the same start states in each.
    """
    pages, durations = [], []
    n = len(next(iter(films.values())))
    for first in range(0, n, ROWS):
        columns = [(title, episodes[first : first + ROWS]) for title, episodes in films.items()]
        length = max(len(episode.pictures) for _, episodes in columns for episode in episodes)
        pages += [_page(columns, k) for k in range(length)]
        durations += [FRAME_MS] * (length - 1) + [REST_MS]
    palette = pages[-1].quantize(COLOURS, dither=Image.Dither.NONE)  # one for all: little changes between pictures
    pages = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    content = io.BytesIO()
    pages[0].save(
        content, "GIF", save_all=True, append_images=pages[1:], duration=durations, loop=0, optimize=True
    )  # fmt: skip
    return content.getvalue()


def _page(columns: list[tuple[str, list[Film]]], k: int) -> Image.Image:
    """The k-th picture of each episode; one that is over shows its last."""
    rows = max(len(episodes) for _, episodes in columns)
    size = (len(columns) * (SIDE + GAP) + GAP, TITLE + rows * (SIDE + GAP))
    page = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for column, (title, episodes) in enumerate(columns):
        left = GAP + column * (SIDE + GAP)
        draw.text((left + SIDE / 2, TITLE / 2), title, "black", font, anchor="mm")
        for row, episode in enumerate(episodes):
            top = TITLE + row * (SIDE + GAP)
            over = k >= len(episode.pictures) - 1
            colour = GOOD if over and episode.success else OPEN
            draw.rectangle((left - 3, top - 3, left + SIDE + 2, top + SIDE + 2), fill=colour)
            picture = Image.fromarray(np.ascontiguousarray(episode.pictures[min(k, len(episode.pictures) - 1)]))
            page.paste(picture.resize((SIDE, SIDE), Image.Resampling.BOX), (left, top))
    return page
