"""Closed word lists of the built-in parser. A word in none of them, and with no telling ending, is a noun."""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = _words(
    "a an the this that these those some any each every another no both all either neither other my your his her "
    "its our their whose"
)
NUMBERS = _words(
    "one two three four five six seven eight nine ten eleven twelve thirteen dozen fifteen twenty thirty forty fifty "
    "hundred thousand several many few multiple various numerous"
)
SEQUENCES = _words("then afterward afterwards thereafter meanwhile")
CONJUNCTIONS = SEQUENCES | _words("and or & nor plus but vs versus")
PREPOSITIONS = _words(
    "with without in on at of by from to into onto over under above below beside besides near behind between "
    "among across through around against along alongside inside outside like as for during after before upon "
    "toward towards off beneath underneath within past per via atop amid amidst amongst beyond throughout aboard "
    "astride about down up out than while"
)
# Read as one preposition each, so that "front" and "top" are no objects.
PLACES = _words("left right front back top bottom middle center centre side foreground background distance")
COMPOUND_PREPOSITIONS = (
    *((place, "of") for place in ("left", "right")),
    *((to, place, "of") for to in ("in", "on", "to", "at") for place in sorted(PLACES)),
    *((to, "the", place, "of") for to in ("in", "on", "to", "at") for place in sorted(PLACES)),
    *(("next", "to"), ("close", "to"), ("because", "of"), ("instead", "of"), ("in", "place", "of"), ("how", "about")),
    *(("ahead", "of"), ("far", "from"), ("opposite", "to"), ("parallel", "to"), ("perpendicular", "to")),
)
# In "in the lower left corner" they name a place too, and in "on the far left" they describe one.
PARTS = PLACES | _words("corner edge half third quarter part")
SIDES = PLACES | _words("far very upper lower left-hand right-hand hand")
RELATIVES = _words("that which who")
PRONOUNS = _words(
    "i you he she it we they me him us them who which what itself himself herself themselves someone something "
    "somebody everyone everybody everything nobody nothing anyone anybody anything there"
)
# Some parsers call them nouns; they name nothing that can be drawn.
NO_NOUNS = DETERMINERS | PRONOUNS | _words("others dozen hundred thousand s xd lol thanks")
# Words that name nothing: of the classes that never grow.
FUNCTION_WORDS = (
    DETERMINERS
    | NUMBERS
    | CONJUNCTIONS
    | PREPOSITIONS
    | RELATIVES
    | PRONOUNS
    | _words("'s left right top bottom when where")
)
MODALS = _words("does do did can could will would may might must should")
AUXILIARIES = MODALS | _words("is are was were be been being am has have had")
CONTRACTIONS = {
    "can't": "can",
    "cannot": "can",
    "won't": "will",
    "'re": "are",
    "'m": "am",
    "'ve": "have",
    "'ll": "will",
    "'d": "would",
    "ain't": "is",
    "shan't": "will",
    "needn't": "must",
    "daren't": "might",
}
SUBJECTS = _words("i you he she it we they that which who there this what here")  # before a contracted "is"
COPULAS = _words(
    "is are was were be been being am look looks looked seem seems seemed appear appears become becomes became "
    "stay stays remain remains turn turns painted colored coloured dyed tinted stained"
)
ADVERBS = _words(
    "very really quite too so just only also almost rather slightly always still together apart away here back "
    "forward underwater overhead please nearby outdoors indoors upside somewhat extremely alone much more most less "
    "least well soon else"
)
PARTICLES = _words("'s not never")
# Some parsers hang them on nouns, which they do not describe.
NO_MODIFIERS = NUMBERS | DETERMINERS | SEQUENCES | _words("just only also even as s")

