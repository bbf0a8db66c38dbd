"""Readings of any text: what the groups of odd prompts are, and that no text at all ends in another error."""

from __future__ import annotations

import random
import time
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebama.prompt import (
    Group,
    Parsed,
    ParsedWord,
    PromptError,
    groups_from_words,
    lexicon,
    parse,
    parsers,
    rules,
    words,
)
from ebama.prompt.alignment import LONGEST, align, normalised, with_line_breaks
from ebama.prompt.objects import checked
from ebama.prompt.objects.tree import Tree
from ebama.prompt.phrases import with_noun_phrases
from ebama.prompt.signs import with_parted_words, without_signs
from ebama.weights import clip_tokenizer

TOKENIZER = clip_tokenizer()
PARSERS = parsers.installed()
SMALL = [name for name in PARSERS if name == "rules" or name.startswith("en_core_web_sm")]
Words = list[tuple[str, list[str]]]


def named(parsed: Parsed) -> Words:
    return [(parsed.text(*g.object), [parsed.text(*m) for m in g.modifiers]) for g in parsed.groups]


CAR_AND_BOWL: Words = [("car", ["red"]), ("bowl", ["blue"])]
CAT_AND_DOG: Words = [("cat", []), ("dog", [])]

READ_BY_ALL: dict[str, Words] = {
    # the picture goes on after an artist's name or a style's
    "a cat in the style of van gogh and a dog in the style of picasso": CAT_AND_DOG,
    "a cat painted by monet and two dogs": [("cat", []), ("dogs", [])],
    "a red car in the style of pixar next to a blue bowl": CAR_AND_BOWL,
    "a red car in the style of lord of the rings. blue bowls": [("car", ["red"]), ("bowls", ["blue"])],
    "a photo by annie leibovitz of a cat and a dog": CAT_AND_DOG,
    "a cat in the style of a renaissance painting chasing a dog": CAT_AND_DOG,
    "a cat and a dog, art by J.M.W. Turner and John Constable": CAT_AND_DOG,
    # things that look like verbs
    "a brick building the size of a cat": [("building", ["brick"]), ("size", []), ("cat", [])],
    "a church ceiling all in gold": [("ceiling", ["church"]), ("gold", [])],
    "a kid building a sand castle": [("kid", []), ("castle", ["sand"])],
    "a city lights near a red car": [("lights", ["city"]), ("car", ["red"])],
    "a tennis shoes beside a blue bowl": [("shoes", ["tennis"]), ("bowl", ["blue"])],
    "a bus leaves the old station": [("bus", []), ("station", ["old"])],
    # what is denied is no object
    "a room without windows": [("room", [])],
    "a cake without any red candles or flowers": [("cake", [])],
    "a street with no cars or people": [("street", [])],
    "no humans, a red car": [("car", ["red"])],
    "a car but no people": [("car", [])],
    "a car, not a blue truck": [("car", [])],
    "a man with no hat and a blue coat": [("man", []), ("coat", ["blue"])],
    "a dog without a hat and a red car": [("dog", []), ("car", ["red"])],
    "a not so red car and a no longer blue bowl": [("car", ["so", "red"]), ("bowl", ["longer", "blue"])],
    "two not very tall trees": [("trees", ["very", "tall"])],
    "two dogs and no cats, a no parking sign": [("dogs", []), ("sign", ["parking"])],
    "not only a cat but a dog": [("cat", []), ("dog", [])],
    # one after another
    "a cat then a dog": CAT_AND_DOG,
    "a red car, then a blue bowl": CAR_AND_BOWL,
    "a red car and afterwards a blue bowl": CAR_AND_BOWL,
    # forms of verbs before their noun
    "a drawn sword and a woven red basket": [("sword", ["drawn"]), ("basket", ["woven", "red"])],
    "a girl that held red flowers": [("girl", []), ("flowers", ["red"])],
    # weights, escapes, lists and names as other programs write them
    "a (red)1.5 car and a (blue)0.8 bowl": CAR_AND_BOWL,
    "(red car)1.2, (blue bowl)0.9": CAR_AND_BOWL,
    "a ( red : 1.2 ) car and a ( blue : 1.1 ) bowl": CAR_AND_BOWL,
    "red\\_car, blue\\_bowl": CAR_AND_BOWL,
    "a \\(red\\) car, blue bowl": CAR_AND_BOWL,
    "1) red car 2) blue bowl": CAR_AND_BOWL,
    "1️⃣ red car 2️⃣ blue bowl": CAR_AND_BOWL,
    "(embedding:foo:1.2), red car, blue bowl": CAR_AND_BOWL,
    "score_9, score_8_up, red car, blue bowl": CAR_AND_BOWL,
    "red car ADDCOL blue bowl": CAR_AND_BOWL,
    "a re\xadd car w/ a blue bowl": [("car", ["re\xadd"]), ("bowl", ["blue"])],
    "a dog w/o a cat": [("dog", [])],
    # colours of one noun, and of the noun that a clause stands at
    "a red car, blue and green bowl": [("car", ["red"]), ("bowl", ["blue", "green"])],
    "girl, red and black dress": [("girl", []), ("dress", ["red", "black"])],
    "[red|blue] car, [green|yellow] bowl": [("car", ["red", "blue"]), ("bowl", ["green", "yellow"])],
    "a teal and orange poster": [("poster", ["teal", "orange"])],
    "a blood-red rose and a snow-white owl": [("rose", ["blood-red"]), ("owl", ["snow-white"])],
    "a car that's red and a bowl that's blue": CAR_AND_BOWL,
    # adjectives with commas between them
    "a strong, white horse": [("horse", ["strong", "white"])],
    "a crisp, juicy, green apple": [("apple", ["crisp", "juicy", "green"])],
    "a bent, rusted, metal fence": [("fence", ["bent", "rusted", "metal"])],
    "a steaming, chipped, porcelain cup": [("cup", ["steaming", "chipped", "porcelain"])],
    "a round, woven, beige rug": [("rug", ["round", "woven", "beige"])],
    "an ancient, mossy, stone well": [("well", ["ancient", "mossy", "stone"])],
    "three plump, speckled, brown hens": [("hens", ["plump", "speckled", "brown"])],
    "a smiling, freckled, red-haired girl": [("girl", ["smiling", "freckled", "red-haired"])],
    "a thin, silver, metal chain": [("chain", ["thin", "silver", "metal"])],
    "a tiny, green, felt hat": [("hat", ["tiny", "green", "felt"])],
    "a long, flowing, satin dress": [("dress", ["long", "flowing", "satin"])],
    "my old, creaking, wooden door": [("door", ["old", "creaking", "wooden"])],
    "a cute, fluffy, white and gray kitten": [("kitten", ["cute", "fluffy", "white", "gray"])],
    "a small, sleek, black cat, a huge, shaggy dog": [
        ("cat", ["small", "sleek", "black"]),
        ("dog", ["huge", "shaggy"]),
    ],
    # nouns that end as verbs do
    "a blue bobsled and a vanilla icing": [("bobsled", ["blue"]), ("icing", ["vanilla"])],
    "a black thoroughbred and a white purebred": [("thoroughbred", ["black"]), ("purebred", ["white"])],
    "a velvet lining and a metal scaffolding": [("lining", ["velvet"]), ("scaffolding", ["metal"])],
    "a stone etching and a diamond piercing": [("etching", ["stone"]), ("piercing", ["diamond"])],
    # what no letters stand before, and what stands for a word
    "my 🐶's red collar and the 🚗's blue door": [("collar", ["red"]), ("door", ["blue"])],
    "a rock'n'roll guitar and a drum'n'bass record": [("guitar", ["rock'n'roll"]), ("record", ["drum'n'bass"])],
    "two cats back to back with one another": [("cats", [])],
    "a red id card and a tiny ID": [("card", ["red", "id"]), ("ID", ["tiny"])],
    # words for the picture
    "RAW photo, a red car, volumetric lighting, ray tracing, blue bowl": CAR_AND_BOWL,
    "a close up of a red car and a blue bowl": CAR_AND_BOWL,
    "bird's eye view of a red car and a blue bowl": CAR_AND_BOWL,
    "film still of a red car and a blue bowl": CAR_AND_BOWL,
    "photo, a red car, a blue bowl": CAR_AND_BOWL,
    "a red car, a blue bowl. Illustration": CAR_AND_BOWL,
    "sketch, portrait, a red car, black and white photo": [("car", ["red"])],
    "a girl, anime style, red hair": [("girl", []), ("hair", ["red"])],
    "anime, 1girl, red hair": [("1girl", []), ("hair", ["red"])],
    "side view of a red car, 3d render": [("car", ["red"])],
    "isometric view, a red car, long exposure, product photograph": [("car", ["red"])],
    "a double exposure selfie of a cat and a dog": CAT_AND_DOG,
    "tiger portrait, a crown": [("portrait", ["tiger"]), ("crown", [])],
    "studio portrait, black and white drawing, a red car": [("car", ["red"])],
    "a desk, a photo with a frame": [("desk", []), ("photo", []), ("frame", [])],
    "A street. A photo with a frame": [("street", []), ("frame", [])],
    "a red car\nphoto\nblue bowl": CAR_AND_BOWL,
    "a teddy\nbear\nand a doll": [("bear", ["teddy"]), ("doll", [])],
    "a red car, photo with bokeh, 4k": [("car", ["red"])],
    "a fox crossing over a bridge": [("fox", []), ("bridge", [])],
    "a dog\nsunset\nbeach": [("dog", []), ("sunset", []), ("beach", [])],
    "a red car, close‑up, a bowl, 85 mm lens": [("car", ["red"]), ("bowl", [])],
    "1girl, holding photo, red hair": [("1girl", []), ("photo", []), ("hair", ["red"])],
    "award winning photo of a cat, shot on fujifilm superia": [("cat", [])],
    "a sheet of paper on a blue sheet": [("sheet", []), ("paper", []), ("sheet", ["blue"])],
    "a lot of red cars and a parking lot of a museum": [("cars", ["red"]), ("lot", ["parking"]), ("museum", [])],
    "a red photo, a view and a car": [("photo", ["red"]), ("view", []), ("car", [])],
    # a thing and what it does to another
    "a flying red dragon breathing blue fire": [("dragon", ["flying", "red"]), ("fire", ["blue"])],
    "a red dragon breathing green fire": [("dragon", ["red"]), ("fire", ["green"])],
    "a white horse pulling a black carriage": [("horse", ["white"]), ("carriage", ["black"])],
    # tags
    "looking at viewer, smiling, red hair": [("hair", ["red"])],
    "1girl, looking at viewer, long hair": [("1girl", []), ("hair", ["long"])],
    "looking at camera, white shirt": [("shirt", ["white"])],
    "a dog staring at the camera beside a camera": [("dog", []), ("camera", [])],
    "1girl, facing viewer, white shirt": [("1girl", []), ("shirt", ["white"])],
    "1girl, holding cup, red hair, holding book": [("1girl", []), ("cup", []), ("hair", ["red"]), ("book", [])],
    "carrying a red basket, 1boy": [("basket", ["red"]), ("1boy", [])],
    "a woman wearing red hat and holding blue bag": [("woman", []), ("hat", ["red"]), ("bag", ["blue"])],
    "1girl, floating island, waterfall": [("1girl", []), ("island", ["floating"]), ("waterfall", [])],
    "smiling, red hair": [("hair", ["red"])],
    "1girl, smiling, red hair": [("1girl", []), ("hair", ["red"])],
    "maid headdress": [("headdress", ["maid"])],
    "black dress, maid headdress, white gloves": [
        ("dress", ["black"]),
        ("headdress", ["maid"]),
        ("gloves", ["white"]),
    ],
    # names
    "Spider-Man and Iron Man": [("Spider-Man", []), ("Man", ["Iron"])],
    "Iron Man and Captain America": [("Man", ["Iron"]), ("America", ["Captain"])],
    "Red and Blue Car": [("Car", ["Red", "Blue"])],
    "batman vs superman": [("batman", []), ("superman", [])],
    "Batman VS. Superman": [("Batman", []), ("Superman", [])],
    # a verb that is said once
    "the car is red, the bowl blue": CAR_AND_BOWL,
    "the car is red and the bowl blue": CAR_AND_BOWL,
    "the car is red, the bowl is blue, the cup green": [*CAR_AND_BOWL, ("cup", ["green"])],
    # a verb of one thing, and what is done to another
    "a white wolf howls at the red moon": [("wolf", ["white"]), ("moon", ["red"])],
    # words for the picture are no part of what it shows, and a phrase of several words is one thing
    "a photo of a dragon, octane render": [("dragon", [])],
    "concept art of a dog, 8k, octane render": [("dog", [])],
    "a chocolate cake, elegant, dark sky, oil painting": [("cake", ["chocolate"]), ("sky", ["elegant", "dark"])],
    "a knight in a garden, octane render, depth of field, white background, bokeh": [
        ("knight", []),
        ("garden", []),
        ("background", ["white"]),
    ],
    "a steam locomotive in front of a chocolate cake": [("locomotive", ["steam"]), ("cake", ["chocolate"])],
    "a photo of a steam locomotive in the snow": [("locomotive", ["steam"]), ("snow", [])],
    "mermaid on a beach": [("mermaid", []), ("beach", [])],
    "an illustration of red fox holding dragon in a forest": [("fox", ["red"]), ("dragon", []), ("forest", [])],
    "a golden retriever riding a wizard, dark sky": [("retriever", ["golden"]), ("wizard", []), ("sky", ["dark"])],
    "dark, castle, knight": [("castle", ["dark"]), ("knight", [])],
    "a haggard, lanky wizard, golden staff": [("wizard", ["haggard", "lanky"]), ("staff", ["golden"])],
    **{
        f"a red car {where} a blue bowl": CAR_AND_BOWL
        for where in ("beyond", "amongst", "ahead of", "far from", "opposite to", "parallel to", "throughout")
    },
    "an elf queen and castle": [("queen", ["elf"]), ("castle", [])],
    "close up of a red fox, dramatic shadows": [("fox", ["red"]), ("shadows", ["dramatic"])],
    "a red fox standing in a snowy forest": [("fox", ["red"]), ("forest", ["snowy"])],
    "a bald eagle splashing in a muddy puddle": [("eagle", ["bald"]), ("puddle", ["muddy"])],
    "The image depicts a serene scene featuring a red car, the scene is set in a garden": [
        ("car", ["red"]),
        ("garden", []),
    ],
    "a white train crossing an old bridge": [("train", ["white"]), ("bridge", ["old"])],
    "a man painting a red wall": [("man", []), ("wall", ["red"])],
    "a girl in a red dress holding white lilies": [("girl", []), ("dress", ["red"]), ("lilies", ["white"])],
    "a flower canvas on a wall": [("canvas", ["flower"]), ("wall", [])],
    "a beer can and a red glass": [("can", ["beer"]), ("glass", ["red"])],
    "a rusty trash can in an alley": [("can", ["rusty", "trash"]), ("alley", [])],
    "birds that can fly and a red kite": [("birds", []), ("kite", ["red"])],
    # participles that describe
    "a demon with glowing red eyes": [("demon", []), ("eyes", ["glowing", "red"])],
    "twins in matching blue coats": [("twins", []), ("coats", ["matching", "blue"])],
    "a fire breathing red dragon": [("dragon", ["fire breathing", "red"])],
    "a green fire-breathing dragon": [("dragon", ["green", "fire-breathing"])],
    "the bowl shiny and new": [("bowl", ["shiny", "new"])],
    "the sky clear and blue, a red kite": [("sky", ["clear", "blue"]), ("kite", ["red"])],
    # phrases in a list
    "a red hat, a blue scarf, black gloves, and brown boots": [
        ("hat", ["red"]),
        ("scarf", ["blue"]),
        ("gloves", ["black"]),
        ("boots", ["brown"]),
    ],
    "a clown with a red nose and rainbow hair": [("clown", []), ("nose", ["red"]), ("hair", ["rainbow"])],
    "a robot with a metal tail and red eyes": [("robot", []), ("tail", ["metal"]), ("eyes", ["red"])],
    "best quality,1girl,red hair,2boys": [("1girl", []), ("hair", ["red"]), ("2boys", [])],
    "dog&cat": CAT_AND_DOG[::-1],
    "red car::1.5 blue bowl::1": CAR_AND_BOWL,
    "cat(red collar), dog(blue hat)": [("cat", []), ("collar", ["red"]), ("dog", []), ("hat", ["blue"])],
    "a cat #cute #photography and a dog(s)": CAT_AND_DOG,
    "a red🚗car and a blue 🥣 bowl": CAR_AND_BOWL,
    "a red car, a blue bowl :d": CAR_AND_BOWL,
    "several red cars and just one blue bowl": [("cars", ["red"]), ("bowl", ["blue"])],
    "a red car instead of a blue bowl": CAR_AND_BOWL,
    # what is said of age and place
    "man, 45 years old, gray beard": [("man", []), ("beard", ["gray"])],
    "a girl, 7 years old, in a red dress": [("girl", []), ("dress", ["red"])],
    "red car left, blue bowl right": CAR_AND_BOWL,
    # artists
    "a red car, a blue bowl, art by Greg Rutkowski and Alphonse Mucha": CAR_AND_BOWL,
    "a red car, a blue bowl, by Greg Rutkowski, trending on artstation": CAR_AND_BOWL,
    "a red car and a blue bowl in the style of Van Gogh": CAR_AND_BOWL,
    "a red car, painted by Van Gogh, blue bowl": CAR_AND_BOWL,
    "a red car, by a blue bowl": CAR_AND_BOWL,
    "a painting by the sea and a cat": [("painting", []), ("sea", []), ("cat", [])],
    # marks of letters
    "a नमस्ते cat": [("cat", ["नमस्ते"])],
    "สุนัข": [("สุนัข", [])],
    "a red x\u0301y-z\u0301": [("x\u0301y-ź", ["red"])],
    "q\u0301 (red)": [("q\u0301", ["red"])],
    # words that share a token
    "a red car 😂😂": [("car", ["red"])],
    "a cat 🐱🐱 and a dog": CAT_AND_DOG,
    "a cat 👨‍👩‍👧 and a 🇩🇪 dog": CAT_AND_DOG,
    "an id card and a red bowl": [("card", ["id"]), ("bowl", ["red"])],
    "a dog that cannot fly and a cat": [("dog", []), ("cat", [])],
    # symbols between words
    "a red car | a blue bowl": CAR_AND_BOWL,
    "a red car || a blue bowl": CAR_AND_BOWL,
    "a red car + a blue bowl": CAR_AND_BOWL,
    "a red car / a blue bowl": CAR_AND_BOWL,
    "a red car → a blue bowl": CAR_AND_BOWL,
    "a red car — a blue bowl": CAR_AND_BOWL,
    "a red car 🚗 a blue bowl 🥣": CAR_AND_BOWL,
    "1. a red car 2. a blue bowl": CAR_AND_BOWL,
    "* a red car * a blue bowl": CAR_AND_BOWL,
    "a red car & a blue bowl": CAR_AND_BOWL,
    "a red car; a blue bowl.": CAR_AND_BOWL,
    "red/blue car": [("car", ["red", "blue"])],
    "a black–and–white cat": [("cat", ["black–and–white"])],
    # symbols at the edges of phrases
    "★red car★ ☆blue bowl☆": CAR_AND_BOWL,
    "red car♥ blue bowl": CAR_AND_BOWL,
    "🐱cat🐱 🐶dog🐶": CAT_AND_DOG,
    "a ✨dreamy✨ cat and a dog😊": [("cat", ["dreamy"]), ("dog", [])],
    "a red➊ car and a blue➋ bowl": CAR_AND_BOWL,
    "red car&a blue bowl": CAR_AND_BOWL,
    "a red car 'n' a blue bowl": CAR_AND_BOWL,
    "an R&B cat and the dog": [("cat", ["R&B"]), ("dog", [])],
    "a red car;1.2 a blue bowl;0.8": CAR_AND_BOWL,
    "a red 1965 car and a blue '65 bowl": CAR_AND_BOWL,
    "a woman in red 10 meters away from a dog": [("woman", ["red"]), ("meters", []), ("dog", [])],
    # brackets of other scripts, and between phrases
    "【red car】『blue bowl』": CAR_AND_BOWL,
    "a cat（black）and a dog〔white〕": [("cat", ["black"]), ("dog", ["white"])],
    "red car (masterpiece:1.2) (best quality:1.4) blue bowl": CAR_AND_BOWL,
    "red car (shiny, new) blue bowl": [("car", ["red", "shiny", "new"]), ("bowl", ["blue"])],
    "a cat (pirate) white dog": [("cat", []), ("pirate", []), ("dog", ["white"])],
    "a curly (blonde) long wig": [("wig", ["curly", "blonde", "long"])],
    # lists, lines, counts and calls as programs write them
    "a) cat b) dog c) red bird": [*CAT_AND_DOG, ("bird", ["red"])],
    "1.red car 2.blue bowl": CAR_AND_BOWL,
    "I. red car II. blue bowl": CAR_AND_BOWL,
    "[1] red car [2] blue bowl": CAR_AND_BOWL,
    "pets: #1 cat #2 dog": [("pets", []), *CAT_AND_DOG],
    "❶ red car ❷ blue bowl": CAR_AND_BOWL,
    "⑴red car ⑵blue bowl": CAR_AND_BOWL,
    "red car\\nblue bowl\\r\\nand a cat": [*CAR_AND_BOWL, ("cat", [])],
    "a red\\ncar and a blue bowl": CAR_AND_BOWL,
    "red car x2, x3 blue bowl": CAR_AND_BOWL,
    "red car (x2) blue bowl": CAR_AND_BOWL,
    "an iPhone X2 and a cat": [("X2", ["iPhone"]), ("cat", [])],
    '("red car", "blue bowl").blend(1, 0.5)': CAR_AND_BOWL,
    '"red car".swap("blue bowl")': CAR_AND_BOWL,
    "<break>red car<break>blue bowl": CAR_AND_BOWL,
    "a <lora:x:1> red car and <lora:y:1> blue bowl": CAR_AND_BOWL,
    "1.2::red car::, -.8::blue:: bowl": CAR_AND_BOWL,
    # weights of other programs, entities, and underscores for spaces
    "a red car:1.2 AND a blue bowl:0.8": CAR_AND_BOWL,
    "a red car::2 and a blue bowl::-.5": CAR_AND_BOWL,
    "a red:1.5 car, (a blue:1.1) bowl:2": CAR_AND_BOWL,
    "a ((red:1.3)) car and [[a blue bowl:.8]]": CAR_AND_BOWL,
    "a red car &amp; a blue bowl": CAR_AND_BOWL,
    "a red car&nbsp;and a blue bowl&#33;": CAR_AND_BOWL,
    "red_car, blue_bowl": CAR_AND_BOWL,
    "1girl, long_hair, blue_eyes": [("1girl", []), ("hair", ["long"]), ("eyes", ["blue"])],
    # places that are no objects, and colours that are worn
    "a photo of a cat right of a dog": CAT_AND_DOG,
    # captions of vision-language models
    "The image shows a red car and a blue bowl.": CAR_AND_BOWL,
    "The picture features a red car next to a blue bowl.": CAR_AND_BOWL,
    "This photo captures a red car and a blue bowl.": CAR_AND_BOWL,
    "The photograph depicts a red car. A blue bowl is next to it.": CAR_AND_BOWL,
    "In this image, there is a red car and a blue bowl.": CAR_AND_BOWL,
    "In the picture, a red car stands next to a blue bowl.": CAR_AND_BOWL,
    "An image with a red car and a blue bowl": CAR_AND_BOWL,
    "The image is of a red car and a blue bowl": CAR_AND_BOWL,
    "The main subject of the image is a red car. There is a blue bowl in the scene.": CAR_AND_BOWL,
    "a photo in which a red car stands next to a blue bowl": CAR_AND_BOWL,
    "a bird’s eye view of a red car and a blue bowl": CAR_AND_BOWL,
    "a children’s book illustration, a red car and a blue bowl": CAR_AND_BOWL,
    "Revised prompt: a red car and a blue bowl": CAR_AND_BOWL,
    "a red car and a blue bowl 1024X1536": CAR_AND_BOWL,
    "red cars = 3, blue bowls = 2": [("cars", ["red"]), ("bowls", ["blue"])],
    "a room with photo displays and a red car": [("room", []), ("displays", ["photo"]), ("car", ["red"])],
    "a dog in the photo on a red car": [("dog", []), ("photo", []), ("car", ["red"])],
    # lines that end in a stop
    "A red car.\nBlue bowl": [("car", ["red"]), ("bowl", ["Blue"])],
    "a cat:\nred car, blue bowl": [("cat", []), *CAR_AND_BOWL],
    "a red car;\nblue bowl": CAR_AND_BOWL,
    "-red car\n-blue bowl": CAR_AND_BOWL,
    "a cat\n-red car\n-blue bowl": [("cat", []), *CAR_AND_BOWL],
    "a green dog\n1.red car\n2.blue bowl": [("dog", ["green"]), *CAR_AND_BOWL],
    "A photo that shows a red car and a blue bowl": CAR_AND_BOWL,
    "an image where a red car stands next to a blue bowl": CAR_AND_BOWL,
    "A photo featuring a red car, an image containing a blue bowl": CAR_AND_BOWL,
    "a man with a photo with a red frame": [("man", []), ("photo", []), ("frame", ["red"])],
    "a red car right of a blue bowl": CAR_AND_BOWL,
    "a car left of a bowl": [("car", []), ("bowl", [])],
    "The red car was next to the blue bowl.": CAR_AND_BOWL,
    "a red car that is next to a blue bowl": CAR_AND_BOWL,
    "The red car was close to the blue bowl": CAR_AND_BOWL,
    "a woman in red and a man in blue": [("woman", ["red"]), ("man", ["blue"])],
    "a man in black holding a red umbrella": [("man", ["black"]), ("umbrella", ["red"])],
    "a man in blue jeans": [("man", []), ("jeans", ["blue"])],
    # what programs read: HTML, parameters that end a prompt
    "a <b>red</b> car and a blue bowl": CAR_AND_BOWL,
    "<p>a red car</p><p>a blue bowl</p>": CAR_AND_BOWL,
    "a <span style='color:red'>red</span> car<br/>a blue <i>bowl</i>": CAR_AND_BOWL,
    "<|startoftext|>a red&nbsp;car <!-- a dog --> and a blue bowl<|endoftext|>": CAR_AND_BOWL,
    "a red car and a blue bowl --no bowl, green dog --ar 16:9": CAR_AND_BOWL,
    "a red car and a blue bowl --style raw": CAR_AND_BOWL,
    "a red car and a blue bowl —ar 16:9 -v 5": CAR_AND_BOWL,
    "--ar 16:9 a red car and a blue bowl": CAR_AND_BOWL,
    "a red car, a blue bowl\nNegative prompt: dog\nSteps: 20, Sampler: Euler a": CAR_AND_BOWL,
    "/imagine prompt: a red car and a blue bowl": CAR_AND_BOWL,
    "> Prompt 1: a red car and a blue bowl": CAR_AND_BOWL,
    "Image prompt: a red car and a blue bowl": CAR_AND_BOWL,
    'prompt="a red car and a blue bowl",\nnegative_prompt="ugly cat"': CAR_AND_BOWL,
    'const prompt = "a red car and a blue bowl";': CAR_AND_BOWL,
    "images = pipe(prompt='a red car and a blue bowl', num_inference_steps=50, eta=0.0)": CAR_AND_BOWL,
    'image = pipeline("a red car and a blue bowl", guidance_scale = 7.5).images[0]': CAR_AND_BOWL,
    "a red car and a blue bowl, seed=42, steps=20": CAR_AND_BOWL,
    "rating: safe, source: anime, a red car and a blue bowl": CAR_AND_BOWL,
    "Positive: a red car and a blue bowl. Negative: blurry dog.": CAR_AND_BOWL,
    "Prompt: a red car and a blue bowl\nNegative: ugly dog": CAR_AND_BOWL,
    "a red car and a blue bowl | negative: ugly dog": CAR_AND_BOWL,
    "a red car and a blue bowl 1024x1024": CAR_AND_BOWL,
    "a red car, a blue bowl, 1920 × 1080 px": CAR_AND_BOWL,
    "red car and blue bowl, 4K Ultra HD Wallpaper 1920x1080": CAR_AND_BOWL,
    "a new 1920x1080 monitor": [("monitor", ["new"])],
    "a 2x4 plank and a red car": [("plank", ["2x4"]), ("car", ["red"])],
    "Prompt: a [b]red[/b] car\\nand a <b> blue bowl": CAR_AND_BOWL,
    # letters of other widths
    "ａ ｒｅｄ ｃａｒ ａｎｄ ａ ｂｌｕｅ ｂｏｗｌ": [("ｃａｒ", ["ｒｅｄ"]), ("ｂｏｗｌ", ["ｂｌｕｅ"])],
    "ＲＥＤ ＣＡＲ": [("ＣＡＲ", ["ＲＥＤ"])],
    "a 𝐫𝐞𝐝 ﬁsh and a dog (ｂｌａｃｋ)": [("ﬁsh", ["𝐫𝐞𝐝"]), ("dog", ["ｂｌａｃｋ"])],
    "a cat on the ｌｅｆｔ": [("cat", [])],
    # decades
    "1960s car": [("car", ["1960s"])],
    "a 1960's car and an 80s robot": [("car", ["1960's"]), ("robot", ["80s"])],
    "a vintage 1950s red diner": [("diner", ["vintage", "1950s", "red"])],
    "a car from the 1960s": [("car", [])],
    # places in the picture
    "a car on the left": [("car", [])],
    "on the left a red car, on the right a blue bowl": CAR_AND_BOWL,
    "left: a red car, right: a blue bowl": CAR_AND_BOWL,
    "a cat at the top, a dog in the background": CAT_AND_DOG,
    "a cat in the top left corner and a dog on the right side": CAT_AND_DOG,
    "a cat in the foreground and a dog in the distance": CAT_AND_DOG,
    "a cat in the middle of the picture, a dog at the left edge of the image": CAT_AND_DOG,
    "in the background there is a red car": [("car", ["red"])],
    "a cat in front of the picture": [("cat", []), ("picture", [])],
    "a car on a white background": [("car", []), ("background", ["white"])],
    "a cat on the left shelf": [("cat", []), ("shelf", ["left"])],
    "a woman in a red top": [("woman", []), ("top", ["red"])],
    # phrases side by side
    "red car blue bowl": CAR_AND_BOWL,
    "a red car blue bowl": CAR_AND_BOWL,
    "big cat small dog": [("cat", ["big"]), ("dog", ["small"])],
    "red sports car blue fire truck": [("car", ["red", "sports"]), ("truck", ["blue", "fire"])],
    "red apple green pear yellow banana": [("apple", ["red"]), ("pear", ["green"]), ("banana", ["yellow"])],
    "a red car 4k 8k": [("car", ["red"])],
    "a new 4k tv": [("tv", ["new", "4k"])],
    "red car blue bowl hd masterpiece": CAR_AND_BOWL,
    "car red, bowl blue": CAR_AND_BOWL,
    "a man painted a wall red": [("man", []), ("wall", ["red"])],
    "young girl blue dress, old man red hat": [
        ("girl", ["young"]),
        ("dress", ["blue"]),
        ("man", ["old"]),
        ("hat", ["red"]),
    ],
    "a white marble round table": [("table", ["white", "marble", "round"])],
    "a black leather big bag": [("bag", ["black", "leather", "big"])],
    "a big sky blue car": [("car", ["big", "sky", "blue"])],
    # nouns with participles
    "a rainbow colored penguin": [("penguin", ["rainbow", "colored"])],
    "a cream coloured big dog": [("dog", ["cream", "coloured", "big"])],
    "a snow covered mountain": [("mountain", ["snow", "covered"])],
    "a shiny wood framed mirror": [("mirror", ["shiny", "wood", "framed"])],
    "a rainbow striped sweater": [("sweater", ["rainbow", "striped"])],
    "a polka dotted red dress": [("dress", ["polka", "dotted", "red"])],
    "a green eyed cat": [("cat", ["green", "eyed"])],
    "a wall painted bright red and a dog": [("wall", ["bright", "red"]), ("dog", [])],
    "a car painted gold": [("car", ["gold"])],
    "the wall is painted red": [("wall", ["red"])],
    "a man dressed in red": [("man", ["red"])],
    # symbols at a word's edge
    "a [red] car and a {blue} bowl": CAR_AND_BOWL,
    "a <red> car and a #blue bowl": CAR_AND_BOWL,
    "a *red* car and a _blue_ bowl": CAR_AND_BOWL,
    "a ~red~ car and a ((blue)) bowl": CAR_AND_BOWL,
    "a red [car] and a blue (bowl)": CAR_AND_BOWL,
    "a cat!!! and a dog???": CAT_AND_DOG,
    "#cat and #dog": CAT_AND_DOG,
    # quotes and brackets
    'a "red" car and a “blue” bowl': CAR_AND_BOWL,
    "a «red» car and a ‘blue’ bowl": CAR_AND_BOWL,
    'a "bright red" car': [("car", ["bright", "red"])],
    "a (very big) dog and a cat": [("dog", ["very", "big"]), ("cat", [])],
    "a [red and blue] car": [("car", ["red", "blue"])],
    "a [red] [shiny] car": [("car", ["red", "shiny"])],
    'two "red" and "blue" cars': [("cars", ["red", "blue"])],
    "a cat (with a red hat) and a dog": [("cat", []), ("hat", ["red"]), ("dog", [])],
    'a poster with the words "red car"': [("poster", []), ("words", []), ("car", ["red"])],
    "the dogs' red house": [("dogs", []), ("house", ["red"])],
    # pronouns and their kind
    "two cats looking at each other": [("cats", [])],
    "a dog and others": [("dog", [])],
    "someone holding a red hat": [("hat", ["red"])],
    # lists of adjectives
    "a sleek, futuristic, chrome robot": [("robot", ["sleek", "futuristic", "chrome"])],
    "a soft, plush, brown bear": [("bear", ["soft", "plush", "brown"])],
    "a shiny, chrome robot and a cat": [("robot", ["shiny", "chrome"]), ("cat", [])],
    "a tall, slender woman": [("woman", ["tall", "slender"])],
    "a small, cozy, rustic, stone cottage": [("cottage", ["small", "cozy", "rustic", "stone"])],
    "an orange, banana and apple": [("orange", []), ("banana", []), ("apple", [])],
    "a red car, blue bowl and green cup": [*CAR_AND_BOWL, ("cup", ["green"])],
    # nouns in -ing
    "a red starling and a blue herring": [("starling", ["red"]), ("herring", ["blue"])],
    "a herring, a whiting and a red pot": [("herring", []), ("whiting", []), ("pot", ["red"])],
    "red starling, blue herring": [("starling", ["red"]), ("herring", ["blue"])],
    "a starling on a branch": [("starling", []), ("branch", [])],
    "a barking and growling dog": [("dog", ["barking", "growling"])],
    "a running and jumping dog": [("dog", ["running", "jumping"])],
    "a dog eating, yodeling and snoring": [("dog", [])],
    # contracted verbs
    "a dog that isn't red and a cat": [("dog", ["red"]), ("cat", [])],
    "a dog that’s red and a cat": [("dog", ["red"]), ("cat", [])],
    "the dogs aren't red and the cat is black": [("dogs", ["red"]), ("cat", ["black"])],
    "they're red dogs": [("dogs", ["red"])],
    "a cat that can't see a red dog": [("cat", []), ("dog", ["red"])],
    "a cat's red hat": [("cat", []), ("hat", ["red"])],
    # nouns that a tagger takes for verbs, and lists without articles
    "a rose in a violet vase": [("rose", []), ("vase", ["violet"])],
    "a white rose and a gray balloon": [("rose", ["white"]), ("balloon", ["gray"])],
    "a shiny white rose on a gray balloon": [("rose", ["shiny", "white"]), ("balloon", ["gray"])],
    "a black frog and a silver dolphin": [("frog", ["black"]), ("dolphin", ["silver"])],
    "a pink sled on a red hamster": [("sled", ["pink"]), ("hamster", ["red"])],
    "a flute with a purple dolphin": [("flute", []), ("dolphin", ["purple"])],
    "a gray gate and a green can": [("gate", ["gray"]), ("can", ["green"])],
    "a white colored saw and an orange door": [("saw", ["white", "colored"]), ("door", ["orange"])],
    "red sock, brown whale": [("sock", ["red"]), ("whale", ["brown"])],
    "golden eagle and teal table": [("eagle", ["golden"]), ("table", ["teal"])],
    "yellow ladder and maroon balloon": [("ladder", ["yellow"]), ("balloon", ["maroon"])],
    "a turquoise, shiny rat and a dog": [("rat", ["turquoise", "shiny"]), ("dog", [])],
    "a maroon, scarlet, plaid chair": [("chair", ["maroon", "scarlet", "plaid"])],
    "a medieval dolphin and an antique dog": [("dolphin", ["medieval"]), ("dog", ["antique"])],
    "an indigo purple wolf": [("wolf", ["indigo", "purple"])],
    "a lavender wrench with a scarlet vase": [("wrench", ["lavender"]), ("vase", ["scarlet"])],
    "purple ant, red desk": [("ant", ["purple"]), ("desk", ["red"])],
    "green towel, pink arrow": [("towel", ["green"]), ("arrow", ["pink"])],
    "a silver wine glass and a snow-white swan": [("glass", ["silver", "wine"]), ("swan", ["snow-white"])],
    "the coat is silver and the squirrel is yellow": [("coat", ["silver"]), ("squirrel", ["yellow"])],
    "a violet that is golden and a lion": [("violet", ["golden"]), ("lion", [])],
    # what programs read in a prompt
    "a (red:1.3) car and a (blue bowl:0.8)": CAR_AND_BOWL,
    "a [red:0.5] car and a {blue:.7} bowl": CAR_AND_BOWL,
    "<lora:pixelart:0.8> a red car and a blue bowl <lora:add_detail:1>": CAR_AND_BOWL,
    "a red car BREAK a blue bowl": CAR_AND_BOWL,
    "a red car and a blue bowl --ar 16:9 --v 5 --niji": CAR_AND_BOWL,
    "https://example.com/a_dog.png a red car and a blue bowl": CAR_AND_BOWL,
    # requests
    "please draw a red car and a blue bowl": CAR_AND_BOWL,
    "show me a red car and a blue bowl": CAR_AND_BOWL,
    "I want a red car and a blue bowl": CAR_AND_BOWL,
    "Can you paint a red car and a blue bowl?": CAR_AND_BOWL,
    # places
    "a red car to the left of a blue bowl": CAR_AND_BOWL,
    "a red car on the right side of a blue bowl": CAR_AND_BOWL,
    "a red car on the bottom of a blue bowl": CAR_AND_BOWL,
    "a red car left of a blue bowl": CAR_AND_BOWL,
    # units, abbreviations, sentences
    "a 10kg dumbbell and a 5-year-old boy": [("dumbbell", ["10kg"]), ("boy", ["5-year-old"])],
    "a U.S. flag by J.R.R. Tolkien": [("flag", ["U.S"]), ("Tolkien", ["J.R.R"])],
    "Mr. Smith's red car": [("Smith", ["Mr"]), ("car", ["red"])],
    "a red car.a blue bowl": CAR_AND_BOWL,
    "a red car!a blue bowl": CAR_AND_BOWL,
    "a red car vs a blue bowl": CAR_AND_BOWL,
    "a dog named Rex and a box labeled Fragile": [("dog", []), ("Rex", []), ("box", []), ("Fragile", [])],
    # single quotes are quotes, and apostrophes between letters and after plurals
    "a red 'bowl' and a blue 'cup'": [("bowl", ["red"]), ("cup", ["blue"])],
    "a 'bird' and a 'frog'": [("bird", []), ("frog", [])],
    "a 'bright' bowl, the cats' red hats and a cat's 'old' bed": [
        *[("bowl", ["bright"]), ("cats", []), ("hats", ["red"])],
        *[("cat", []), ("bed", ["old"])],
    ],
    # adjectives that no list has, and nouns that end like them
    "a scruffy, one-eyed, ginger tomcat on a worn, velvet armchair": [
        *[("tomcat", ["scruffy", "one-eyed", "ginger"]), ("armchair", ["worn", "velvet"])],
    ],
    "a lanky, tall man and a frail, old woman": [("man", ["lanky", "tall"]), ("woman", ["frail", "old"])],
    "a puppy, red leaves": [("puppy", []), ("leaves", ["red"])],
    "a green filling and a red apple": [("filling", ["green"]), ("apple", ["red"])],
    "a blue crossing behind a red van": [("crossing", ["blue"]), ("van", ["red"])],
    # contractions
    "a dog that ain't red and a cat": [("dog", ["red"]), ("cat", [])],
    "a car that needn't be red and a boat": [("car", ["red"]), ("boat", [])],
    "a bike which shan't move and a bench": [("bike", []), ("bench", [])],
    # words that point to others
    "a man and a woman facing each other": [("man", []), ("woman", [])],
    "two trains passing each other": [("trains", [])],
    "the other dog and another cat": [("dog", []), ("cat", [])],
    # kinds of pictures, and what a camera is set to
    **{
        f"{kind} of a red car": [("car", ["red"])]
        for kind in (
            *("a lithograph", "an engraving", "a doodle", "cover art", "a comic strip", "video still"),
            *("a cinematic still", "drone shot", "a product shot"),
        )
    },
    # words for the picture, however they are written
    **{
        prompt: [("fox", ["red"])]
        for prompt in (
            *("looking_at_viewer, red fox, depth_of_field", "(photo:1.2) of a red fox", '"photo" of a red fox'),
            *("*photo* of a red fox", "a red fox (photo)", "a red fox / photo", "a red fox - oil_painting"),
            *("high-quality, a red fox", "**Style:** oil painting, a red fox", "[Digital-Art], a red fox"),
        )
    },
    # weights, signs and letters of programs, pages and other scripts
    "a lamp and a pink- chair": [("lamp", []), ("chair", ["pink"])],
    "a red++ car and a (blue bowl)--": CAR_AND_BOWL,
    "a (red)+ car and a (blue)- bowl": CAR_AND_BOWL,
    "red car::blue bowl": CAR_AND_BOWL,
    "(red car:1.2), (blue bowl:1.2)": CAR_AND_BOWL,
    "red car AND blue bowl": CAR_AND_BOWL,
    "a &quot;red&quot; car &amp; a blue bowl": CAR_AND_BOWL,
    "a &#39;red&#39; car, &lt;blue&gt; bowl": CAR_AND_BOWL,
    "(red：1.2) car，blue bowl": CAR_AND_BOWL,
    "red car، blue bowl": CAR_AND_BOWL,
    "red car。blue bowl": CAR_AND_BOWL,
    "a leather (jacket:1.3)": [("jacket", ["leather"])],
    'a velvet "car"': [("car", ["velvet"])],
    "1girl, depth of field": [("1girl", [])],
    '"prompt": "a red car"': [("car", ["red"])],
    '{"prompt": "a red car", "negative_prompt": "blurry dog"}': [("car", ["red"])],
    'prompt = "a red car"': [("car", ["red"])],
    "**Prompt:** a red car": [("car", ["red"])],
    "### Prompt\na red car": [("car", ["red"])],
    "a red car ### blurry, ugly dog": [("car", ["red"])],
    "score_9, source_anime, rating_safe, 1girl": [("1girl", [])],
    "artist:wlop, (artist:some_one:1.2) 1girl": [("1girl", [])],
    "1girl blue_eyes red_hair": [("1girl", []), ("eyes", ["blue"]), ("hair", ["red"])],
    "a dog_house and a cat_tree": [("house", ["dog"]), ("tree", ["cat"])],
    # and what only looks like theirs
    "A GOLDEN MASK AND A RED FEATHER": [("MASK", ["GOLDEN"]), ("FEATHER", ["RED"])],
    "artist: a man painting a red car": [("artist", []), ("man", []), ("car", ["red"])],
    "3 yo-yos and a red car": [("yo-yos", []), ("car", ["red"])],
    "a leather\njacket": [("jacket", ["leather"])],
    "a big fire\ntruck": [("truck", ["big", "fire"])],
    "## Scene ### a red car": [("Scene", []), ("car", ["red"])],
    "a red car ### Background: a bowl": [("car", ["red"]), ("bowl", [])],
    "a coffee ☕mug": [("mug", ["coffee"])],
    "a multi-\ncolored bird": [("bird", ["multi", "colored"])],
    "a cat chasing\na white horse": [("cat", []), ("horse", ["white"])],
    "•red car •blue bowl": CAR_AND_BOWL,
    "✅red car →blue bowl": CAR_AND_BOWL,
    "🚗red car 🥣blue bowl": CAR_AND_BOWL,
    "['red car','blue bowl']": CAR_AND_BOWL,
    '["red car","blue bowl"]': CAR_AND_BOWL,
    "red car AND_PERP blue bowl": CAR_AND_BOWL,
    "red car MASK(0, 0.5) AND blue bowl FEATHER(10)": CAR_AND_BOWL,
    "red car\tblue bowl": CAR_AND_BOWL,
    "a close up portrait photo of 26 y.o woman in a red coat": [("woman", []), ("coat", ["red"])],
    # what is said to somebody
    **{
        f"a red car {word}{rest}": [("car", ["red"]), *([("bowl", ["blue"])] if rest else [])]
        for word in ("lol", "XD", "hahaha", "thanks", "omg")
        for rest in ("", " and a blue bowl", ", a blue bowl")
    },
    "a child's drawing of a red car": [("car", ["red"])],
    "kids' drawing of a red car": [("car", ["red"])],
    "a red car, ISO 100, 1/200s, f/2.8, Canon EOS R5, DSLR": [("car", ["red"])],
    "a red car and a blue bowl, f1.8, isometric": CAR_AND_BOWL,
    "a red car and a bowl, isometric, a white wall": [("car", ["red"]), ("bowl", []), ("wall", ["white"])],
    "two dozen pink flamingos and a dozen roses": [("flamingos", ["pink"]), ("roses", [])],
}


