#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""side-by-side.py FOLDER: one picture of what the two viewers saw."""
import sys
from PIL import Image, ImageDraw

DRIVERS = ("memfd_dmabuf", "udmabuf")
WIDTH, HEIGHT, TEXT, GAP = 256, 160, 34, 8

folder = sys.argv[1]
columns = []
for driver in DRIVERS:
    with open(f"{folder}/{driver}.tsv", encoding="ascii") as f:
        columns.append([line.rstrip("\n").split("\t") for line in f])

steps = len(columns[0])
sheet = Image.new("RGB", (GAP + len(DRIVERS) * (WIDTH + GAP),
                          TEXT + steps * (HEIGHT + TEXT) + GAP), "white")
draw = ImageDraw.Draw(sheet)
for x, (driver, rows) in enumerate(zip(DRIVERS, columns)):
    left = GAP + x * (WIDTH + GAP)
    draw.text((left, GAP), f"seen through {driver}", fill="black")
    for y, (step, stale, pinned, _, what) in enumerate(rows):
        top = TEXT + y * (HEIGHT + TEXT)
        picture = Image.open(f"{folder}/{driver}-{y}.png").convert("RGB")
        sheet.paste(picture.resize((WIDTH, HEIGHT)), (left, top + TEXT - 4))
        colour = "black" if stale == "0" else "red"
        draw.text((left, top), f"{step}: {what}", fill="black")
        draw.text((left, top + 14),
                  f"{stale} stale, {pinned} pinned", fill=colour)
sheet.save(f"{folder}/side-by-side.png")
