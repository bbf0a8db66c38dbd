"""Contact sheets: rows of pictures with a label each."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP, LABEL, MIN_SIDE = 6, 22, 192


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], titles: Sequence[str] = ()) -> Image.Image:
    """One row for each (label, pictures), one column for each picture, `titles` above the columns.

    Pictures smaller than 192 pixels are enlarged by a whole factor, so that they can be seen.
    """
    if not rows or not any(images for _, images in rows):
        raise ValueError("A contact sheet needs at least one picture.")
    first = next(image for _, images in rows for image in images)
    factor = max(1, -(-MIN_SIDE // max(first.size)))
    width, height = first.width * factor, first.height * factor
    columns = max(len(images) for _, images in rows)
    top = LABEL if titles else 0
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, top + len(rows) * (height + LABEL) + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, title in enumerate(titles[:columns]):
        draw.text((GAP + column * (width + GAP), 3), title, fill="black", font=font)
    for row, (label, images) in enumerate(rows):
        y = top + row * (height + LABEL)
        draw.text((GAP, y + 3), label, fill="black", font=font)
        for column, image in enumerate(images):
            enlarged = image.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (GAP + column * (width + GAP), y + LABEL))
    return sheet