@pytest.mark.parametrize("parser", SMALL)
@pytest.mark.parametrize("prompt", READ_BY_ALL)
def test_odd_prompts_are_read_like_plain_ones(parser: str, prompt: str) -> None:
    assert named(parse(prompt, TOKENIZER, parser)) == READ_BY_ALL[prompt]


_COLOURED = tuple(sorted(lexicon.COLOURS - {"colored", "coloured"}))
_NOUNS = ("cat", "dog", "bear", "monkey", "turtle", "penguin", "duck", "car", "chair", "bowl", "crown", "shoe", "apple")
_PAIRS = (
    ("{0} {1} and {2} {3}", "1:0 3:2"),
    ("{0} {1} {2} {3}", "1:0 3:2"),
    ("the {0} {1} on a {2} {3}", "1:0 3:2"),
    ("my {0}, {2} {1}", "1:0,2"),
    ("the {1} is {0}", "1:0"),
)


@pytest.mark.slow
@pytest.mark.parametrize("parser", SMALL)
def test_colours_and_nouns_are_pairs_however_they_stand(parser: str) -> None:
    rng = random.Random(7)
    wrong = []
    for template, groups in _PAIRS * 30:
        said = [word for pair in zip(rng.sample(_COLOURED, 2), rng.sample(_NOUNS, 2), strict=True) for word in pair]
        wanted = [
            (said[int(noun)], [said[int(k)] for k in modifiers.split(",")])
            for noun, _, modifiers in (group.partition(":") for group in groups.split())
        ]
        if (got := named(parse(template.format(*said), TOKENIZER, parser))) != wanted:
            wrong.append((template.format(*said), got))
    assert len(wrong) <= (0 if parser == "rules" else 1), wrong