COLOURS = _words(
    "red orange yellow green blue purple pink brown gray grey black white beige teal tan violet indigo magenta "
    "cyan turquoise maroon crimson scarlet lavender golden silver gold bronze copper navy blond blonde colorful "
    "colourful multicolored multicoloured"
)
COLOURED_THINGS = _words("orange violet lavender gold silver")  # subjects: "an orange fell"
PLAIN_COLOURS = COLOURS - COLOURED_THINGS
ADJECTIVES = COLOURS | _words(
    # size, shape, age
    "big small little large huge tiny giant tall short long wide narrow thick thin fat slim flat round square "
    "curved straight sharp pointy spiky deep shallow high low heavy light old new young ancient modern vintage "
    "antique retro rustic "
    # surface, material, pattern
    "wooden woolen woollen metallic plastic electronic electric ceramic soft hard smooth rough shiny dull glossy "
    "matte fluffy furry hairy woolly fuzzy silky rusty dusty dirty clean muddy wet dry empty full broken torn "
    "frozen melted spotted checkered checked plaid dotted transparent clear opaque floral "
    # light and tone
    "bright dark pale vivid neon dim pastel "
    # state, manner, value
    "sleepy asleep awake angry happy sad hungry tired lazy cute pretty nice ugly fancy elegant plain simple "
    "beautiful funny silly scary creepy strange weird wild tame hot cold warm cool icy snowy sunny cloudy rainy "
    "foggy misty stormy open closed shut fresh ripe raw juicy sweet sour tasty crispy rotten skewered busy quiet "
    "calm rich poor free same different main single double upper lower left right front rear royal magic magical "
    "mystical medieval gothic futuristic realistic cinematic digital tropical urban rural human female male "
    "chubby skinny plump bald naked lush sleek cozy cosy messy tidy pristine spacious unique real fake stainless "
    "adorable majestic tabby fast slow frail quaint petite gaunt stout grim plush sullen sturdy stern brittle slender "
    "compact crude dense drab faint fierce firm gentle grand hollow humble intricate jagged lone loose mellow "
    "mild noble obese odd ornate proud rare rigid robust rugged savage serene severe sheer slick slanted solemn sparse "
    "splendid stark steep stiff subtle supple swift tender tense translucent tranquil vague vast vibrant wicked wise "
    "monochrome iridescent grotesque baroque minimalist abstract rectangular triangular circular oval "
    "hexagonal cylindrical squat strong weak crisp bent brave bold blunt bulky burly coarse cheap dainty damp dapper "
    "delicate eerie fair fine frosty glassy grassy great greasy gritty hardy harsh hefty keen lanky lavish lean leafy "
    "limp lively lofty lumpy marshy meek mighty mossy murky muscular neat nimble prickly puffy pure quick rapid rocky "
    "salty sandy shaggy shy sick silent slimy sloppy smart smoky snug soggy spicy spooky stale starry steady sticky "
    "stocky stony superb swampy timid tough tattered waxy weary windy wiry wobbly wrinkly ragged curly exotic gigantic "
    "historic athletic fantastic romantic scenic arctic organic massive expensive decorative festive ornamental "
    "traditional industrial coastal tribal geometric symmetrical spherical mechanical fragrant radiant brilliant "
    "pregnant violent luminescent lunar wintry whimsical ethereal moody dreamy wavy serpentine scaly crooked scruffy "
    "surreal melancholic enigmatic opulent regal bioluminescent phosphorescent fluorescent holographic pearlescent "
    "opalescent crystalline feathery leathery velvety glittery sparkly bubbly spindly elaborate dystopian utopian "
    "apocalyptic celestial cosmic galactic nocturnal aquatic volcanic desolate derelict sinister macabre gloomy dreary "
    "bleak stoic confident colossal immense chunky stubby lithe curvy teenage immaculate asymmetrical angular "
    "haggard intense morbid heroic dramatic epic dynamic nostalgic aesthetic artistic minimal sexy lanky barefoot "
    "autumnal arid barren verdant expressive emotional vertical horizontal minimalistic aerodynamic"
)

# Nouns that end as many adjectives do: "a puppy, red leaves", but "a chunky, glazed fisherman".
NOUNS_IN_Y = _words(
    "agency ally ancestry archery army artery artillery assembly baby bakery balcony battery belly berry biography "
    "blackberry blueberry body boundary brandy bravery brewery buddy bunny butterfly cabby caddy calligraphy canary "
    "candy canopy casualty cavalry cavity celebrity cemetery century charity chemistry cherry city clergy colony "
    "comedy company cookery copy country county cranberry curry cutlery daddy dairy daisy deity deputy diary "
    "dragonfly dynasty economy embassy embroidery emissary enemy energy entry eternity factory fairy family fantasy "
    "ferry finery firefly fly folly foundry frenzy galaxy gallery geography geometry glory granny gravy grocery gully "
    "gunnery harmony hatchery hickory history hobby holly husky identity industry infantry injury inventory itinerary "
    "ivory ivy jelly jetty jewelry jury kitty laboratory lady laundry lavatory liberty library lily livery lobby "
    "lorry luxury mahogany majesty masonry melody memory mercury ministry missionary mommy monastery mulberry mummy "
    "nanny navy nursery observatory orangery pansy pantry party pastry penny peony pharmacy philosophy photography "
    "piggy poetry pony poppy pottery poultry property puppetry puppy putty quarry query rally raspberry refinery "
    "remedy robbery rosemary ruby rugby s safety sanctuary scenery secretary security sentry shrubbery sky society "
    "spy stationery story strawberry surgery symmetry symphony taffy tannery tapestry teddy territory theory tracery "
    "treasury treaty trophy university upholstery utility vanity variety victory wallaby whisky winery worry"
)

