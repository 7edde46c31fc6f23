"""Special tokens of the tiny models, and how many stand for an image."""

from research.tiny import world

PATCH, SCALE = 8, 2
IMAGE_TOKENS = (world.SIZE // PATCH // SCALE) ** 2

PAD, END, USER, ASSISTANT = "<pad>", "<|end|>", "<|user|>", "<|assistant|>"
IMAGE, FAKE, GLOBAL = "<image>", "<fake_token_around_image>", "<global-img>"
SPECIAL = (PAD, END, USER, ASSISTANT, IMAGE, FAKE, GLOBAL, "<end_of_utterance>")