_DOING = (
    *("standing in", "swimming in", "juggling with", "hiding behind", "grazing in", "splashing in", "marching past"),
    *("skiing down", "fishing from", "lying on", "knitting near", "drinking from"),
)
_WHO = ("fox", "retriever", "panda", "dolphin", "eagle", "corgi", "ballerina", "robot", "turtle", "kitten")


@pytest.mark.slow
@pytest.mark.parametrize("parser", SMALL)
@pytest.mark.parametrize("lead", ["", "a photo of ", "The photograph captures ", "The scene shows "])
def test_what_somebody_does_is_no_object(parser: str, lead: str) -> None:
    for who in _WHO:
        for what in _DOING:
            prompt = f"{lead}a small {who} {what} a white bowl"
            assert named(parse(prompt, TOKENIZER, parser)) == [(who, ["small"]), ("bowl", ["white"])], prompt


_THINGS = (
    "castle",
    "dragon",
    "sofa",
    "elf",
    "lake",
    "wolf",
    "lamp",
    "robot",
    "umbrella",
    "mushroom",
    "locomotive",
    "river",
)
_TAGS = ("octane render", "8k", "by greg rutkowski", "illustration", "front view", "film grain", "studio portrait")


@pytest.mark.slow
@pytest.mark.parametrize("parser", SMALL)
def test_things_in_a_list_are_things_whatever_words_for_the_picture_are_among_them(parser: str) -> None:
    rng = random.Random(4)
    for _ in range(150):
        things = rng.sample(_THINGS, rng.randint(2, 4))
        listed = [rng.choice((thing, f"the {thing}", f"a dark {thing}")) for thing in things]
        for word in rng.sample(_TAGS, rng.randint(0, 3)):
            listed.insert(rng.randint(0, len(listed)), word)
        found = named(parse(prompt := ", ".join(listed), TOKENIZER, parser))
        assert [noun for noun, _ in found] == things, prompt
        assert all(modifiers in ([], ["dark"]) for _, modifiers in found), prompt