DECADE = re.compile(r"(?:\d\d)?\d0s")  # an adjective: "a 1960s car"; no thing: "a car of the 1960s"

# Nouns that describe the next noun, and shades of a colour: an adjective after them goes on with their phrase.
ATTRIBUTES = _words(
    "baby toy wood marble velvet stone leather brick metal glass silk cotton steel iron brass paper wool fur concrete "
    "denim lace satin linen bamboo crystal rubber clay cardboard oak pine cedar walnut felt porcelain fleece tweed "
    "corduroy wicker rattan granite slate jade ebony chrome"
)
WITH_A_NOUN = _words(  # participles that describe with the noun before: "snow covered mountain", "a wall painted red"
    "colored coloured tinted stained painted covered framed plated lined filled shaped topped themed trimmed patterned "
    "dyed striped dotted eyed haired legged nosed faced inspired powered"
)
SHADES = _words(
    "sky-blue baby-blue powder-blue ice-blue midnight-blue ocean-blue royal-blue forest-green lime-green olive-green "
    "mint-green emerald-green sea-green rose-gold rose-pink salmon-pink snow-white jet-black coal-black pitch-black "
    "blood-red ruby-red cherry-red chocolate-brown charcoal-gray charcoal-grey"
)

# As with a hyphen between them.
JOINED = ("fire breathing", "eye catching", "mouth watering", "awe inspiring", "award winning")

# Adjectives that are nouns after another noun: "a street light".
NOUNS_TOO = _words(
    "light square round giant human male female left right front plastic ceramic gold silver bronze copper"
)
PLAIN_ADJECTIVES = ADJECTIVES - (NOUNS_TOO - COLOURS)

# Verbs by their base form; the rules add -s and -es.
VERBS = _words(
    "sit stand lie lay run walk jump fly ride drive hold carry wear eat drink play sleep rest look gaze stare "
    "chase catch throw kick hang lean wait swim climb sing dance smile laugh talk read write make take give get "
    "put bring pull push cut cook bake feature have contain include show depict float hover grow shine glow go "
    "come travel cross pose perch roam wander stretch reach surround fill adorn live fight flash contrast add "
    "match say see want need draw paint create generate imagine illustrate visualize visualise design let pour serve "
    "steal howl knit hug kiss build climb lift roar growl dive crawl sneak soar glide rise chew lick sip hide"
)
# A phrase that begins with them says what is done: "holding katana", unlike "floating island".
HANDLING = _words("holding wearing carrying wielding clutching grabbing hugging kissing chasing lifting raising eating")
REQUESTS = _words(
    "draw paint sketch create generate make show give imagine add put want need write design illustrate visualize "
    "visualise let see"
)  # of whoever draws
PAST_FORMS = _words(
    "sat stood ran flew rode drove held wore ate drank slept caught threw hung leant swam sang made took gave got "
    "brought shown worn written taken given built drawn grown eaten driven ridden held lay lain woven seen kept "
    "left fell cut overgrown hung clad named called titled labeled labelled"
)
PARTICIPLES = _words(  # after what they are said of: "a cabin lit by a lantern"
    "hidden thrown bitten shaken stolen beaten forgotten fallen flown blown known lit bought taught lost sent spent "
    "spilt burnt dug stuck struck swept slung strung laid fed shorn sewn sawn hewn strewn swollen sunk sunken shrunk "
    "backlit"
)

# Nouns that an ending or a verb list would take for something else.
NOUNS = _words(
    "bed shed sled seed weed reed speed steed moped hatred building ceiling painting wedding ring king string "
    "wing spring thing evening morning clothing railing earring pudding swing sling duckling gosling dumpling "
    "awning bedding frosting icing lightning topping seating siding parking dining shopping living drawing "
    "fencing flooring stocking viking family fly jelly belly lily butterfly dragonfly firefly bully holly trolley "
    "table cable fish starfish jellyfish goldfish catfish dish radish vegetable bible crucible mouthful handful "
    "spoonful octopus walrus cactus hippopotamus platypus stable lighting rendering shading tracing canvas "
    "lens atlas christmas icing lining scaffolding etching piercing engraving carving coating casing quilting netting "
    "stuffing filling sapling seedling yearling hatchling fledgling nestling starling herring decking "
    "wiring tubing bunting padding roofing rigging sibling bobsled dogsled thoroughbred purebred "
    "crossbred woodshed toolshed seaweed tumbleweed flatbed newlywed"
)
PLACES_IN_ING = _words(  # unless somebody does it: "a forest clearing in the sun", "a fox crossing under"
    "clearing crossing landing opening dwelling offering gathering meeting mooring outing coating serving drilling "
    "training banking reading writing viewing crossing hiding diving wedding"
)
PLURALS = _words(
    "people men women children mice geese sheep deer fish wolves knives flowers leaves blossoms lights shoes glasses "
    "boots clouds drops trees mountains petals bubbles eyes wings books fruits vegetables"
)
MEASURES = _words("size shape color colour height length width weight age")

