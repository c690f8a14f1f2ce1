"""Films of several policies as one animated picture: a block for each policy, a tile for each start state."""

import io
from math import ceil

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .film import Film

__all__ = ["animated"]

SIDE, FRAME, GAP, TITLE = 76, 2, 16, 24  # pixels; a tile's side without its frame
COLUMNS = 4  # tiles in a row of a block
FRAME_MS, REST_MS = 70, 3000  # of a picture, and of the last one
GOOD, OPEN = (34, 139, 34), (215, 215, 215)  # frames of episodes that have ended well, and of all others
COLOURS = 32
TILE = SIDE + 2 * FRAME


def animated(films: dict[str, list[Film]]) -> bytes:
    """A GIF that plays for ever.

    Args:
        films: by the title of a block, its episodes, of the same start states in each.
    """
    length = max(len(episode.pictures) for episodes in films.values() for episode in episodes)
    pages = [_page(films, k) for k in range(length)]
    palette = pages[-1].quantize(COLOURS, dither=Image.Dither.NONE)  # one for all: little changes between pictures
    pages = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    durations, content = [FRAME_MS] * (length - 1) + [REST_MS], io.BytesIO()
    rest = {"append_images": pages[1:], "duration": durations, "loop": 0, "optimize": True}
    pages[0].save(content, "GIF", save_all=True, **rest)
    return content.getvalue()


def _page(films: dict[str, list[Film]], k: int) -> Image.Image:
    """The k-th picture of each episode; one that is over shows its last."""
    n = len(next(iter(films.values())))
    width, height = min(COLUMNS, n) * TILE, ceil(n / COLUMNS) * TILE
    page = Image.new("RGB", (len(films) * (width + GAP) - GAP, TITLE + height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for block, (title, episodes) in enumerate(films.items()):
        left = block * (width + GAP)
        done = sum(episode.success and k >= len(episode.pictures) - 1 for episode in episodes)
        draw.text((left, TITLE / 2), title, "black", font, anchor="lm")
        draw.text((left + width, TITLE / 2), f"{done} of {n}", GOOD, font, anchor="rm")
        for i, episode in enumerate(episodes):
            page.paste(_tile(episode, k), (left + i % COLUMNS * TILE, TITLE + i // COLUMNS * TILE))
    return page


def _tile(episode: Film, k: int) -> Image.Image:
    last = len(episode.pictures) - 1
    tile = Image.new("RGB", (TILE, TILE), GOOD if k >= last and episode.success else OPEN)
    picture = Image.fromarray(np.ascontiguousarray(episode.pictures[min(k, last)]))
    tile.paste(picture.resize((SIDE, SIDE), Image.Resampling.BOX), (FRAME, FRAME))
    return tile