@pytest.mark.parametrize("parser", SMALL)
@pytest.mark.parametrize("kind", ["ultra realistic", "8k", "wildlife", "watercolor", "golden hour", "kodak portra"])
def test_how_a_picture_is_made_is_no_object(parser: str, kind: str) -> None:
    for word in ("photo", "portrait", "illustration"):
        assert named(parse(f"a lion, a zebra, {kind} {word}", TOKENIZER, parser)) == [("lion", []), ("zebra", [])]


@pytest.mark.parametrize("parser", [name for name in SMALL if name != "rules"])
def test_sentences_that_look_like_lists_are_read_by_who_knows_verbs(parser: str) -> None:
    for prompt, wanted in {
        "snow falls, quiet village": [("snow", []), ("village", ["quiet"])],
        "a girl feeds ducks, small pond": [("girl", []), ("ducks", []), ("pond", ["small"])],
        "people watch fireworks, night sky": [("people", []), ("fireworks", []), ("sky", ["night"])],
        "girl, sword, stunning": [("girl", []), ("sword", [])],
        "woman barefoot, white dress": [("woman", []), ("dress", ["white"])],
    }.items():
        assert named(parse(prompt, TOKENIZER, parser)) == wanted


@pytest.mark.parametrize("parser", [name for name in SMALL if name != "rules"])
def test_a_word_alone_between_commas_takes_nothing_from_a_list(parser: str) -> None:
    fox_and_owl = [("fox", ["red"]), ("owl", ["blue"])]
    for alone in ("cinematic", "outdoors", "standing", "biomechanical"):
        assert named(parse(f"red fox, {alone}, blue owl", TOKENIZER, parser))[:1] == fox_and_owl[:1]
        assert named(parse(f"red fox, blue owl, {alone}", TOKENIZER, parser)) == fox_and_owl
    assert named(parse("anthropomorphic, red fox, blue owl", TOKENIZER, parser)) == [
        ("fox", ["anthropomorphic", "red"]),
        ("owl", ["blue"]),
    ]