# Words for the picture itself, not for anything in it: a "photo of" something, but a photo on a wall is an object.
_PICTURES = _words(
    "photo photograph picture image painting drawing sketch illustration depiction rendering render portrait print "
    "scene shot snapshot view close-up closeup watercolor watercolour cartoon collage style exposure selfie headshot"
)
# Before some of them stands who is in the picture: "tiger portrait", unlike "studio portrait".
AFTER_WHO_IS_SEEN = _words("portrait photo photograph image drawing sketch illustration cartoon selfie headshot")
BEINGS = _words(
    "man woman boy girl lady guy gentleman person king queen prince princess "
    "knight wizard witch warrior soldier samurai ninja pirate viking astronaut cowboy clown angel demon vampire "
    "zombie elf dwarf orc goblin fairy mermaid dragon unicorn robot cyborg android alien monk nun priest nurse "
    "doctor chef farmer sailor dancer ballerina bride groom geisha mother father grandmother grandfather cat "
    "kitten dog puppy bulldog corgi poodle retriever terrier shepherd husky wolf fox bear panda koala lion tiger "
    "leopard cheetah jaguar panther lynx elephant rhino rhinoceros hippo giraffe zebra horse pony foal donkey cow "
    "bull calf sheep lamb goat pig piglet deer fawn moose elk bison buffalo camel llama alpaca kangaroo monkey "
    "gorilla chimpanzee orangutan lemur sloth raccoon badger otter beaver squirrel chipmunk hedgehog rabbit bunny "
    "hare mouse rat hamster bat bird owl eagle hawk falcon raven crow parrot macaw peacock flamingo swan duck "
    "duckling goose chicken rooster hen penguin pelican heron stork pigeon dove sparrow robin hummingbird toucan "
    "ostrich turkey turtle tortoise lizard chameleon iguana gecko crocodile alligator snake frog toad fish "
    "goldfish shark whale dolphin orca seal walrus octopus jellyfish crab lobster spider bee butterfly moth "
    "dragonfly ladybug snail dinosaur"
)
_KINDS = _words(  # of pictures, but only where "of" follows
    "design mockup interior mugshot polaroid x-ray lithograph woodcut engraving etching linocut daguerreotype panorama "
    "doodle caricature blueprint thumbnail infographic storyboard"
)
QUALITIES = _words("masterpiece bokeh artstation hd uhd hdr 4k 8k")  # they begin a phrase of their own
PICTURES = _words("picture image photo photograph scene frame canvas view shot")
_VERY = ("ultra", "highly", "extremely", "hyper", "super", "photo")
_MADE = ("detailed", "realistic", "sharp", "hd")
_TOWARDS = ("at", "facing", "toward", "towards", "away from")  # whoever sees the picture
_SHOWING = _words("show depict feature portray capture contain display present showcase include")
_SEEN = _words("image photo photograph picture")  # whatever is in it is what is drawn
_OF = (" of", "s of", " showing", " depicting", " featuring", " capturing")
_OF_WHAT = ("with", "where", "that shows", "that captures", "in which")
_ARTICLES = ("a ", "an ", "the ", "this ")
_LENSES = (24, 35, 50, 85, 100, 135)
_A = ("", *_ARTICLES)
PICTURE_WORDS = (
    frozenset(f"{word}{verb}" for word in _PICTURES | _KINDS for verb in _OF)
    | frozenset(f", {a}{word} {verb}s" for word in _SEEN | {"scene"} for a in _ARTICLES for verb in _SHOWING)
    | frozenset(f", {a}{word} {verb.removesuffix('e')}ing" for word in _SEEN for a in _A for verb in _SHOWING)
    | frozenset(f", {word} {what}" for word in _SEEN for what in _OF_WHAT)
    | frozenset(f". {a}{word} {what}" for word in _SEEN for a in _ARTICLES for what in _OF_WHAT)
    | frozenset(f", {the} {word} is" for word in _SEEN | {"scene"} for the in ("the", "this"))
    | frozenset(f", in {the} {word}" for word in _SEEN for the in ("this", "the"))
    | frozenset(("in the scene", "in this scene"))
    | frozenset(f"{subject} of the {word}" for word in _SEEN for subject in ("main subject", "subject", "focus"))
    | frozenset(f"{kind} {word}" for kind in ("oil", "digital", "acrylic", "matte") for word in ("painting", "drawing"))
    | frozenset(f"{kind} art" for kind in ("digital", "concept", "pixel", "line", "fan", "vector"))
    | frozenset(
        ("studio ghibli style", "unreal engine 5", "octane render", "unreal engine", "depth of field", "oil on canvas")
    )
    | frozenset(f"{kind} {what}" for kind in ("high", "best", "top") for what in ("quality", "resolution", "detail"))
    | frozenset(f"{how}{sign}{what}" for how in _VERY for sign in " -" for what in _MADE)
    | frozenset(("very aesthetic", "high score,", "great score,", *(f"year {year}" for year in range(2005, 2027))))
    | frozenset(f"{kind} photo" for kind in ("raw", "analog", "stock", "dslr", "4k", "8k", "hd"))
    | frozenset(f"{kind} wallpaper" for kind in ("4k", "8k", "hd", "desktop", "phone"))
    | frozenset(f"{kind} sheet" for kind in ("character", "model", "reference", "sprite"))
    | frozenset(f"{kind} lighting" for kind in ("studio", "cinematic", "dramatic", "volumetric", "soft", "natural"))
    | frozenset(f"{kind} style" for kind in ("anime", "manga", "cartoon", "comic", "pixar", "disney", "ghibli"))
    | frozenset(f"...{word}," for word in (_PICTURES | {"lighting"}) - _words("painting picture print scene collage"))
    | frozenset(f"{word}," for word in ("anime", "manga", "screenshot", "screencap"))
    | frozenset(f"black and white {word}," for word in AFTER_WHO_IS_SEEN)
    | frozenset(f"{word}," for word in ("solo", "upper body", "full body", "3d", "subject", "objects", "isometric"))
    | frozenset(f"{length}{mm}{what}," for length in _LENSES for mm in ("mm", " mm") for what in ("", " lens", " film"))
    | frozenset(f"{kind} of" for kind in ("close up", "screenshot", "screencap", "cover art", "comic strip"))
    | frozenset(f"{kind}still of" for kind in ("", "film ", "movie ", "video ", "cinematic "))
    | frozenset(f"{kind} shot of" for kind in ("drone", "product", "aerial", "action", "wide", "macro"))
    | frozenset((", canon...", ", nikon...", ", sony alpha...", ", leica...", "dslr,", "octane,", "vray,"))
    | frozenset(("sharp focus", "intricate details", "film grain", "ray tracing", "bird's eye view of", "flat lay"))
    | frozenset(("award winning", "paper cut", "comic panel", "comic book panel", "children's book illustration"))
    | frozenset(f"{word} by..." for word in (*_PICTURES, *_words("art artwork photography painted drawn illustrated")))
    | frozenset((", by...", "art in the style of...", "in the style of...", "trending on artstation", ", shot on..."))
    | frozenset(f"{how} {the}{who}" for how in _TOWARDS for the in ("", "the ") for who in ("viewer", "camera"))
    | frozenset(f"a {amount} of" for amount in ("lot", "pair", "couple", "kind", "variety", "number", "bit"))
    | frozenset(("lots of", "plenty of", "all kinds of", "kodak portra", "kodak gold", "fujifilm"))
    | frozenset(
        f"close{sign}up {what}" for sign in " -" for what in ("photo", "photograph", "portrait", "shot", "view")
    )
    | frozenset(f"{kind}{what}:" for kind in ("", "color ", "colour ") for what in ("palette", "scheme", "grading"))
    | frozenset(f"{main} {what}:" for main in ("main", "primary") for what in ("subject", "object", "request", "focus"))
    | frozenset(("scene/background:", "camera angle:", "aspect ratio:", "art style:", "image description:"))
    | _words(
        "location: camera: mood: composition: setting: environment: resolution: medium: atmosphere: perspective: "
        "quality: details: texture: tone: theme: style: description: request: constraints: notes: avoid: "
        "angle: framing: format: lens: time: weather: technique: genre: emotion: title: output: answer: tags: "
        "keywords: user: assistant:"
    )
    | frozenset(f"{part} {n}:" for part in ("figure", "scene", "panel", "shot", "frame", "image") for n in range(1, 10))
    | _words("artwork photography art, absurdres highres photorealistic hyperrealistic")
    | QUALITIES
)