@pytest.mark.parametrize("parser", SMALL)
@pytest.mark.parametrize(
    ("label", "objects"),
    [
        ("Background: a wooden table", [("table", ["wooden"])]),
        ("**Background:** a wooden table", [("table", ["wooden"])]),
        ("Location: a beach", [("beach", [])]),
        ("Camera: close-up", []),
        ("Mood: calm", []),
        ("Hair: red\nEyes: green", [("Hair", ["red"]), ("Eyes", ["green"])]),
    ],
)
def test_a_label_begins_its_line(parser: str, label: str, objects: list[tuple[str, list[str]]]) -> None:
    for first in ("a purple crown and a blue suitcase", "Here there are a purple crown and a blue suitcase"):
        found = named(parse(f"{first}\n{label}", TOKENIZER, parser))
        assert found == [("crown", ["purple"]), ("suitcase", ["blue"]), *objects]


@pytest.mark.parametrize("parser", SMALL)
@pytest.mark.parametrize(
    "text",
    [
        "Here's a prompt: {}",
        'Sure! Here is a revised image prompt for you:\n\n"{}"',
        "Here is a description of the image: {}",
        "Write a prompt for {}",
        "Title: {}",
        "Scene 1: {}",
        "{}\n\nLet me know if you want any changes!",
        "{}. Hope this helps!",
        "{}\n(Note: adjust the lighting)",
        "{}\n\n---\n\nNotes: keep the colors vivid",
    ],
)
def test_what_assistants_write_around_a_prompt_is_no_object(parser: str, text: str) -> None:
    wanted = [("fox", ["red"]), ("bird", ["blue"])]
    assert named(parse(text.format("a red fox and a blue bird"), TOKENIZER, parser)) == wanted


@pytest.mark.parametrize("parser", SMALL)
def test_what_a_sign_says_ends_no_prompt(parser: str) -> None:
    for text in (
        'a sign that says "let me know"',
        "a card saying feel free to smile",
        'a poster, "would you like tea?"',
    ):
        found = named(parse(f"{text}, a red car and a blue dog", TOKENIZER, parser))
        assert found[-2:] == [("car", ["red"]), ("dog", ["blue"])]
    found = named(parse("Here is a dog with a caption: good boy", TOKENIZER, parser))
    assert found[0] == ("dog", [])


@pytest.mark.parametrize("parser", SMALL)
def test_what_somebody_does_to_things(parser: str) -> None:
    for prompt, wanted in {
        "a fox reading books": ["fox", "books"],
        "a bear riding bikes and a red car": ["bear", "bikes", "car"],
        "a car playing soccer, digital art": ["car", "soccer"],
        "a wolf howling, a red moon": ["wolf", "moon"],
        "a red moon and a wolf howling": ["moon", "wolf"],
        "a pair of running shoes": ["shoes"],
        "hyper realistic, black cat, white dog": ["cat", "dog"],
    }.items():
        assert [noun for noun, _ in named(parse(prompt, TOKENIZER, parser))] == wanted


@pytest.mark.parametrize("parser", SMALL)
def test_things_that_are_verbs_too_are_things(parser: str) -> None:
    for prompt, wanted in {
        "a toilet and sink in a room": ["toilet", "sink", "room"],
        "a hammer and saw on a bench": ["hammer", "saw", "bench"],
        "a red car next to a fire hydrant": ["car", "hydrant"],
        "a stove top oven next to a sink": ["oven", "sink"],
        "a red-eyed tree frog on a leaf": ["frog", "leaf"],
    }.items():
        assert [noun for noun, _ in named(parse(prompt, TOKENIZER, parser))] == wanted


@pytest.mark.parametrize("parser", SMALL)
def test_what_was_done_to_a_thing_is_no_thing(parser: str) -> None:
    for done in ("lit by a lamp", "hidden under a lamp", "stuck on a lamp", "lost without it, a lamp"):
        assert named(parse(f"a red car {done}", TOKENIZER, parser)) == [("car", ["red"]), ("lamp", [])]
    assert named(parse("a house at night, lit by a lamp", TOKENIZER, parser))[-1] == ("lamp", [])
    assert named(parse("a hidden door and two lit candles", TOKENIZER, parser)) == [
        ("door", ["hidden"]),
        ("candles", ["lit"]),
    ]
    for done in ("painted red", "tinted red", "colored red"):
        for then in ("next to a house", "standing by a house", "made of a house"):
            assert named(parse(f"an owl {done} {then}", TOKENIZER, parser)) == [("owl", ["red"]), ("house", [])]


@pytest.mark.parametrize("parser", SMALL)
@pytest.mark.parametrize("rest", ["oil painting", "concept art", "HD wallpaper", "stock photo", "octane render"])
def test_words_for_the_picture_after_a_thing_leave_it(parser: str, rest: str) -> None:
    for prompt in ("a red fox and a blue bird", "a fox next to a blue bird", "White bird"):
        before = [(noun, words) for noun, words in named(parse(prompt, TOKENIZER, parser))]
        assert named(parse(f"{prompt} {rest}", TOKENIZER, parser)) == before
        assert named(parse(f"{prompt} {rest}, 8k", TOKENIZER, parser)) == before


@pytest.mark.parametrize("parser", SMALL)
def test_what_is_compared_stays_an_object(parser: str) -> None:
    for how in ("bigger", "taller", "older", "faster"):
        found = named(parse(f"a dog {how} than a red house", TOKENIZER, parser))
        assert [(noun, set(words) - {how}) for noun, words in found] == [("dog", set()), ("house", {"red"})]


@pytest.mark.parametrize("parser", SMALL)
def test_colours_before_a_comma_and_and_are_of_one_thing(parser: str) -> None:
    for lead in ("", "a wall with "):
        found = named(parse(f"{lead}red, white, and blue flags", TOKENIZER, parser))
        assert found[-1] == ("flags", ["red", "white", "blue"])
    assert named(parse("two dogs, both black", TOKENIZER, parser)) == [("dogs", ["black"])]
    assert named(parse("boy with dog and red ball", TOKENIZER, parser)) == [("boy", []), ("dog", []), ("ball", ["red"])]


@pytest.mark.parametrize("parser", [name for name in SMALL if name != "rules"])
def test_places_that_are_named_by_what_is_done_there_are_things(parser: str) -> None:
    for place in ("forest clearing", "rail crossing", "moon landing"):
        assert named(parse(f"a {place} in the sun", TOKENIZER, parser))[0][0] == place.split()[1]


@pytest.mark.filterwarnings("ignore:the text encoder sees")
def test_a_prompt_of_many_words_for_the_picture_is_read_at_once() -> None:
    started = time.process_time()
    with pytest.raises(PromptError, match="beyond the 75 tokens"):
        parse("8k, " * 2490 + "cat", TOKENIZER, "rules")
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "prompt",
    [
        *("long_hair, blue_eyes", "B_ cat", "(red_car), _blue_ bowl_", "a jack-o'-lantern", "a\\nred cat\\n1girl"),
        *("a red➊ car, ①girl", "a n't dog", "andcan'tphoto"),
    ],
)
def test_groups_in_words_are_the_same_groups(prompt: str) -> None:
    parsed = parse(prompt, TOKENIZER, "rules")
    assert parse(prompt, TOKENIZER, groups=words.in_words(parsed)).groups == parsed.groups


def test_a_symbol_inside_a_token_does_not_hide_the_word() -> None:
    for parser in SMALL:
        parsed = parse("a 'red' car", TOKENIZER, parser)  # CLIP takes "'re" for a word, as in "they're"
        assert parsed.groups == (Group((5,), ((2, 3),)),)


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ('a "red" car', "a red car"),
        ("a red car | a bowl", "a red car, a bowl"),
        ("red|blue—cat", "red,blue,cat"),
        ("t-shirt and 1/2 O’Neil", "t-shirt and 1,2 O’Neil"),
        ("हिन्दी ❤️ dog…", "हिन्दी, dog"),
        ("- a cat", "a cat"),
        ("cat ,| , (dog) ,bird", "cat, dog, bird"),
        ("the dogs' hats, (two)", "the dogs' hats, two"),
    ],
)
def test_the_text_that_parsers_read(prompt: str, wanted: str) -> None:
    text, indices = without_signs(prompt)
    assert text == wanted
    assert all(text[k] in (prompt[i], ",", " ", "-") for k, i in enumerate(indices))


# Any text

_WORDS = (
    "a an the red blue cat dog car two that is isn't can't and or with of in other each who it running starling very "
    "black-and-white t-shirt id 3d cat's dogs' É İstanbul ß 漢字 हिन्दी ภาษา العربية cafe\u0301 photo 1. and/or"
)
_SIGNS = (
    *"|[](){}\"'“”‘’*_#@…-–—/\\&+=<>~`$%^→♥①½،。.,;:!?",
    *("😂😂", "👍🏽", "👨‍👩‍👧", "❤️", "🇩🇪", "...", "<|endoftext|>"),
    *"\u200b\u200d\ufeff\u0301\u202e\t\n\x00\x85\u3000\ufe0f",
)
_PIECES = st.sampled_from([*_WORDS.split() * 2, *_SIGNS]) | st.characters(codec="utf-8")
_GLUED = st.tuples(_PIECES, st.sampled_from(["", " ", " ", " ", "  "])).map("".join)
_REPEATED = st.tuples(_PIECES, st.integers(1, 40)).map(lambda pair: f"{pair[0]} " * pair[1] + "cat")
TEXTS = st.one_of(st.lists(_GLUED, max_size=14).map("".join), _REPEATED, st.text(max_size=40))


def check_reading(text: str, parser: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parsed = parse(text, TOKENIZER, parser)
        except PromptError:
            return
    objects = [position for group in parsed.groups for position in group.object]
    assert len(objects) == len(set(objects))
    for word in (word for group in parsed.groups for word in (group.object, *group.modifiers)):
        assert set(word) <= set(parsed.tokens)
        assert parsed.text(*word) in parsed.prompt
        assert any(character.isalnum() for character in parsed.text(*word))
    for first, after, phrase in parsed.phrases:
        assert parsed.tokens[0] <= first < after <= parsed.tokens[-1] + 1
        assert phrase in parsed.prompt
    assert all(words.find(parsed, word.text) for word in words.words(parsed))


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )


@pytest.mark.slow
@pytest.mark.parametrize("parser", SMALL)
@fuzz(40)
@given(text=TEXTS)
def test_any_text_is_read_or_refused(parser: str, text: str) -> None:
    check_reading(text, parser)


@pytest.mark.slow
@pytest.mark.parametrize("parser", PARSERS)
@fuzz(250)
@given(text=TEXTS)
def test_any_text_is_read_or_refused_at_length(parser: str, text: str) -> None:
    check_reading(text, parser)


@pytest.mark.slow
@fuzz(80)
@given(text=TEXTS, cuts=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), min_size=1, max_size=4))
def test_words_of_any_text_are_assigned_or_refused(text: str, cuts: list[tuple[int, int]]) -> None:
    noun, *modifiers = (text[start : start + length] for start, length in cuts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parsed = parse(text, TOKENIZER, "rules", groups=[(noun, modifiers)])
        except PromptError:
            return
    (group,) = parsed.groups
    assert all(set(word) <= set(parsed.tokens) for word in (group.object, *group.modifiers))


def test_words_of_one_token_are_given_as_one() -> None:
    for words_given in ([("😂", ["😂"])], [("car", ["😂", "😂"])]):
        with pytest.raises(PromptError, match=r"share the token at position \d: give them as one word"):
            groups_from_words("a car 😂😂", words_given, TOKENIZER)


# A Doc, and a list of words


@cache
def model() -> Any:
    return pytest.importorskip("spacy").load(next(name for name in SMALL if name != "rules"))


def doc(text: str) -> Any:
    return model()(text)


@pytest.mark.slow
@pytest.mark.skipif(len(SMALL) < 2, reason="no spaCy model")
@pytest.mark.parametrize(
    "text",
    [
        "a red cafe\u0301 and a blue bowl",
        "  a  red\ncafe\u0301\tand\u00a0a blue bowl \n",
        "a red cafe\u0301 | a blue bowl 😂😂",
    ],
)
def test_a_doc_is_of_the_prompt_as_the_user_has_it(text: str) -> None:
    parsed = parse(text, TOKENIZER, doc(text))
    assert named(parsed) == [("café", ["red"]), ("bowl", ["blue"])]
    assert parsed.parser_name == "doc"
    with pytest.raises(PromptError, match="Doc"):
        parse(text.replace("blue", "green"), TOKENIZER, doc(text))


def test_words_with_their_heads_are_a_reading() -> None:
    prompt = "  the glorp,\nzib cafe\u0301 "
    listed = [
        ParsedWord("the", 2, 5, "DET", "det", 4),
        ParsedWord("glorp", 6, 11, "ADJ", "amod", 4),
        ParsedWord(",", 11, 12, "PUNCT", "punct", 4),
        ParsedWord("zib", 13, 16, "ADJ", "amod", 4),
        ParsedWord("cafe\u0301", 17, 22, "NOUN", "ROOT", 4),
    ]
    parsed = parse(prompt, TOKENIZER, listed)
    assert named(parsed) == [("café", ["glorp", "zib"])]
    assert parsed.parser_name == "words"
    assert parse("a red dog", TOKENIZER, rules.analyse("a red dog")).groups == (Group((3,), ((2,),)),)
    for wrong, message in (
        ([], "expected"),
        (["the"], "expected a list of ebama.prompt.objects.ParsedWord"),
        ([replace(listed[0], end=99, head=0)], "is no word of"),
        (listed[::-1], "is no word of"),
        ([*listed[:4], replace(listed[4], head=3)], "hangs on itself"),
        ([replace(listed[0], head=7)], "a head among the 1 words"),
        *(
            ([replace(listed[0], **{name: value}), *listed[1:]], "expected a list of ebama")  # type: ignore[arg-type]
            for name in ("text", "start", "end", "pos", "dep", "head")
            for value in (1.5, b"0", None, True, torch.ones(1))
        ),
    ):
        with pytest.raises(PromptError, match=message):
            parse(prompt, TOKENIZER, wrong)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the text encoder sees")
def test_messages_that_quote_a_long_prompt_are_one_short_line() -> None:
    prompt = f"a red car, {'mossy ' * 1500}".strip()
    for arguments in ({"groups": [("dog", [])]}, {"groups": "x" * 9000}, {"ignore": 9**999}, {"parser": "x" * 9000}):
        with pytest.raises(PromptError) as caught:
            parse(prompt, TOKENIZER, **{"parser": "rules", **arguments})
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) <= 1000


@pytest.mark.slow
def test_phrases_of_any_tree_leave_a_tree() -> None:
    rng = random.Random(0)
    names = ["a", "red", "colored", "rose", "sled", "orange", ",", "and", "wine"]
    for _ in range(2000):
        chosen = [rng.choice(names) for _ in range(rng.randint(1, 8))]
        heads = [rng.randint(0, i) for i in range(len(chosen))]  # a tree, whose numbers are then shuffled
        order = rng.sample(range(len(chosen)), len(chosen))
        head_of = {order[i]: order[head] for i, head in enumerate(heads)}
        listed, start = [], 0
        for i, name in enumerate(chosen):
            pos, dep = rng.choice(["NOUN", "VERB", "ADJ", "DET", "PUNCT"]), rng.choice(["amod", "nsubj", "conj", "det"])
            listed.append(ParsedWord(name, start, start + len(name), pos, dep, head_of[i]))
            start += len(name) + 1
        text = " ".join(chosen)
        assert [word.text for word in checked(with_noun_phrases(checked(listed, text)), text)] == chosen


def test_what_hangs_on_a_sign_hangs_on_its_head() -> None:
    listed = [
        ParsedWord("[", 0, 1, "X", "nmod", 3),
        ParsedWord("red", 1, 4, "ADJ", "amod", 0),
        ParsedWord("]", 4, 5, "X", "nmod", 3),
        ParsedWord("car", 6, 9, "NOUN", "ROOT", 3),
    ]
    assert named(parse("[red] car", TOKENIZER, listed)) == [("car", ["red"])]


@pytest.mark.parametrize("parser", SMALL)
def test_lines_and_lists_are_read_one_by_one(parser: str) -> None:
    for prompt in (
        "A cat\nA dog\nA red bird",
        "cat\r\ndog\n\n  red bird\n",
        "cat; dog; red bird",
        "- a cat\n- a dog\n- a red bird",
    ):
        assert [(noun.lower(), m) for noun, m in named(parse(prompt, TOKENIZER, parser))] == [
            *CAT_AND_DOG,
            ("bird", ["red"]),
        ]


@pytest.mark.parametrize("parser", SMALL)
def test_lines_of_prose_are_read_as_one_text(parser: str) -> None:
    for prompt in (
        "a cat and a red\nbird",
        "a cat next to\na red\nbird",
        "a cat that sits in the garden near an old stone\nbird and looks up",
    ):
        assert named(parse(prompt, TOKENIZER, parser)) == named(parse(prompt.replace("\n", " "), TOKENIZER, parser))


@pytest.mark.slow
@given(TEXTS)
def test_line_breaks_stand_where_spaces_do(text: str) -> None:
    assert with_line_breaks(text).replace("\n", " ") == normalised(text)


# Words for the picture itself


@pytest.mark.parametrize("parser", SMALL)
@pytest.mark.parametrize(
    ("prompt", "wanted", "with_all"),
    [
        ("a photo of a cat", ["cat"], ["photo", "cat"]),
        ("a Picture of a cat and a dog", ["cat", "dog"], ["Picture", "cat", "dog"]),
        ("an oil painting of a red car, digital art", ["car"], ["painting", "car", "art"]),
        ("photos of two cats", ["cats"], ["photos", "cats"]),
        ("a cat, oil painting", ["cat"], ["cat", "painting"]),
        ("an image showing a cat", ["cat"], ["image", "cat"]),
        ("a painting on a wall", ["painting", "wall"], ["painting", "wall"]),
        ("a picture frame and a cat", ["frame", "cat"], ["frame", "cat"]),
        ("a photo of", ["photo"], ["photo"]),
    ],
)
def test_words_for_the_picture_are_no_objects(parser: str, prompt: str, wanted: list[str], with_all: list[str]) -> None:
    assert [noun for noun, _ in named(parse(prompt, TOKENIZER, parser))] == wanted
    assert [noun for noun, _ in named(parse(prompt, TOKENIZER, parser, ignore=()))] == with_all


def test_what_is_not_seen_in_a_word_does_not_end_it() -> None:
    for sign in "\xad\u200c\u200d\u2060":
        prompt, word = f"a red ca{sign}t and a dog", f"ca{sign}t"
        parsed = parse(prompt, TOKENIZER, "rules", groups=[(word, ["red"])])
        assert parsed.text(*parsed.groups[0].object) == word


def test_marks_do_not_end_a_word() -> None:
    parsed = parse("a नमस्ते cat", TOKENIZER, "rules")
    assert [word.text for word in words.words(parsed)] == ["a", "नमस्ते", "cat"]
    with pytest.raises(ValueError, match="not among the words"):
        words.find(parsed, "नमस")


def test_a_phrase_of_its_own_may_be_ignored() -> None:
    for prompt, wanted in (("dog, a cat", ["cat"]), ("a cat. Dog", ["cat"]), ("a dog, a cat", ["dog", "cat"])):
        assert [noun for noun, _ in named(parse(prompt, TOKENIZER, "rules", ignore=["dog,"]))] == wanted


def test_who_is_in_the_picture_stays() -> None:
    for prompt, ignore, wanted in (
        ("a red fox's painting of a bird", None, ["fox", "bird"]),
        ("a child's toy and a ball", ["toy"], ["child", "ball"]),
        ("the king's crown and a ball", ["crown"], ["king", "ball"]),
        ("a girl's close-up portrait, hair", None, ["girl", "hair"]),
    ):
        options = {} if ignore is None else {"ignore": ignore}
        assert [noun for noun, _ in named(parse(prompt, TOKENIZER, "rules", **options))] == wanted


def test_any_word_may_be_ignored() -> None:
    prompt = "a red dog, a cat and a dog house"
    for ignore, wanted in (
        (["dog"], ["cat", "house"]),
        (["red Dog", "CAT"], ["house"]),
        (["dog house"], ["dog", "cat"]),
        (["dog", "cat", "house"], ["dog", "cat", "house"]),
        (["do", "", "elephant"], ["dog", "cat", "house"]),
    ):
        assert [noun for noun, _ in named(parse(prompt, TOKENIZER, "rules", ignore=ignore))] == wanted
    assert len(parse(prompt, TOKENIZER, "rules", groups=[("dog", [])], ignore=["dog"]).groups) == 1
    for written, ignored in (
        ("long‑sword", "long-sword"),
        ("long-sword", "long‑sword"),
        ("rock’n’roll", "rock'n'roll"),
    ):
        parsed = parse(f"a {written} and a cat", TOKENIZER, "rules", ignore=[ignored])
        assert [noun for noun, _ in named(parsed)] == ["cat"]
        assert groups_from_words(f"a {written}", [(ignored, [])], TOKENIZER) == [
            Group(align(f"a {written}", TOKENIZER).tokens[1:])
        ]
    for wrong in ("dog", [5]):
        with pytest.raises(PromptError, match="ignore="):
            parse(prompt, TOKENIZER, "rules", ignore=wrong)  # type: ignore[arg-type]


# Long prompts


@pytest.mark.slow
@pytest.mark.parametrize("parser", SMALL)
@pytest.mark.parametrize("prompt", ["a " + "mossy, " * 1300 + "red cat", "no cats" + " or cats" * 1200])
def test_what_goes_on_and_on_is_read(prompt: str, parser: str) -> None:
    with pytest.warns(UserWarning, match="does not see"):
        assert parse(prompt, TOKENIZER, parser, groups=[]).groups == ()


def test_what_describes_words_that_describe_is_looked_at_once() -> None:
    chain = [ParsedWord("x", 2 * i, 2 * i + 1, "NOUN", "compound", min(i + 1, 99)) for i in range(100)]
    modifiers = Tree(chain).modifiers()
    assert modifiers[99] == set(range(99))
    assert not any(modifiers[i] for i in range(99))


def test_no_stretch_of_signs_goes_on_for_long() -> None:
    for text in ("::" * 100, "a," * 100, "cat-" * 100 + "cat"):
        parted, indices = with_parted_words(text)
        assert max(map(len, parted.split())) <= 4
        assert "".join(parted.split()) == text
        assert "".join(text[i] for i in dict.fromkeys(indices)) == text
    assert with_parted_words("black-and-white cat, t-shirt")[0] == "black-and-white cat, t-shirt"


@pytest.mark.parametrize("before", range(66, 76))
def test_a_letter_that_is_seen_in_part_is_not_seen(before: int) -> None:
    prompt, words = "very " * before + "魑, 魅", [("魑", [])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if before > 72:  # it is three tokens
            with pytest.raises(PromptError, match="'魑' lies beyond the 75 tokens"):
                parse(prompt, TOKENIZER, "rules", groups=words)
            return
        parsed = parse(prompt, TOKENIZER, "rules", groups=words)
    assert set(parsed.groups[0].object) <= set(parsed.tokens)
    assert parsed.text(*parsed.groups[0].object) == "魑"


@pytest.mark.parametrize("letter", ["a", "a ", "漢", "😂", "("])
def test_prompts_are_bounded(letter: str) -> None:
    prompt = letter * 10**6
    for call in (lambda: parse(prompt, TOKENIZER), lambda: groups_from_words(prompt, [("a", [])], TOKENIZER)):
        with pytest.raises(
            PromptError, match=rf"^the prompt has {len(prompt):,} characters: expected at most {LONGEST:,}$"
        ):
            call()


@pytest.mark.parametrize(
    ("prompt", "lost"),
    [
        ("red," * 40, "red red"),
        ("very " * 72 + "much-loved, (cat)", "cat"),
        ("very " * 75 + "!!! ...", "!!! ..."),
        ("very " * 74 + "antidisestablishment", "antidisestablishment"),
        ("dog" * 80, None),
        ("very " * 73 + "魑魅", "魑魅"),  # whose letters are three tokens each
        ("very " * 70 + "魑, 魅", "魅"),
    ],
)
def test_the_warning_lists_only_words_that_are_not_seen(prompt: str, lost: str | None) -> None:
    with pytest.warns(UserWarning, match="it does not see: ") as caught:
        parse(prompt, TOKENIZER, "rules", groups=[])
    said = str(caught[0].message).partition("not see: ")[2]
    if lost is None:  # one word of many tokens is not shown from its beginning
        assert len(said) < 200
    else:
        assert said == lost


@pytest.mark.slow
def test_any_tree_stays_one() -> None:
    rng = random.Random(0)
    names = ["a", "red", "ball", "right", "left", "of", "next", "to", ",", "in", "smiling", "viewer", "at", "Man"]
    for _ in range(2000):
        texts = rng.choices(names, k=rng.randint(1, 9))
        order = rng.sample(range(len(texts)), len(texts))
        heads = {i: rng.choice(order[: k + 1]) for k, i in enumerate(order)}
        starts = [sum(len(text) + 1 for text in texts[:i]) for i in range(len(texts))]
        parsed = [
            ParsedWord(
                text,
                start,
                start + len(text),
                rng.choice(("NOUN", "ADJ", "VERB", "PROPN", "ADP", "PUNCT", "CCONJ")),
                rng.choice(("pobj", "amod", "compound", "conj")),
                heads[i],
            )
            for i, (text, start) in enumerate(zip(texts, starts, strict=True))
        ]
        assert checked(with_noun_phrases(parsed), " ".join(texts))
